"""What answers tell beyond accuracy, against scikit-learn, SciPy and counts by hand."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]
from scipy.special import softmax  # type: ignore[import-untyped]
from sklearn import metrics as sk  # type: ignore[import-untyped]

from expressnet_jax.evaluation import depth
from expressnet_jax.evaluation.answers import Answers
from expressnet_jax.evaluation.of_run import text_of

quick = settings(deadline=None, max_examples=60)
NAMES = ("anger", "contempt", "disgust", "fear", "happiness")
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:sklearn"),
    pytest.mark.filterwarnings("ignore::scipy.stats.ConstantInputWarning"),
]


def answers(seed=0, n=150, lacking=(), voters=0, scale=2.0):
    """A network that knows something; people's votes scatter about the label."""
    rng = np.random.default_rng(seed)
    c = len(NAMES)
    known = np.setdiff1d(np.arange(c), lacking)
    label = rng.choice(known, n)
    logits = scale * (rng.normal(size=(2, n, c)) + np.eye(c)[label])
    logits[:, :, list(lacking)] = -np.inf
    votes = None
    if voters:
        chance = np.zeros((n, c))
        chance[:, known] = 0.4 / len(known)
        chance[np.arange(n), label] += 0.6
        counts = rng.multinomial(voters, chance)
        votes = (counts / voters).astype(np.float32)
    return Answers(NAMES, np.arange(n, dtype=np.int32), label.astype(np.int32), *logits.astype(np.float32), {}, votes)


def depth_of(given, fitted=None, leaked=None):
    return depth.of(given, fitted=fitted and ("fer2013/train (held out)", fitted), leaked=leaked)


def asked(p, votes, label=None):
    """Answers with probabilities (N, 5), and votes on them."""
    with np.errstate(divide="ignore"):
        logits = np.log(np.asarray(p, np.float64)).astype(np.float32)
    label = logits.argmax(1) if label is None else np.asarray(label)
    index = np.arange(len(logits), dtype=np.int32)
    return Answers(NAMES, index, label.astype(np.int32), logits, logits, {}, np.asarray(votes, np.float32))


def test_what_is_not_known_is_null():
    found = depth_of(answers())
    assert found["duplicates"] is None and found["votes"] is None
    assert found["calibration"]["temperature"] is found["calibration"]["after"] is None
    assert found["calibration"]["fitted_on"] is None
    text = text_of("depth", found)
    assert len(text.splitlines()) == 2 and "temperature" not in text


def test_the_temperature_comes_from_the_other_split_and_mends_this_one():
    other, here = answers(1, n=2000, scale=8.0), answers(2, n=2000, scale=8.0)
    found = depth_of(here, other)["calibration"]
    t = depth.fit_temperature(other.logits, other.label)
    assert found["temperature"] == t != depth.fit_temperature(here.logits, here.label)
    assert found["before"] == depth.scores(here.logits, here.label)
    cooler = softmax(here.logits.astype(np.float64) / t, axis=1)
    assert found["after"]["nll"] == pytest.approx(sk.log_loss(here.label, cooler))
    assert found["after"]["ece"] < 0.5 * found["before"]["ece"] and found["after"]["brier"] < found["before"]["brier"]
    assert found["fitted_on"] == "fer2013/train (held out)"


@pytest.mark.parametrize("wrong, shown", [(0, True), (1, False), (4, True)])
def test_a_temperature_at_its_bound_is_said_to_be(wrong, shown):
    truth = np.array([0, 1, 2, 3])
    given = np.where(np.arange(4) < wrong, truth + 1, truth)
    other = asked(0.1 + 0.5 * np.eye(5)[given], np.eye(5)[truth], truth)
    text = text_of("depth", depth_of(answers(), other))
    assert "at temperature" in text and ("a bound" in text) == shown


@pytest.mark.parametrize("lacking", [(), (1, 2)])
def test_the_mean_with_the_mirror_image(lacking):
    here = answers(4, lacking=lacking)
    found = depth_of(here)["flip"]
    p, q = (softmax(x.astype(np.float64), axis=1) for x in (here.logits, here.flipped))
    guess, alone = ((p + q) / 2).argmax(1), p.argmax(1)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(here.label, guess))
    assert found["mean_class_accuracy"] == pytest.approx(sk.balanced_accuracy_score(here.label, guess))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(here.label, guess, average="macro"))
    assert found["difference"] == pytest.approx((guess == here.label).mean() - (alone == here.label).mean())
    gained, lost = (
        sum((guess == here.label) & (alone != here.label)),
        sum((guess != here.label) & (alone == here.label)),
    )
    assert gained > 0 and lost > 0
    assert found["mcnemar_p"] == pytest.approx(stats.binomtest(int(gained), int(gained + lost)).pvalue)
    interval = stats.binomtest(int(sum(guess == here.label)), len(guess)).proportion_ci(method="wilson")
    assert found["interval"] == pytest.approx(list(interval))


