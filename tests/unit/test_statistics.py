"""Comparisons of arms: against SciPy and scikit-learn, and in simulated studies whose truth is known.

S seeds, N examples, C classes.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats  # type: ignore[import-untyped]
from sklearn import metrics as sk  # type: ignore[import-untyped]

from expressnet_jax.evaluation.metrics import wilson_interval
from expressnet_jax.evaluation.statistics import compare, mcnemar, mean_intervals

# No deadline: on a busy machine an example's time says nothing.
quick = settings(deadline=None, max_examples=40)
FIGURES = ["accuracy", "mean_class_accuracy", "macro_f1"]


# ---- McNemar's test


def networks(only_first, only_second, same=3):
    """Two networks' right answers (N,) with these numbers of examples that only the one got right."""
    first = np.repeat([True, False, True, False], [only_first, only_second, same, same])
    second = np.repeat([False, True, True, False], [only_first, only_second, same, same])
    return first, second


@quick
@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_the_exact_binomial_test(only_first, only_second):
    result = mcnemar(*networks(only_first, only_second))
    assert (result["only_first"], result["only_second"]) == (only_first, only_second)
    pairs = only_first + only_second
    expected = stats.binomtest(only_first, pairs).pvalue if pairs else 1.0
    assert result["p_value"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("only_first", "only_second"), [(200_000, 199_000), (5_000, 5_300), (1_030, 0), (7, 7)])
def test_mcnemar_holds_for_counts_whose_powers_of_two_do_not_fit_a_float(only_first, only_second):
    expected = stats.binomtest(only_first, only_first + only_second).pvalue
    assert mcnemar(*networks(only_first, only_second))["p_value"] == pytest.approx(expected, rel=1e-7)


# ---- two arms


def study(rng, arms, seeds, examples, spread, gain=0.0):
    """Right answers (S, N) of arms that are all alike, but for the last, which is better by `gain` in accuracy.

    Examples differ in difficulty (logit normal, sd 2, about 58 % right); seeds differ by `spread` in accuracy, as a
    standard deviation; and beyond that each network is right about each example by chance.
    """
    ease = rng.normal(0.45, 2, examples)
    slope = np.mean(special.expit(ease) * special.expit(-ease))  # of the accuracy over a shift of all logits
    shift = rng.normal(0, spread / slope, (arms, seeds, 1))
    # The shift that adds exactly `gain`, as far as a straight line goes.
    shift[-1] += gain / slope
    return rng.random((arms, seeds, examples)) < special.expit(ease + shift)


def reference(arm, baseline, comparisons=1, alpha=0.05):
    """(centre, standard error, degrees of freedom, interval, p) as the docstring of `compare` has them, with SciPy."""
    (ours, examples), theirs = arm.shape, len(baseline)
    each = arm.mean(axis=0) - baseline.mean(axis=0)
    padded = examples / (examples + 2)
    v = [each.var(ddof=1) / examples + 2 / examples**2]
    v += [stats.sem(right.mean(axis=1)) ** 2 for right in (arm, baseline)]
    f = [examples - 1, ours - 1, theirs - 1]
    freedom = min(sum(v) ** 2 / sum(x * x / y for x, y in zip(v, f, strict=True)), 3 * min(f[1:]))
    t = stats.t(freedom, loc=each.mean() * padded, scale=math.sqrt(sum(v)))
    level = alpha / comparisons
    p_value = min(1, comparisons * 2 * min(t.cdf(0), t.sf(0)))
    return t.mean(), math.sqrt(sum(v)), freedom, np.clip([t.ppf(level / 2), t.isf(level / 2)], -1, 1), p_value


