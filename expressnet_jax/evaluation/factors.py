"""Accuracy by what a drawn face was drawn with: skin tone, pose, light and the rest, which its data set records.

A gap between groups can be luck, the more so the more factors are looked at: each row comes with its interval, and each
factor with a permutation test.

Legend: N examples, G groups of one factor, R random permutations.
"""

import itertools
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.splits import Split
from expressnet_jax.evaluation import metrics

Rows = list[dict[str, Any]]
PERMUTATIONS = 10_000
_AT_ONCE = 1024  # records that are read together


class _Bins(NamedTuple):
    """Half-open intervals, the last one closed, of the values or of their sizes without the sign."""

    edges: tuple[float, ...]
    unsigned: bool = False


_TURNED = _Bins((0, 5, 10, 15, 20, 30), unsigned=True)
_TILTED = _Bins((0, 3, 6, 9, 12), unsigned=True)

#: The factors that are looked at, by their names in the records; those without bins by each of their values.
FACTORS: dict[str, _Bins | None] = {
    "skin_tone": None,  # Monk scale, 1 lightest .. 10 darkest
    "yaw": _TURNED,  # degrees
    "pitch": _TILTED,
    "roll": _TILTED,
    "age": _Bins((0, 0.15, 0.3, 0.5, 1)),  # 0 smooth .. 1 lined
    "stubble": _Bins((0, 0.2, 0.5, 0.8)),  # 0 shaved .. 1 dense
    "hair_style": None,
    "glasses": None,
    "covering": None,
    "light_strength": _Bins((0, 0.15, 0.3, 0.45, 0.6)),  # 0 is flat light
    "light_azimuth": _Bins((0, 25, 50, 75), unsigned=True),  # degrees from the front
    "brightness": _Bins((0.8, 0.9, 1, 1.1, 1.2)),
    "blur": _Bins((0, 0.2, 0.45, 0.7)),  # sigma in 48ths of the width
    "noise": _Bins((0, 1, 2, 3, 4, 5)),  # deviation in grey levels
}


def by_factor(split: Split, index: np.ndarray, right: np.ndarray) -> dict[str, Rows] | None:
    """Accuracy, with its 95 % Wilson interval, for each value or bin of each factor that examples have.

    index: (N,) int, the examples by their numbers in the split's records. right: (N,) bool, whether each was answered
    rightly. Returns {factor: [{"value", "examples", "accuracy", "interval"}]}, the values in order and the factor
    written |factor| where its sign does not count, or None where the data set records no factors. Raises ValueError for
    other shapes.
    """
    if index.ndim != 1 or right.shape != index.shape:
        raise ValueError(f"index of shape {index.shape} and right of shape {right.shape}: both must be (N,)")
    if not len(index) or "factors" not in split.records[int(index[0])]:
        return None
    drawn: list[dict[str, Any]] = []
    for start in range(0, len(index), _AT_ONCE):
        drawn += [r["factors"] for r in split.records.__getitems__(index[start : start + _AT_ONCE].tolist())]
    return {
        f"|{name}|" if bins and bins.unsigned else name: _rows(np.array([d[name] for d in drawn]), right, bins)
        for name, bins in FACTORS.items()
    }


def spread(rows: Rows) -> dict[str, Any]:
    """How far the groups of one factor are apart: {"best", "worst": their values, "gap": in accuracy, "chi2",
    "p_value"}.

    The gap between the best and the worst of several groups is above 0 by luck alone, so it says nothing without the
    p-value: that of Pearson's chi-squared statistic of right and wrong answers by group, among PERMUTATIONS random
    ones of the answers (Phipson and Smyth 2010: (1 + as large) / (1 + all), never 0).
    Raises ValueError without rows.
    """
    if not rows:
        raise ValueError("no rows: a factor needs at least 1 group of examples")
    sizes = np.array([row["examples"] for row in rows])  # (G,)
    correct = np.rint(sizes * [row["accuracy"] for row in rows]).astype(np.int64)
    best, worst = (max(rows, key=lambda row: sign * row["accuracy"]) for sign in (1, -1))
    # Answers shuffled over the examples fall into the groups as balls drawn from an urn do.
    rng = np.random.default_rng(0)
    drawn = rng.multivariate_hypergeometric(sizes, int(correct.sum()), size=PERMUTATIONS)  # (R, G)
    chi2 = float(_chi_squared(correct, sizes))
    as_large = int((_chi_squared(drawn, sizes) >= chi2 * (1 - 1e-9)).sum())
    return {
        "best": best["value"], "worst": worst["value"], "gap": best["accuracy"] - worst["accuracy"], "chi2": chi2,
        "p_value": (1 + as_large) / (1 + PERMUTATIONS),
    }  # fmt: skip


def _rows(values: np.ndarray, right: np.ndarray, bins: _Bins | None) -> Rows:
    """One row for each different value, or each bin, that has examples; the outermost bins take what lies beyond."""
    if bins is None:
        different, groups = np.unique(values, return_inverse=True)
        names = [v.decode() if isinstance(v, bytes) else str(v) for v in different]
    else:
        names = [f"{low:g} to {high:g}" for low, high in itertools.pairwise(bins.edges)]
        places = np.searchsorted(bins.edges, np.abs(values) if bins.unsigned else values, side="right")
        groups = np.clip(places - 1, 0, len(names) - 1)
    rows = []
    for group, count in enumerate(np.bincount(groups, minlength=len(names)).tolist()):
        if count:
            correct = int(right[groups == group].sum())
            between = list(metrics.wilson_interval(correct, count))
            rows.append({"value": names[group], "examples": count, "accuracy": correct / count, "interval": between})
    return rows


def _chi_squared(correct: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Pearson's statistic for independence of (..., G) right answers and groups of `sizes` (G,); 0 without variance."""
    rate = correct.sum(-1, keepdims=True) / sizes.sum()
    variance = sizes * rate * (1 - rate)  # (..., G)
    return np.divide((correct - sizes * rate) ** 2, variance, out=np.zeros(variance.shape), where=variance > 0).sum(-1)
