"""Classification figures from one confusion matrix of global counts.

A confusion matrix adds up over batches, devices and hosts; recall, F1 and their means do not. So the counts are
summed first, over everything, and every figure here is a function of the sum.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats


def confusion(label: ArrayLike, predicted: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Counts (classes, classes) [true, predicted] of (N,) true and predicted classes."""
    pairs = np.asarray(label, np.int64) * classes + np.asarray(predicted, np.int64)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def summarize(confusion: ArrayLike, classes: Sequence[str]) -> dict[str, Any]:
    """The figures of one evaluation, ready for JSON, from counts `confusion[true, predicted]`.

    With n[i, j] the examples of class i that were predicted as j, N their total, and every 0/0 taken as 0:

        accuracy             sum_i n[i, i] / N
        recall(i)            n[i, i] / sum_j n[i, j]
        precision(i)         n[i, i] / sum_j n[j, i]
        f1(i)                2 n[i, i] / (sum_j n[i, j] + sum_j n[j, i])
        mean_class_accuracy  mean of recall(i) over the classes that have examples (balanced accuracy)
        macro_f1             mean of f1(i) over the classes that occur as truth or as prediction

    `accuracy_interval` is the 95 % Wilson interval of the accuracy. The other keys repeat what came in: `examples`
    (N), `classes`, `confusion` (a list of rows) and `per_class` {name: {precision, recall, f1, examples}}.
    """
    counts = _checked(confusion, classes)
    right, truths, guesses = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    examples, correct = int(counts.sum()), int(right.sum())
    each = {"precision": (right, guesses), "recall": (right, truths), "f1": (2 * right, truths + guesses)}
    ratios = {key: part / np.maximum(whole, 1) for key, (part, whole) in each.items()}
    per_class = {
        name: {**{key: float(values[i]) for key, values in ratios.items()}, "examples": int(truths[i])}
        for i, name in enumerate(classes)
    }
    return {
        **{key: float(value) for key, value in headline(counts).items()},
        "accuracy_interval": list(wilson_interval(correct, examples)),
        "examples": examples, "classes": list(classes), "confusion": counts.tolist(), "per_class": per_class,
    }  # fmt: skip


def headline(confusions: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """The accuracy, mean class accuracy and macro F1 of `summarize` of many confusion matrices (..., C, C) at once."""
    right = np.diagonal(confusions, axis1=-2, axis2=-1)
    truths, guesses = confusions.sum(axis=-1), confusions.sum(axis=-2)
    either = truths + guesses
    # What is divided by 0 is 0 itself, so dividing by 1 instead leaves the 0 that is meant.
    recall, f1 = right / np.maximum(truths, 1), 2 * right / np.maximum(either, 1)
    return {
        "accuracy": right.sum(axis=-1) / np.maximum(truths.sum(axis=-1), 1),
        "mean_class_accuracy": recall.sum(axis=-1) / np.maximum((truths > 0).sum(axis=-1), 1),
        "macro_f1": f1.sum(axis=-1) / np.maximum((either > 0).sum(axis=-1), 1),
    }


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion p = successes / trials; (0, 1) when there were no trials.

    Unlike p -+ 1.96 sqrt(p (1 - p) / n), it stays within 0 and 1 and does not shrink to nothing at p = 0 or 1.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials: must be between 0 and the number of trials")
    if trials == 0:
        return 0.0, 1.0
    low, high = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    return float(low), float(high)


def _checked(confusion: ArrayLike, classes: Sequence[str]) -> NDArray[np.int64]:
    """The counts as int64, once they are known to be a confusion matrix of these classes."""
    counts = np.asarray(confusion)
    size = len(classes)
    if size == 0:
        raise ValueError("a confusion matrix needs at least 1 class, got 0")
    if len(set(classes)) != size:
        raise ValueError(f"{size} classes, but only {len(set(classes))} different names: {', '.join(classes)}")
    if counts.shape != (size, size):
        raise ValueError(f"confusion matrix of shape {counts.shape}, but {size} classes need ({size}, {size})")
    if not np.issubdtype(counts.dtype, np.integer):
        # float32 sums lose counts above 2**24 without a word, so they are not accepted at all.
        raise ValueError(f"confusion matrix of type {counts.dtype}: counts must be integers")
    if counts.min() < 0:
        row, column = np.argwhere(counts < 0)[0]
        raise ValueError(f"confusion[{row}, {column}] is {counts[row, column]}: counts cannot be negative")
    return counts.astype(np.int64)
