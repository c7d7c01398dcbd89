"""What each expert answers for, over a whole split.

`train.progress` records the routers of an interval of training: sums over batches, with noise and dropout, while the
weights move. Here every example of a split is routed once, by the weights that would be exported, so that examples
can be named, first choices compared with the true class, and runs with each other.

Legend: N examples, C classes that the network and the data set both have, E experts, K selected, S seeds.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats
from scipy.stats.contingency import crosstab

from expressnet_jax.evaluation.answers import Answers


def of(answers: Answers, surest: int = 8) -> dict[str, Any]:
    """Every routed layer of a network's answers, ready for JSON; nothing for a network without experts.

    experts, selected               E and K
    load                            (E,) share of the N K selections; where all experts answer (K = E), all of these
                                    would be equal: there load and classes are of the first choices alone
    importance                      (E,) share of the probability
    entropy                         mean entropy of the probabilities, in nats
    first                           (E,) share of the N first choices
    dead                            how many experts are nobody's first choice
    classes                         (E, C) selections by true class
    mutual_information              between an example's first choice and its true class, in bits
    mutual_information_by_chance    what it would be on average if the choices were shuffled: counts alone give some
    normalized_mutual_information   over the entropy of the classes; None where all examples are of one class
    surest                          for each expert the `surest` examples with the largest probability for it, of those
                                    that chose it first: {index, label, probability}; ties by index

    Classes are counted as in the summary of the evaluation: only those that the data set has too, which `label`
    numbers.
    """
    label = np.searchsorted(answers.shared, answers.label)  # (N,) among the classes of the summary
    return {layer: _layer(answers, label, layer, surest) for layer in answers.routing}


def agreement(choices: Sequence[ArrayLike]) -> float | None:
    """How far S runs divide the same examples alike: the mean over pairs of runs of the adjusted mutual information of
    their first choices (N,), whatever numbers the experts have.

    1 for the same division, 0 on average for independent ones: (I - E[I]) / ((H + H') / 2 - E[I]), with E[I] over all
    shuffles (Vinh et al. 2010, JMLR 11, table 2, AMI_sum). None where no pair can disagree: fewer than two runs,
    or all in one expert. Raises ValueError where the runs have different numbers of examples, or none.
    """
    sizes = sorted({np.asarray(choice).size for choice in choices})
    if len(sizes) > 1 or 0 in sizes:
        raise ValueError(f"first choices for {', '.join(map(str, sizes))} examples: must be the same, at least 1")
    pairs = [_adjusted(crosstab(one, other).count) for one, other in itertools.combinations(choices, 2)]
    found = [value for value in pairs if value is not None]
    return sum(found) / len(found) if found else None


def mutual_information(counts: ArrayLike) -> float:
    """The mutual information in bits of the two variables of a table of counts, as found (no correction)."""
    table = np.asarray(counts, np.float64)
    return max(_entropy(table.sum(axis=0)) + _entropy(table.sum(axis=1)) - _entropy(table), 0.0)


def expected_information(counts: ArrayLike) -> float:
    """The mean of `mutual_information`, in bits, over all ways to shuffle one of the two variables.

    Exact, by the hypergeometric distribution of each cell (Vinh et al. 2010, JMLR 11, eq. 24a).
    """
    table = np.asarray(counts, np.int64)
    n = int(table.sum())
    log_factorial = special.gammaln(np.arange(n + 1) + 1)
    total = 0.0
    for a, b in itertools.product(table.sum(axis=1), table.sum(axis=0)):
        k = np.arange(max(1, a + b - n), min(a, b) + 1)  # what the cell can hold; 0 adds nothing
        whole = log_factorial[[a, b, n - a, n - b]].sum() - log_factorial[n]
        parts = log_factorial[k] + log_factorial[a - k] + log_factorial[b - k] + log_factorial[n - a - b + k]
        total += float((k / n * np.log2(n * k / max(a * b, 1)) * np.exp(whole - parts)).sum())
    return total


def _layer(answers: Answers, label: NDArray[np.intp], layer: str, surest: int) -> dict[str, Any]:
    probabilities, chosen = answers.routing[layer]
    p, c = probabilities.astype(np.float64), len(answers.shared)
    e, k = p.shape[1], chosen.shape[1]
    levels = range(e), range(c)
    first = crosstab(chosen[:, 0], label, levels=levels).count
    classes = first if k == e else crosstab(chosen.ravel(), np.repeat(label, k), levels=levels).count
    information, class_entropy = mutual_information(first), _entropy(first.sum(axis=0))
    load = classes.sum(axis=1)
    return {
        "experts": e,
        "selected": k,
        "load": (load / load.sum()).tolist(),
        "first": (first.sum(axis=1) / first.sum()).tolist(),
        "importance": (p.sum(axis=0) / p.sum()).tolist(),
        "entropy": abs(float(special.entr(p).sum(axis=1).mean())),
        "dead": int((first.sum(axis=1) == 0).sum()),
        "classes": classes.tolist(),
        "mutual_information": information,
        "mutual_information_by_chance": expected_information(first),
        "normalized_mutual_information": information / class_entropy if class_entropy else None,
        "surest": [_surest(answers, label, layer, expert, surest) for expert in range(e)],
    }


def _surest(answers: Answers, label: NDArray[np.intp], layer: str, expert: int, count: int) -> list[dict[str, Any]]:
    probabilities, chosen = answers.routing[layer]
    mine = np.flatnonzero(chosen[:, 0] == expert)
    mine = mine[np.lexsort((answers.index[mine], -probabilities[mine, expert]))][:count]
    columns = answers.index[mine], label[mine], probabilities[mine, expert].astype(np.float64)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [dict(zip(("index", "label", "probability"), row, strict=True)) for row in rows]


def _adjusted(counts: NDArray[np.int64]) -> float | None:
    expected = expected_information(counts)
    room = (_entropy(counts.sum(axis=0)) + _entropy(counts.sum(axis=1))) / 2 - expected
    # Without room both divisions put all examples together, or all apart: any shuffle is the same.
    return (mutual_information(counts) - expected) / room if room >= 1e-12 else None


def _entropy(counts: NDArray[Any]) -> float:
    """In bits, of the distribution that the counts are of."""
    return abs(float(stats.entropy(counts, base=2, axis=None)))