@quick
@given(
    st.integers(0, 10**6), st.integers(2, 6), st.integers(2, 6), st.sampled_from([5, 60, 700]), st.integers(1, 20),
    st.sampled_from([0.01, 0.05, 0.3]), st.sampled_from([0, 0.05, 0.3]),
)  # fmt: skip
def test_comparison_is_that_of_students_t(number, ours, theirs, examples, comparisons, alpha, gain):
    baseline, arm = study(np.random.default_rng(number), 2, max(ours, theirs), examples, 0.01, gain)
    arm, baseline = arm[:ours], baseline[:theirs]
    result = compare(arm, baseline, comparisons, alpha)
    *_, interval, p_value = reference(arm, baseline, comparisons, alpha)
    assert result["difference"] == pytest.approx(sum(arm.mean(1)) / ours - sum(baseline.mean(1)) / theirs)
    assert result["interval"] == pytest.approx(interval, rel=1e-8, abs=1e-12)
    assert result["p_value"] == pytest.approx(p_value, rel=1e-8, abs=1e-14)

    low, high = result["interval"]
    assert low <= result["difference"] <= high
    assert (result["p_value"] < alpha) == (low > 0 or high < 0)
    word = "better" if low > 0 else "worse" if high < 0 else "no difference shown"
    assert result["verdict"] == word

    turned = compare(baseline, arm, comparisons, alpha)
    assert turned["interval"] == pytest.approx((-high, -low), abs=1e-12)
    assert turned["verdict"] == {"better": "worse", "worse": "better"}.get(word, word)


def test_standard_error_is_that_of_a_bootstrap_over_seeds_and_examples():
    baseline, arm = study(np.random.default_rng(0), 2, 3, 500, 0.01)
    rng, draws = np.random.default_rng(1), 20_000
    values = np.zeros(draws)
    for sign, right in ((1, arm), (-1, baseline)):
        accuracy = right.mean(axis=1)
        # 3 seeds drawn from 3 vary too little by (S - 1) / S.
        means = accuracy[rng.integers(0, 3, (draws, 3))].mean(axis=1)
        values += sign * math.sqrt(3 / 2) * (means - accuracy.mean())
    each = arm.mean(axis=0) - baseline.mean(axis=0)
    values += each[rng.integers(0, 500, (draws, 500))].mean(axis=1)
    error = reference(arm, baseline)[1]
    assert math.sqrt(error**2 - 2 / 500**2) == pytest.approx(values.std(), rel=0.03)


def false_alarms(number, studies, comparisons, seeds, examples, spread):
    """The share of studies of identical arms in which any arm is called better or worse than the baseline."""
    rng = np.random.default_rng(number)
    wrong = 0
    for _ in range(studies):
        baseline, *arms = study(rng, comparisons + 1, seeds, examples, spread)
        verdicts = [compare(arm, baseline, comparisons)["verdict"] for arm in arms]
        wrong += any(verdict in ("better", "worse") for verdict in verdicts)
    return wrong / studies


@pytest.mark.parametrize("examples", [1000, 2800])
@pytest.mark.parametrize("spread", [0, 0.005, 0.01, 0.05], ids=lambda spread: f"seeds differ by {spread}")
def test_identical_arms_are_seldom_called_different(spread, examples):
    assert false_alarms(0, 200, 1, 3, examples, spread) <= 0.05


@pytest.mark.parametrize("spread", [0, 0.01, 0.03], ids=lambda spread: f"seeds differ by {spread}")
def test_none_of_eight_identical_arms_is_called_different(spread):
    assert false_alarms(1, 200, 8, 3, 1000, spread) <= 0.05


@pytest.mark.parametrize(("seeds", "examples", "spread"), [(2, 1000, 0.03), (5, 1000, 0.03), (3, 20, 0.01)])
def test_false_alarms_stay_rare_with_few_seeds_and_few_examples(seeds, examples, spread):
    assert false_alarms(2, 800, 1, seeds, examples, spread) <= 0.05


def test_two_seeds_that_agree_by_chance_do_not_make_eight_arms_differ():
    # Without the bound on the degrees of freedom, about 1 study in 9 has a false alarm here.
    assert false_alarms(3, 300, 8, 2, 1000, 0.035) <= 0.05


@pytest.mark.parametrize(("gain", "comparisons", "least"), [(0.05, 1, 0.9), (-0.05, 1, 0.9), (0.05, 8, 0.5)])
def test_a_difference_of_five_points_is_found_with_three_seeds(gain, comparisons, least):
    rng = np.random.default_rng(4)
    results = [compare(*study(rng, 2, 3, 2000, 0.005, gain)[::-1], comparisons) for _ in range(200)]
    word = "better" if gain > 0 else "worse"
    assert np.mean([result["verdict"] == word for result in results]) > least
    # The interval holds the true difference, not merely something other than 0.
    within = [result["interval"][0] < gain < result["interval"][1] for result in results]
    assert np.mean(within) >= 0.95


