"""The figures of a confusion matrix, against scikit-learn's from the labels themselves."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk  # type: ignore[import-untyped]

from expressnet_jax.evaluation.metrics import summarize, wilson_interval
from expressnet_jax.evaluation.of_run import text_of

NAMES = ["anger", "contempt", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"]

# scikit-learn warns of single labels and of classes that are predicted but never true: both are meant here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:sklearn")
# No deadline: on a busy machine an example's time says nothing.
quick = settings(deadline=None, max_examples=60)


@st.composite
def labelled(draw):
    """(number of classes, truth, prediction): few examples of many classes, so that classes are often absent."""
    size = draw(st.integers(1, len(NAMES)))
    pair = st.tuples(st.integers(0, size - 1), st.integers(0, size - 1))
    pairs = draw(st.lists(pair, min_size=1, max_size=60))
    truth, guess = np.array(pairs).T
    return size, truth, guess


def summary_of(size, truth, guess):
    return summarize(sk.confusion_matrix(truth, guess, labels=range(size)), NAMES[:size])


@quick
@given(labelled())
def test_headline_figures_are_those_of_scikit_learn(data):
    size, truth, guess = data
    summary = summary_of(size, truth, guess)
    assert summary["accuracy"] == pytest.approx(sk.accuracy_score(truth, guess))
    assert summary["mean_class_accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, guess))
    assert summary["macro_f1"] == pytest.approx(sk.f1_score(truth, guess, average="macro", zero_division=0))
    assert summary["examples"] == len(truth)


@quick
@given(labelled())
def test_per_class_figures_are_those_of_scikit_learn(data):
    size, truth, guess = data
    expected = sk.precision_recall_fscore_support(truth, guess, labels=range(size), zero_division=0)
    per_class = summary_of(size, truth, guess)["per_class"]
    assert list(per_class) == NAMES[:size]
    for key, values in zip(("precision", "recall", "f1", "examples"), expected, strict=True):
        assert [per_class[name][key] for name in NAMES[:size]] == pytest.approx(list(values))


@quick
@given(labelled(), st.integers(1, 5))
def test_counts_of_shards_add_up_to_the_whole(data, shards):
    size, truth, guess = data
    total = np.zeros((size, size), np.int64)
    for part in np.array_split(np.arange(len(truth)), shards):
        if part.size:  # scikit-learn refuses an empty shard
            total += sk.confusion_matrix(truth[part], guess[part], labels=range(size))
    assert summarize(total, NAMES[:size]) == summary_of(size, truth, guess)


@quick
@given(labelled(), st.randoms())
def test_the_order_of_the_classes_changes_no_figure(data, random):
    size, truth, guess = data
    order = list(range(size))
    random.shuffle(order)
    counts = sk.confusion_matrix(truth, guess, labels=range(size))
    one = summarize(counts, NAMES[:size])
    other = summarize(counts[np.ix_(order, order)], [NAMES[i] for i in order])
    assert one["per_class"] == other["per_class"]
    for key in ("accuracy", "mean_class_accuracy", "macro_f1"):
        assert one[key] == pytest.approx(other[key])


def test_a_worked_example():
    # 4 of 5 cats right, 1 of 2 dogs right; no bird occurs, but one dog is taken for one.
    summary = summarize([[4, 1, 0], [0, 1, 1], [0, 0, 0]], ["cat", "dog", "bird"])
    assert summary["accuracy"] == pytest.approx(5 / 7)
    assert summary["mean_class_accuracy"] == pytest.approx((4 / 5 + 1 / 2) / 2)
    assert summary["macro_f1"] == pytest.approx((8 / 9 + 1 / 2 + 0) / 3)
    assert summary["per_class"]["dog"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "examples": 2}


def test_a_class_that_never_occurs_leaves_the_means_alone():
    counts = np.array([[3, 1], [1, 2]])
    wider = summarize(np.pad(counts, (0, 1)), ["a", "b", "c"])
    plain = summarize(counts, ["a", "b"])
    for key in ("accuracy", "mean_class_accuracy", "macro_f1", "examples"):
        assert wider[key] == plain[key]


def test_no_examples_at_all():
    summary = summarize(np.zeros((2, 2), int), ["a", "b"])
    assert [summary[key] for key in ("accuracy", "mean_class_accuracy", "macro_f1", "examples")] == [0, 0, 0, 0]
    assert summary["accuracy_interval"] == [0, 1]
    assert "examples             0" in text_of("metrics", summary)


def test_json_gives_the_summary_back():
    summary = summarize(np.array([[3, 1], [1, 2]], np.int32), ("a", "b"))
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["confusion"] == [[3, 1], [1, 2]]


def test_counts_beyond_what_32_bits_hold():
    summary = summarize(np.array([[2**31 - 1, 0], [2**31 - 1, 0]], np.int32), ["a", "b"])
    assert summary["examples"] == 2**32 - 2
    assert summary["accuracy"] == 0.5
    assert summary["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


@pytest.mark.parametrize(
    ("confusion", "classes", "message"),
    [
        ([[1, 2], [3, 4]], ["a", "b", "c"], r"shape \(2, 2\), but 3 classes need \(3, 3\)"),
        ([[1, 2, 3], [4, 5, 6]], ["a", "b"], r"shape \(2, 3\), but 2 classes"),
        ([[1, 0], [-7, 2]], ["a", "b"], r"confusion\[1, 0\] is -7"),
        ([[1.5, 0], [0, 2]], ["a", "b"], "float64"),
        ([[1, 0], [0, 2]], ["a", "a"], "2 classes, but only 1 different"),
        (np.zeros((0, 0), int), [], "at least 1 class, got 0"),
    ],
)
def test_errors_carry_the_numbers(confusion, classes, message):
    with pytest.raises(ValueError, match=message):
        summarize(confusion, classes)


# Newcombe (1998), "Two-sided confidence intervals for the single proportion", method 3.
@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_against_published_values(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


@quick
@given(st.integers(1, 10**6), st.data())
def test_wilson_interval_holds_its_proportion_and_is_symmetric(trials, data):
    successes = data.draw(st.integers(0, trials))
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials + 1e-12
    assert successes / trials - 1e-12 <= high <= 1
    assert wilson_interval(trials - successes, trials) == pytest.approx((1 - high, 1 - low))
    assert high > low and not math.isnan(low + high)


def test_wilson_interval_refuses_more_successes_than_trials():
    with pytest.raises(ValueError, match="5 successes of 4 trials"):
        wilson_interval(5, 4)


def test_description_gives_figures_and_lines_up_its_columns():
    text = text_of(
        "metrics", summarize([[900, 100, 0], [50, 450, 0], [0, 0, 0]], ["happiness", "fear", "a very long class name"])
    )
    assert "90.00 %" in text and "1,500" in text and "a very long class name" in text
    low, high = wilson_interval(1350, 1500)
    assert f"{100 * low:.2f} % to {100 * high:.2f} %" in text
    _, per_class, confusion = text.split("\n\n")
    for table in (per_class.splitlines(), confusion.splitlines()[1:]):
        assert len({len(line) for line in table}) == 1
        assert len(table) == 4
