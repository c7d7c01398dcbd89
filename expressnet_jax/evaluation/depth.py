"""What a network's answers on a split tell beyond accuracy: their confidence, their steadiness, whom they agree with.

Whether a confidence can be believed is told by calibration errors, proper scores, and the one temperature that mends
it. Everything is computed in float64. Legend: N examples, C classes.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

from expressnet_jax.evaluation import metrics, statistics
from expressnet_jax.evaluation.answers import Answers

BINS = 15  # as in Guo et al. 2017; the error depends on it, so it is not a setting
LOWEST, HIGHEST = 0.01, 100.0  # the temperatures between which one is looked for


def of(answers: Answers, *, fitted: tuple[str, Answers] | None, leaked: NDArray[np.bool_] | None) -> dict[str, Any]:
    """{calibration, flip, duplicates, votes} of a network's answers, ready for JSON.

    calibration     `scores` before and after the temperature that suits `fitted` best (None: before only)
    flip            the figures of the mean of the probabilities for a picture and its mirror image; `difference` of
                    its accuracy to the picture's alone, with the exact McNemar p-value
    duplicates      the accuracy of the `leaked` examples and without them; None where that is not known
    votes           how far the probabilities (at temperature 1) are those of people's votes; None without votes

    Args:
        fitted: another split's name, and the same network's answers to it; the temperature must not see the examples
            it is judged by.
        leaked: (N,) bool, true for an example whose picture is in the training data too.

    Raises ValueError: `fitted` is the evaluated split, `leaked` of another length, or answers that `scores` refuses.
    """
    same = ("index", "label", "logits")
    if fitted and all(np.array_equal(getattr(fitted[1], key), getattr(answers, key)) for key in same):
        raise ValueError(f"the temperature cannot be fitted on the {len(answers.label)} examples that it is judged by")
    on, temperature = (fitted[0], fit_temperature(fitted[1].logits, fitted[1].label)) if fitted else (None, None)
    return {
        "calibration": {
            "temperature": temperature,
            "fitted_on": on,
            "before": scores(answers.logits, answers.label),
            "after": None if temperature is None else scores(answers.logits, answers.label, temperature),
        },
        "flip": _flip(answers),
        "duplicates": None if leaked is None else _duplicates(answers, np.asarray(leaked, bool)),
        "votes": None if answers.votes is None else _votes(answers.logits, answers.votes),
    }


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
        "nll": abs(float(special.log_softmax(values / temperature, axis=-1)[target].mean())),
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


def rank_correlation(first: ArrayLike, second: ArrayLike) -> float | None:
    """Spearman's rank correlation of two variables (N,), tied values at their mean rank; None where one is constant."""
    if np.ptp(np.asarray(first)) == 0 or np.ptp(np.asarray(second)) == 0:
        return None
    return float(stats.spearmanr(first, second).statistic)


def _flip(answers: Answers) -> dict[str, Any]:
    both = (probabilities(answers.logits) + probabilities(answers.flipped)) / 2
    together = both.argmax(axis=1)  # (N,)
    summary = _summary(answers, together)
    return {
        **{key: summary[key] for key in ("accuracy", "mean_class_accuracy", "macro_f1")},
        "interval": summary["accuracy_interval"],
        "difference": summary["accuracy"] - float(answers.right.mean()),
        "mcnemar_p": statistics.mcnemar(answers.right, together == answers.label)["p_value"],
    }


def _duplicates(answers: Answers, leaked: NDArray[np.bool_]) -> dict[str, Any]:
    if leaked.shape != answers.label.shape:
        raise ValueError(f"{leaked.size} marks of leaked examples, but {answers.label.size} examples")
    right = answers.right
    without = None if leaked.all() else _summary(answers, answers.predicted, ~leaked)
    return {
        "leaked": int(leaked.sum()),
        "accuracy": float(right.mean()),
        "accuracy_leaked": float(right[leaked].mean()) if leaked.any() else None,
        **{f"{key}_without": without and without[key] for key in ("accuracy", "macro_f1")},
    }


def _votes(logits: NDArray[np.float32], votes: NDArray[np.float32]) -> dict[str, Any] | None:
    """Against the votes for the network's classes (N, C). Examples without any are left out; None where all are.

    A tie of votes is a majority of each of the tied classes: any of them agrees, and their probability is averaged.
    """
    voted = votes.sum(axis=1) > 0
    if not voted.any():
        return None
    shares = votes[voted].astype(np.float64)
    shares /= shares.sum(axis=1, keepdims=True)
    p, log_p = probabilities(logits[voted]), special.log_softmax(logits[voted].astype(np.float64), axis=-1)
    if (impossible := ((shares > 0) & np.isneginf(log_p)).any(axis=1)).any():
        raise ValueError(f"{impossible.sum()} of {len(shares)} examples have votes for a class that is never predicted")
    majority = shares == shares.max(axis=1, keepdims=True)  # (N, C)
    cross_entropy = np.abs((shares * np.where(shares > 0, log_p, 0.0)).sum(axis=1))
    return {
        "agreement_top": float(np.take_along_axis(majority, logits[voted].argmax(axis=1)[:, None], axis=1).mean()),
        "cross_entropy": float(cross_entropy.mean()),
        "kl": max(float((cross_entropy - _entropy(shares)).mean()), 0.0),
        "mean_probability_of_majority": float(((p * majority).sum(axis=1) / majority.sum(axis=1)).mean()),
        "spearman_entropy": rank_correlation(_entropy(p), _entropy(shares)),
    }


def _summary(
    answers: Answers, guess: NDArray[np.intp], kept: NDArray[np.bool_] | slice = slice(None)
) -> dict[str, Any]:
    """The figures of `metrics.summarize` for answers `guess` (N,), or for the `kept` ones."""
    counts = metrics.confusion(answers.label[kept], guess[kept], len(answers.classes))
    return metrics.summarize(counts, answers.classes)


def _entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) nats. The same shares of other classes give the same number to the last bit, so that ranks can tie."""
    return special.entr(np.sort(p, axis=1)).sum(axis=1)


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