def test_probabilities_are_averaged_and_not_logits():
    first, second = [0.6, 0.3, 0.05, 0.03, 0.02], [0.001, 0.25, 0.25, 0.25, 0.249]
    mirrored = np.log([second]).astype(np.float32)  # the mean of the logits would be largest for class 1
    here = dataclasses.replace(asked([first], [first]), flipped=mirrored)
    found = depth_of(here)["flip"]
    assert (found["accuracy"], found["difference"], found["mcnemar_p"]) == (1, 0, 1)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_duplicates(share):
    here = answers(5)
    leaked = np.random.default_rng(0).random(150) < share
    found = depth_of(here, leaked=leaked)["duplicates"]
    guess = here.logits.argmax(1)
    assert found["leaked"] == leaked.sum()
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(here.label, guess))
    if leaked.any():
        assert found["accuracy_leaked"] == pytest.approx(sk.accuracy_score(here.label[leaked], guess[leaked]))
    else:
        assert found["accuracy_leaked"] is None
    if leaked.all():
        assert found["accuracy_without"] is found["macro_f1_without"] is None
    else:
        kept = here.label[~leaked], guess[~leaked]
        assert found["accuracy_without"] == pytest.approx(sk.accuracy_score(*kept))
        assert found["macro_f1_without"] == pytest.approx(sk.f1_score(*kept, average="macro"))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("lacking", [(), (0, 3)])
def test_votes_against_scipy(seed, lacking):
    here = answers(seed, lacking=lacking, voters=9)  # an odd number: ties of two are rare, not impossible
    found = depth_of(here)["votes"]
    p = softmax(here.logits.astype(np.float64), axis=1)
    q = np.round(here.votes.astype(np.float64) * 9) / 9
    kl = np.mean(stats.entropy(q, p, axis=1))  # where q is 0, so is its term, also for p = 0
    assert found["kl"] == pytest.approx(kl, abs=1e-6)
    assert found["cross_entropy"] == pytest.approx(kl + stats.entropy(q, axis=1).mean(), abs=1e-6)
    top = np.isclose(q, q.max(1, keepdims=True))
    assert found["agreement_top"] == pytest.approx(np.mean([top[i, p[i].argmax()] for i in range(len(p))]))
    assert found["mean_probability_of_majority"] == pytest.approx(np.mean([p[i, top[i]].mean() for i in range(len(p))]))
    # Rounded, so that equal numbers of votes for other classes tie.
    entropies = np.round(stats.entropy(q, axis=1), 9)
    expected = stats.spearmanr(stats.entropy(p, axis=1), entropies).statistic
    assert found["spearman_entropy"] == pytest.approx(expected, abs=1e-9)


def test_votes_that_the_network_gives_back_exactly():
    shares = [[0.5, 0.25, 0.25, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0.125, 0.125, 0.75]]
    found = depth_of(asked(shares, shares))["votes"]
    assert found["kl"] == pytest.approx(0, abs=1e-6) and found["spearman_entropy"] == pytest.approx(1)
    assert found["agreement_top"] == 1 and found["mean_probability_of_majority"] == pytest.approx((0.5 + 1 + 0.75) / 3)


def test_a_tie_of_votes_agrees_with_either_class():
    p, q = [0.1, 0.5, 0.2, 0.1, 0.1], [0.4, 0.4, 0.2, 0, 0]
    found = depth_of(asked([p, p], [q, [0.2, 0, 0.4, 0.4, 0]]))["votes"]
    assert found["agreement_top"] == 0.5
    assert found["mean_probability_of_majority"] == pytest.approx(((0.1 + 0.5) / 2 + (0.2 + 0.1) / 2) / 2)


def test_examples_without_votes_are_left_out():
    here = answers(6, voters=5)
    fewer = dataclasses.replace(here, votes=here.votes * (np.arange(150) < 100)[:, None])
    first = {
        f.name: getattr(here, f.name)[:100] for f in dataclasses.fields(here) if f.name not in ("classes", "routing")
    }
    assert depth_of(fewer)["votes"] == depth_of(Answers(classes=NAMES, routing={}, **first))["votes"]
    assert depth_of(dataclasses.replace(here, votes=0 * here.votes))["votes"] is None


def test_one_example():
    here = answers(0, n=1, voters=10)
    found = depth_of(here, answers(1), np.array([True]))
    assert found["votes"]["spearman_entropy"] is None and found["flip"]["mcnemar_p"] == 1
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert "-" in text_of("depth", found).splitlines()[-1]


@quick
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30))
def test_rank_correlation_is_that_of_scipy(pairs):
    one, other = np.array(pairs).T
    found = depth.rank_correlation(one, other)
    expected = stats.spearmanr(one, other).statistic if len(pairs) > 1 else math.nan
    assert found is None if math.isnan(expected) else found == pytest.approx(expected, abs=1e-12)


def test_json_gives_the_depth_back_and_the_text_shows_it():
    here = answers(7, voters=10)
    found = depth_of(here, answers(8), np.arange(150) < 30)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    text = text_of("depth", found)
    for shown in (
        f"{100 * found['calibration']['before']['ece']:.2f} %",
        f"at temperature {found['calibration']['temperature']:.3g}",
        "fitted on fer2013/train (held out)",
        f"{100 * found['flip']['difference']:+.2f} points",
        "30 examples in the training data too",
        f"{100 * found['duplicates']['accuracy_without']:.2f} % without",
        f"KL divergence {found['votes']['kl']:.4f}",
    ):
        assert shown in text
    assert all(len(line) < 140 for line in text.splitlines())


def test_input_that_does_not_fit_is_refused():
    here = answers()
    with pytest.raises(ValueError, match="150 examples that it is judged by"):
        depth_of(here, dataclasses.replace(here, logits=here.logits.copy()))
    with pytest.raises(ValueError, match="3 marks of leaked examples, but 150"):
        depth_of(here, leaked=np.zeros(3, bool))
    with pytest.raises(ValueError, match="150 of 150 examples have votes"):
        depth_of(dataclasses.replace(answers(lacking=(1,)), votes=np.full((150, 5), 0.2, np.float32)))
