"""Whether a network's confidence can be believed: calibration error, proper scores, and one temperature that mends it.

Everything is computed in float64. Legend: N examples, C classes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from expressnet_jax.evaluation.answers import log_softmax

BINS = 15  # as in Guo et al. 2017; the error depends on it, so it is not a setting
LOWEST, HIGHEST = 0.01, 100.0  # the temperatures between which one is looked for


def probabilities(logits: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """(N, C) softmax of `logits` / `temperature`; 0 where the logit is -inf."""
    return special.softmax(np.asarray(logits, np.float64) / temperature, axis=-1)


def scores(logits: ArrayLike, label: ArrayLike, temperature: float = 1.0) -> dict[str, Any]:
    """The calibration of answers at a temperature, ready for JSON.

    ece     expected calibration error, a fraction: the mean over the examples of |accuracy - confidence| of their bin
            (Guo et al. 2017, arXiv 1706.04599, eq. 3)
    nll     negative log-likelihood, the mean of -log p(true class), in nats
    brier   the mean of sum_c (p_c - [c is true])^2, between 0 and 2 (Brier 1950)
    bins    of `reliability`, for a diagram

    Args:
        logits: (N, C), -inf for classes that are never predicted.
        label: (N,) true classes.

    Raises ValueError: no examples, logits that are not numbers, labels outside the classes or of a class with -inf.
    """
    values, truth = _checked(logits, label)
    p = probabilities(values, temperature)
    # The answer is read off the logits: two that differ may have probabilities that do not.
    bins = reliability(p.max(axis=1), values.argmax(axis=1) == truth)
    target = np.arange(p.shape[1]) == truth[:, None]  # (N, C)
    return {
        "ece": expected_error(bins),
        "nll": abs(float(log_softmax(values / temperature)[target].mean())),
        "brier": float(((p - target) ** 2).sum(axis=1).mean()),
        "bins": bins,
    }


def reliability(confidence: ArrayLike, right: ArrayLike) -> list[dict[str, Any]]:
    """15 bins of equal width for a reliability diagram (Guo et al. 2017, section 2): {low, high, count, confidence,
    accuracy}, the latter two means over the bin's examples, None where it has none.

    A bin holds what is above `low` and not above `high`. `confidence` (N,) in (0, 1], `right` (N,) bool.
    """
    values, correct = np.asarray(confidence, np.float64), np.asarray(right, bool)
    edges = np.arange(BINS + 1) / BINS
    place = np.searchsorted(edges[1:-1], values, side="left")  # (N,): 0 ... 14
    count = np.bincount(place, minlength=BINS)
    sums = np.bincount(place, values, BINS), np.bincount(place, correct, BINS)
    means = [[float(s / n) if n else None for s, n in zip(of_bins, count, strict=True)] for of_bins in sums]
    columns = zip(edges[:-1].tolist(), edges[1:].tolist(), count.tolist(), *means, strict=True)
    return [dict(zip(("low", "high", "count", "confidence", "accuracy"), row, strict=True)) for row in columns]


def expected_error(bins: list[dict[str, Any]]) -> float:
    """The expected calibration error of the bins of `reliability`; 0 without examples."""
    filled = [b for b in bins if b["count"]]
    gaps = sum(b["count"] * abs(b["accuracy"] - b["confidence"]) for b in filled)
    return float(gaps / max(sum(b["count"] for b in filled), 1))


def fit_temperature(logits: ArrayLike, label: ArrayLike) -> float:
    """The temperature T at which softmax(logits / T) has the smallest negative log-likelihood (Guo et al. 2017, 4.2).

    The likelihood is convex in 1 / T, so its slope has one root, which Brent's method finds. Where it has none between
    the bounds, the answer is a bound: `LOWEST` where all examples are right (sharper is always better), `HIGHEST`
    where the answers are no better than chance (flatter is always better). 1 where no temperature changes anything.

    Raises ValueError like `scores`.
    """
    values, truth = _checked(logits, label)
    shifted = values - values.max(axis=1, keepdims=True)
    finite = np.where(np.isfinite(shifted), shifted, 0.0)  # 0 times -inf would be NaN
    own = np.take_along_axis(finite, truth[:, None], axis=1).mean()

    def slope(log_inverse: float) -> float:
        """Of the mean negative log-likelihood, by 1 / T, at T = exp(-log_inverse)."""
        return float((probabilities(shifted, math.exp(-log_inverse)) * finite).sum(axis=1).mean() - own)

    low, high = -math.log(HIGHEST), -math.log(LOWEST)
    falls_at_first, rises_at_last = slope(low) < 0, slope(high) > 0
    if not rises_at_last:
        return LOWEST if falls_at_first else 1.0
    if not falls_at_first:
        return HIGHEST
    return math.exp(-optimize.brentq(slope, low, high, xtol=1e-12))


def _checked(logits: ArrayLike, label: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    values, truth = np.asarray(logits, np.float64), np.asarray(label, np.int64)
    if values.ndim != 2 or 0 in values.shape or truth.shape != values.shape[:1]:
        raise ValueError(f"logits of shape {values.shape} and labels of shape {truth.shape}: need (N, C) and (N,)")
    wrong = np.isnan(values).any(axis=1) | ~np.isfinite(values.max(axis=1))
    if wrong.any():
        raise ValueError(f"the logits of {wrong.sum()} of {len(wrong)} examples are not numbers")
    if truth.min() < 0 or truth.max() >= values.shape[1]:
        raise ValueError(f"labels from {truth.min()} to {truth.max()}, but {values.shape[1]} classes")
    impossible = np.isneginf(np.take_along_axis(values, truth[:, None], axis=1)).sum()
    if impossible:
        raise ValueError(f"{impossible} of {len(truth)} examples are of a class that is never predicted")
    return values, truth