@pytest.mark.parametrize(("ours", "theirs"), [(1, 3), (3, 1), (1, 1)])
def test_one_seed_is_not_enough(ours, theirs):
    result = compare(np.ones((ours, 40), bool), np.zeros((theirs, 40), bool))
    assert result == {"difference": 1.0, "interval": None, "p_value": None, "verdict": "not enough runs"}


def test_a_handful_of_examples_proves_nothing_and_equal_answers_differ_by_nothing():
    few = compare(np.ones((3, 4), bool), np.zeros((3, 4), bool))
    assert few["difference"] == 1 and few["verdict"] == "no difference shown"
    right = np.arange(300).reshape(3, 100) % 3 > 0
    low, high = (same := compare(right, right))["interval"]
    assert same["difference"] == 0 and same["p_value"] == 1 and low == -high < 0


# ---- one arm

PRIOR, EASE = np.array([0.8, 0.2]), np.array([1.5, -0.5])  # of each class: its share, and how easy it is


def answers(rng, seeds, examples, spread):
    """Predictions (S, N) and labels (N,) of 2 unequal classes; seeds differ by `spread`, in logits."""
    labels = rng.choice(2, examples, p=PRIOR)
    ease = rng.normal(0, 2, examples) + EASE[labels]
    shift = rng.normal(0, spread, (seeds, 1))
    right = rng.random((seeds, examples)) < special.expit(ease + shift)
    return np.where(right, labels, 1 - labels), labels


def truth(spread):
    """The figures that `answers` has on average over endlessly many examples and seeds."""
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    recall = special.expit(EASE[:, None, None] + 2 * points + spread * points[:, None]) @ weights  # (C, shifts)
    right, wrong = PRIOR[:, None] * recall, PRIOR[:, None] * (1 - recall)
    f1 = 2 * right / (PRIOR[:, None] + right + wrong[::-1])
    return dict(zip(FIGURES, (right.sum(0) @ weights, recall.mean(0) @ weights, f1.mean(0) @ weights), strict=True))


@quick
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(2, 30), st.integers(2, 7))
def test_values_are_scikit_learns(number, seeds, examples, classes):
    rng = np.random.default_rng(number)
    predictions, labels = rng.integers(0, classes, (seeds, examples)), rng.integers(0, classes, examples)
    result = mean_intervals(predictions, labels, classes)
    expected = {
        "accuracy": [sk.accuracy_score(labels, guess) for guess in predictions],
        # Not balanced_accuracy_score, which warns of classes that are predicted but never true.
        "mean_class_accuracy": [
            sk.recall_score(labels, guess, labels=np.unique(labels), average="macro") for guess in predictions
        ],
        "macro_f1": [sk.f1_score(labels, guess, average="macro") for guess in predictions],
    }
    assert list(result) == FIGURES
    for name, figure in result.items():
        assert figure["values"] == pytest.approx(expected[name])
        assert figure["mean"] == pytest.approx(np.mean(expected[name]))
        assert figure["over"] == ("seeds and examples" if seeds > 1 else "examples")
        assert figure["std"] == (pytest.approx(np.std(expected[name], ddof=1)) if seeds > 1 else None)
        low, high = figure["interval"]
        assert 0 <= low <= figure["mean"] + 1e-12 and figure["mean"] - 1e-12 <= high <= 1 and low < high


@pytest.mark.parametrize("spread", [0.05, 0.4], ids=["seeds much alike", "seeds far apart"])
def test_intervals_of_three_seeds_hold_the_truth(spread):
    rng, expected = np.random.default_rng(5), truth(spread)
    results = [mean_intervals(*answers(rng, 3, 500, spread), 2) for _ in range(150)]
    for name in FIGURES:
        low, high = np.transpose([result[name]["interval"] for result in results])
        held = np.mean((low < expected[name]) & (expected[name] < high))
        assert held >= 0.9, name
        # Not by being endlessly wide: less than 2.5 times what would do if the spread of the means were known.
        means = [result[name]["mean"] for result in results]
        assert 1 < np.mean(high - low) / (2 * 1.96 * np.std(means)) < 2.5, name


