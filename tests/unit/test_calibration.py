"""Calibration figures against scikit-learn and plain loops, the temperature against SciPy's minimiser."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]
from scipy.special import log_softmax, softmax  # type: ignore[import-untyped]
from sklearn import metrics as sk  # type: ignore[import-untyped]
from sklearn.calibration import calibration_curve  # type: ignore[import-untyped]

from expressnet_jax.evaluation.depth import (
    HIGHEST,
    LOWEST,
    expected_error,
    fit_temperature,
    probabilities,
    reliability,
    scores,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:sklearn")
quick = settings(deadline=None, max_examples=40)


def answers(seed, n=200, c=8, scale=3.0, lacking=()):
    """Logits (N, C) that know something of the labels (N,); classes in `lacking` have -inf and no examples."""
    rng = np.random.default_rng(seed)
    known = np.setdiff1d(np.arange(c), lacking)
    label = rng.choice(known, n)
    logits = (scale * (rng.normal(size=(n, c)) + np.eye(c)[label])).astype(np.float32)
    logits[:, list(lacking)] = -np.inf
    return logits, label


CASES = {
    "eight classes": answers(0),
    "two classes": answers(1, c=2),
    "one example": answers(2, n=1),
    "a class the data set lacks": answers(3, lacking=(1, 5)),
    "ties": (np.round(answers(4)[0] / 4), answers(4)[1]),
    "all logits equal": (np.zeros((30, 3)), np.arange(30) % 3),
    "confidence 1": (200.0 * np.eye(4)[np.arange(40) % 4], (np.arange(40) + (np.arange(40) > 30)) % 4),
    "a class never predicted": (answers(5)[0] - 100.0 * np.eye(8)[2], answers(5)[1]),
    "huge logits": (answers(6)[0] * 1e4, answers(6)[1]),
}
cases = pytest.mark.parametrize("logits, label", CASES.values(), ids=CASES.keys())


def looped_error(p, label, bins=15):
    """The expected calibration error by the letter: every bin looks for its own examples."""
    total = 0.0
    for m in range(1, bins + 1):
        inside = [i for i, row in enumerate(p) if (m - 1) / bins < max(row) <= m / bins]
        if inside:
            accuracy = sum(list(p[i]).index(max(p[i])) == label[i] for i in inside) / len(inside)
            total += len(inside) / len(p) * abs(accuracy - sum(max(p[i]) for i in inside) / len(inside))
    return total


@cases
@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_scores_are_those_of_scikit_learn_and_of_a_loop(logits, label, temperature):
    found = scores(logits, label, temperature)
    p = softmax(logits.astype(np.float64) / temperature, axis=1)
    if p.min(initial=1.0, where=np.isfinite(logits)) > 1e-15:  # smaller ones are clipped by scikit-learn
        assert found["nll"] == pytest.approx(sk.log_loss(label, p, labels=range(p.shape[1])), rel=1e-12)
    each = [sk.brier_score_loss(label == c, p[:, c], pos_label=True) for c in range(p.shape[1])]
    assert found["brier"] == pytest.approx(sum(each), rel=1e-12, abs=1e-15)
    assert found["ece"] == pytest.approx(looped_error(p, label), abs=1e-12)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@cases
def test_bins_are_those_of_scikit_learn(logits, label):
    p = softmax(logits.astype(np.float64), axis=1)
    right, confidence = p.argmax(1) == label, p.max(1)
    accuracies, confidences = calibration_curve(right, confidence, n_bins=15, strategy="uniform", pos_label=True)
    found = scores(logits, label)["bins"]
    filled = [b for b in found if b["count"]]
    assert [b["accuracy"] for b in filled] == pytest.approx(list(accuracies))
    assert [b["confidence"] for b in filled] == pytest.approx(list(confidences))
    assert sum(b["count"] for b in found) == len(label)
    assert [b["low"] for b in found] + [1.0] == pytest.approx(list(np.linspace(0, 1, 16)))
    assert [b["high"] for b in found[:-1]] == [b["low"] for b in found[1:]]


@pytest.mark.parametrize("m", range(1, 16))
def test_a_confidence_on_an_edge_belongs_to_the_bin_below_it(m):
    above = np.nextafter(m / 15, 2)
    bins = reliability([m / 15] if m == 15 else [m / 15, above], [True] if m == 15 else [True, False])
    assert bins[m - 1] == {"low": (m - 1) / 15, "high": m / 15, "count": 1, "confidence": m / 15, "accuracy": 1.0}
    if m < 15:
        assert (bins[m]["count"], bins[m]["confidence"], bins[m]["accuracy"]) == (1, above, 0.0)
    assert [b["confidence"] for b in bins].count(None) == 15 - min(2, 16 - m)


def test_an_even_answer_of_three_classes_is_exactly_on_an_edge():
    assert scores(np.full((2, 3), 0.7, np.float32), [0, 1])["bins"][4]["count"] == 2  # 1/3 = 5/15


def test_the_error_of_a_worked_example():
    # Half right at 0.9, all right at 0.7: 0.4 off for two of three, 0.3 for one.
    assert expected_error(reliability([0.9, 0.9, 0.7], [True, False, True])) == pytest.approx((2 * 0.4 + 0.3) / 3)
    assert expected_error(reliability([], [])) == 0


def test_the_answer_is_the_largest_logit_also_where_probabilities_cannot_tell():
    assert scores([[0.0, 1e-30]], [1])["bins"][7]["accuracy"] == 1.0


def test_a_true_class_of_no_probability_has_a_finite_score():
    found = scores([[0.0, 5000.0]], [0])
    assert found["nll"] == 5000 and found["brier"] == 2 and found["ece"] == 1


@quick
@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.floats(0.05, 20))
def test_the_temperature_is_that_of_scipy(seed, c, scale):
    logits, label = answers(seed, n=120, c=c, scale=scale)

    def loss(log_temperature):
        return -log_softmax(logits / np.exp(log_temperature), axis=1)[np.arange(len(label)), label].mean()

    bounds = (math.log(LOWEST), math.log(HIGHEST))
    best = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-9})
    found = fit_temperature(logits, label)
    assert loss(math.log(found)) <= best.fun + 1e-7
    if LOWEST * 1.01 < found < HIGHEST / 1.01:
        assert found == pytest.approx(math.exp(best.x), rel=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_scaled_logits_need_a_scaled_temperature(seed):
    logits, label = answers(seed, lacking=(2,))
    logits = logits.astype(np.float64)
    one = fit_temperature(logits, label)
    assert LOWEST < one < HIGHEST
    assert fit_temperature(3 * logits, label) == pytest.approx(3 * one, rel=1e-9)
    assert fit_temperature(logits + np.arange(len(logits))[:, None], label) == pytest.approx(one, rel=1e-9)
    assert fit_temperature(np.delete(logits, 2, 1), label - (label > 2)) == pytest.approx(one, rel=1e-9)


def test_the_temperature_of_a_case_that_can_be_solved_by_hand():
    # Two classes, logits 0 and 6, right three times of four: p = 3/4 where 6 / T = log 3.
    assert fit_temperature(np.tile([0.0, 6.0], (4, 1)), [1, 1, 1, 0]) == pytest.approx(6 / math.log(3), rel=1e-10)


@pytest.mark.parametrize(
    "logits, label, expected",
    [
        (np.eye(3), [0, 1, 2], LOWEST),  # all right
        ([[2.0, 1.0]], [0], LOWEST),  # one example, right
        ([[2.0, 1.0]], [1], HIGHEST),  # one example, wrong
        (np.eye(3), [1, 2, 0], HIGHEST),
        (np.zeros((4, 3)), [0, 1, 2, 0], 1.0),  # nothing to scale
        ([[0.0, -np.inf]], [0], 1.0),
        (1e6 * np.eye(3), [0, 1, 2], 1.0),  # certain at every temperature
    ],
)
def test_where_no_temperature_is_best_a_bound_or_none_is_taken(logits, label, expected):
    found = fit_temperature(logits, label)
    assert found == expected
    at, before = scores(logits, label, found)["nll"], scores(logits, label)["nll"]
    assert at <= before and math.isfinite(at)


@cases
def test_a_fitted_temperature_never_raises_the_loss_of_its_own_examples(logits, label):
    assert scores(logits, label, fit_temperature(logits, label))["nll"] <= scores(logits, label)["nll"] + 1e-12


def test_probabilities_sum_to_one_and_leave_lacking_classes_out():
    logits, _ = CASES["a class the data set lacks"]
    found = probabilities(logits)
    assert found.dtype == np.float64 and (found[:, [1, 5]] == 0).all()
    assert found.sum(1) == pytest.approx(np.ones(len(found)), rel=1e-14)


@pytest.mark.parametrize("function", [scores, fit_temperature])
@pytest.mark.parametrize(
    "logits, label, message",
    [
        (np.zeros((0, 3)), [], r"\(0, 3\)"),
        (np.zeros((2, 3)), [0], r"\(2, 3\).*\(1,\)"),
        ([[0.0, np.nan], [0.0, 1.0]], [0, 1], "1 of 2 examples are not numbers"),
        ([[0.0, np.inf]], [0], "not numbers"),
        ([[-np.inf, -np.inf]], [0], "not numbers"),
        (np.zeros((2, 3)), [0, 3], "from 0 to 3, but 3 classes"),
        (np.zeros((2, 3)), [-1, 0], "from -1 to 0"),
        ([[0.0, -np.inf], [1.0, -np.inf]], [1, 0], "1 of 2 examples are of a class that is never predicted"),
    ],
)
def test_bad_input_is_refused(function, logits, label, message):
    with pytest.raises(ValueError, match=message):
        function(logits, label)
