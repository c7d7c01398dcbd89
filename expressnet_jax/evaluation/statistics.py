"""Whether two settings of a training differ by more than their seeds and their examples explain.

A setting (an arm) is trained with S seeds, often only 3, and each network is judged on the same N examples. A figure
of an arm is uncertain in two ways: other seeds would have given other networks, and other examples another score.

    variance  =  variance over seeds / S  +  variance over examples / N

The luck of one network on one example is in both terms, so the sum is somewhat too large, never too small on
average. With v for these parts, f for their own degrees of freedom (S - 1, N - 1), and Student's t in place of the
normal distribution, as in Welch's test (1947, Biometrika 34):

    V  = sum(v)
    df = V^2 / sum(v^2 / f), but at most 3 (S - 1) for the smallest S above 1

1.96 standard errors would be far too few for 3 seeds, and resampling the seeds would not help: it gives only
(S - 1) / S of their variance, and no heavier tails. The bound is there because a few seeds that agree by chance make
V small and df large at once: without it, 8 comparisons at 2 seeds raised a false alarm in 12 % of simulated studies.

Shapes: S seeds, N examples, C classes, R resamples, K different rows (label, answer of each seed) among the examples.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from expressnet_jax.evaluation import metrics

RESAMPLES = 2000

Values = NDArray[np.float64]


def mcnemar(first: ArrayLike, second: ArrayLike) -> dict[str, Any]:
    """McNemar's exact test of two networks on the same examples (McNemar 1947, Psychometrika 12).

    first, second: (N,) bool, whether each network was right. Returns `only_first` and `only_second`, the numbers of
    examples that only the one got right, and `p_value`, two-sided: the probability of a split at least as uneven if
    each such example were a fair coin. It speaks of these two networks, not of other seeds of their settings.
    """
    one, other = _right(first, 1), _right(second, 1)
    if one.shape != other.shape:
        raise ValueError(f"{one.size} and {other.size} examples: both networks must be judged on the same ones")
    only_first, only_second = int((one & ~other).sum()), int((other & ~one).sum())
    differing = only_first + only_second
    p_value = float(stats.binomtest(only_first, differing).pvalue) if differing else 1.0
    return {"only_first": only_first, "only_second": only_second, "p_value": p_value}


def compare(arm: ArrayLike, baseline: ArrayLike, comparisons: int = 1, alpha: float = 0.05) -> dict[str, Any]:
    """The accuracy of `arm` less that of `baseline`, and whether it can be told from 0.

    arm, baseline: (S, N) bool, whether each seed's network was right about each example; the numbers of seeds may
    differ, the examples may not. `comparisons` is how many of these are made together: each interval then has the
    level 1 - alpha / comparisons, so that all of them hold at once with probability 1 - alpha (Bonferroni).

    Returns `difference`, `interval` (low, high), `p_value` (times `comparisons`, at most 1: below alpha exactly where
    the interval excludes 0) and `verdict`: "better" or "worse" where the interval excludes 0, else "no difference
    shown". An arm of one seed says nothing of other seeds: "not enough runs", and interval and p_value are None.

    The examples are paired, so their part is the variance of the difference on each example, and each arm adds its
    seeds' part. The seeds are not paired, even where their numbers are equal: two settings share no random numbers to
    speak of, and pairing would halve the degrees of freedom. In simulated studies of identical settings with 3 seeds,
    1 to 8 arms and a baseline, under 5 % called any arm different, and under 3 % where seeds differ by 1 point or less.
    As in Bonett and Price (2012, J. Educ. Behav. Stat. 37), the interval is that of N + 2 examples, with one more won
    by each side, so that a handful of examples cannot seem certain.
    """
    ours, theirs = _right(arm, 2), _right(baseline, 2)
    if ours.shape[1] != theirs.shape[1]:
        raise ValueError(f"{ours.shape[1]} and {theirs.shape[1]} examples: both arms must be judged on the same ones")
    if comparisons < 1 or not 0 < alpha < 1:
        raise ValueError(f"{comparisons} comparisons at alpha {alpha}: needs at least 1, and alpha between 0 and 1")
    each = ours.mean(axis=0) - theirs.mean(axis=0)
    difference, seeds, examples = float(each.mean()), min(len(ours), len(theirs)), each.size
    if seeds < 2:
        return {"difference": difference, "interval": None, "p_value": None, "verdict": "not enough runs"}
    over_examples = float(each.var(ddof=1)) / examples + 2 / examples**2
    variance, freedom = _total(over_examples, examples, [ours.mean(axis=1), theirs.mean(axis=1)])
    centre, error = difference * examples / (examples + 2), math.sqrt(variance)
    half = float(stats.t.isf(alpha / comparisons / 2, freedom)) * error
    low, high = max(centre - half, -1.0), min(centre + half, 1.0)
    return {
        "difference": difference,
        "interval": (low, high),
        "p_value": min(1.0, comparisons * 2 * float(stats.t.sf(abs(centre) / error, freedom))),
        "verdict": "better" if low > 0 else "worse" if high < 0 else "no difference shown",
    }


def mean_intervals(predictions: ArrayLike, labels: ArrayLike, classes: int) -> dict[str, dict[str, Any]]:
    """Accuracy, mean class accuracy and macro F1 of an arm: means over its seeds, with 95 % intervals.

    predictions: (S, N) int, the class that each seed's network chose; labels: (N,) int; both 0 .. classes - 1. The
    figures are those of `metrics.summarize`. Returns {figure: {values, mean, std, interval, over}}: `values` (one for
    each seed), their `mean` and standard deviation `std` (None for one seed), `interval` (low, high), and what it is
    `over`: "seeds and examples", or "examples" for one seed, when it does not say what another seed would have given.

    The examples' part of the variance is that of the mean over R = 2,000 bootstrap resamples of the examples, the
    same for all seeds; always the same resamples, so the same answers give the same interval. The seeds' part is
    their variance / S, S / (S - 1) times what resampling them would give. The interval is Wilson's (1927), with this
    variance V for p (1 - p) / N and Student's t for z:

        (mean + t^2 / 2N  -+  t sqrt(V + t^2 / 4N^2)) / (1 + t^2 / N)

    In simulated studies of 3 seeds, 99 % of the intervals held the truth where seeds differed little, and 94 % where
    they differed so much that the examples hardly mattered.
    """
    guesses, truth = _checked(predictions, labels, classes)
    seeds, examples = guesses.shape
    rows, counts = np.unique(np.stack([truth, *guesses]), axis=1, return_counts=True)  # (1 + S, K), (K,)
    once = metrics.headline(_confusions(counts[None], rows, classes))  # {figure: (1, S)}
    draws = np.random.default_rng(0).multinomial(examples, counts / examples, size=RESAMPLES)
    resampled = metrics.headline(_confusions(draws, rows, classes))  # {figure: (R, S)}
    result = {}
    for name, (values,) in once.items():
        over_examples = float(resampled[name].mean(axis=1).var(ddof=1))
        variance, freedom = _total(over_examples, examples, [values] if seeds > 1 else [])
        result[name] = {
            "values": values.tolist(),
            "mean": float(values.mean()),
            "std": float(values.std(ddof=1)) if seeds > 1 else None,
            "interval": _wilson(float(values.mean()), examples, variance, freedom),
            "over": "seeds and examples" if seeds > 1 else "examples",
        }
    return result


def _right(values: ArrayLike, dimensions: int) -> NDArray[np.bool_]:
    right = np.asarray(values)
    if right.dtype != np.bool_ or right.ndim != dimensions:
        shape = "(N,)" if dimensions == 1 else "(S, N)"
        raise ValueError(f"{right.dtype} of shape {right.shape}: needs bool of shape {shape}, whether each was right")
    if dimensions == 2:
        _enough(right.shape)
    return right


def _checked(predictions: ArrayLike, labels: ArrayLike, classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    guesses, truth = np.asarray(predictions), np.asarray(labels)
    if guesses.ndim != 2 or truth.shape != guesses.shape[1:]:
        raise ValueError(f"predictions of shape {guesses.shape} and labels of {truth.shape}: need (S, N) and (N,)")
    _enough(guesses.shape)
    for name, values in (("predictions", guesses), ("labels", truth)):
        if not np.issubdtype(values.dtype, np.integer):
            raise ValueError(f"{name} of type {values.dtype}: classes must be integers")
        if values.min() < 0 or values.max() >= classes:
            raise ValueError(f"{name} from {values.min()} to {values.max()}: {classes} classes are 0 to {classes - 1}")
    return guesses.astype(np.int64), truth.astype(np.int64)


def _enough(shape: tuple[int, ...]) -> None:
    if shape[0] < 1 or shape[1] < 2:
        raise ValueError(f"{shape[0]} seeds and {shape[1]} examples: needs at least 1 seed and 2 examples")


def _confusions(counts: NDArray[np.int64], rows: NDArray[np.int64], classes: int) -> Values:
    """Confusion matrices (R, S, C, C) [true, predicted] from how often (R, K) each row (1 + S, K) was drawn."""
    one_hot = np.eye(classes**2)
    # The rows' cells as a product of matrices, in float64: exact for counts, and many times faster than adding up.
    cells = [counts.astype(np.float64) @ one_hot[rows[0] * classes + guess] for guess in rows[1:]]
    return np.stack(cells, axis=1).reshape(len(counts), len(cells), classes, classes)


def _total(over_examples: float, examples: int, arms: list[Values]) -> tuple[float, float]:
    """V and df as above, of the variance over N examples and that over each arm's seeds, from its values (S,)."""
    parts = [(over_examples, examples - 1)]
    parts += [(float(values.var(ddof=1)) / len(values), len(values) - 1) for values in arms]
    total = sum(variance for variance, _ in parts)
    # The shares of the total are squared, because the square of a tiny variance can underflow.
    squares = sum((variance / total) ** 2 / freedom for variance, freedom in parts) if total else 1 / parts[0][1]
    return total, min(1 / squares, *(3 * freedom for _, freedom in parts[1:])) if arms else 1 / squares


def _wilson(mean: float, examples: int, variance: float, freedom: float) -> tuple[float, float]:
    t = float(stats.t.isf(0.025, freedom))
    square = t * t / examples
    half = t * math.sqrt(variance + square / (4 * examples))
    low, high = (mean + square / 2 - half) / (1 + square), (mean + square / 2 + half) / (1 + square)
    return max(low, 0.0), min(high, 1.0)