def test_interval_of_one_seed_is_wilsons():
    predictions, labels = answers(np.random.default_rng(6), 1, 800, 0.1)
    low, high = mean_intervals(predictions, labels, 2)["accuracy"]["interval"]
    expected = wilson_interval(int((predictions == labels).sum()), 800)
    assert (low, high) == pytest.approx(expected, abs=0.002)
    assert high - low == pytest.approx(expected[1] - expected[0], rel=0.05)


@pytest.mark.parametrize(("seeds", "freedom"), [(1, 39), (3, 6)])
def test_interval_has_a_width_even_where_every_answer_is_right(seeds, freedom):
    labels = np.arange(40) % 4
    interval = mean_intervals(np.tile(labels, (seeds, 1)), labels, 4)["accuracy"]["interval"]
    assert interval == pytest.approx((1 / (1 + stats.t.isf(0.025, freedom) ** 2 / 40), 1))


# Worked by hand. Seeds all alike, right on the first 600 of 1000 examples: the variance is 0.24 / 1000, and the
# degrees of freedom are 3 * 2. Seeds right on the first 500, 600 and 700: that of the examples is 0.1956 / 1000 and
# that of the seeds 0.01 / 3, and the square of the sum over (0.1956e-3)^2 / 999 + (0.01 / 3)^2 / 2 is 2.24.
@pytest.mark.parametrize(
    ("shares", "variance", "freedom"), [([0.6, 0.6, 0.6], 0.24e-3, 6), ([0.5, 0.6, 0.7], 0.1956e-3 + 0.01 / 3, 2.2415)]
)
def test_seeds_that_differ_widen_the_interval(shares, variance, freedom):
    guesses = (np.arange(1000) >= 1000 * np.array(shares)[:, None]).astype(int)
    low, high = mean_intervals(guesses, np.zeros(1000, int), 2)["accuracy"]["interval"]
    t = stats.t.isf(0.025, freedom)
    # Wilson's interval: a little narrower than t standard errors to each side.
    expected = 2 * t * math.sqrt(variance + t * t / 4e6) / (1 + t * t / 1000)
    assert high - low == pytest.approx(expected, rel=0.03)


def test_intervals_are_the_same_each_time():
    predictions, labels = answers(np.random.default_rng(7), 3, 100, 0.2)
    assert mean_intervals(predictions, labels, 2) == mean_intervals(predictions, labels, 2)


# ---- bad input


def test_what_cannot_be_compared_is_refused():
    right = np.ones((3, 10), bool)
    with pytest.raises(ValueError, match="10 and 9 examples"):
        mcnemar(right[0], right[0, :9])
    with pytest.raises(ValueError, match="10 and 9 examples"):
        compare(right, right[:, :9])
    with pytest.raises(ValueError, match=r"int64 of shape \(3, 10\): needs bool of shape \(S, N\)"):
        compare(right.astype(np.int64), right)
    with pytest.raises(ValueError, match=r"bool of shape \(10,\): needs bool of shape \(S, N\)"):
        compare(right, right[0])
    with pytest.raises(ValueError, match="0 seeds and 10 examples"):
        compare(right, right[:0])
    with pytest.raises(ValueError, match="3 seeds and 1 examples"):
        compare(right[:, :1], right[:, :1])
    with pytest.raises(ValueError, match="0 comparisons"):
        compare(right, right, 0)
    with pytest.raises(ValueError, match="alpha 5"):
        compare(right, right, alpha=5)


def test_answers_that_are_no_classes_are_refused():
    guesses, labels = np.zeros((2, 5), int), np.zeros(5, int)
    with pytest.raises(ValueError, match=r"need \(S, N\) and \(N,\)"):
        mean_intervals(guesses, labels[:4], 3)
    with pytest.raises(ValueError, match="labels of type float64"):
        mean_intervals(guesses, labels.astype(float), 3)
    with pytest.raises(ValueError, match="predictions from 0 to 0: 0 classes"):
        mean_intervals(guesses, labels, 0)
    with pytest.raises(ValueError, match="predictions from 3 to 3: 3 classes are 0 to 2"):
        mean_intervals(guesses + 3, labels, 3)
    with pytest.raises(ValueError, match="0 seeds and 5 examples"):
        mean_intervals(guesses[:0], labels, 3)
