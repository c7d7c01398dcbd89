"""What a network's answers on a split tell beyond accuracy: their confidence, their steadiness, whom they agree with.

Legend: N examples, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from data_pipelines.common.text import counted
from expressnet_jax.evaluation import calibration, metrics, statistics
from expressnet_jax.evaluation.answers import Answers, log_softmax
from expressnet_jax.evaluation.metrics import interval, percent


def of(
    answers: Answers, *, fitted: Answers | None, fitted_on: str | None, leaked: NDArray[np.bool_] | None
) -> dict[str, Any]:
    """{calibration, flip, duplicates, votes} of a network's answers, ready for JSON.

    calibration     `calibration.scores` before and after the temperature that suits `fitted` best (None: before only)
    flip            the figures of the mean of the probabilities for a picture and its mirror image; `difference` of
                    its accuracy to the picture's alone, with the exact McNemar p-value
    duplicates      the accuracy of the `leaked` examples and without them; None where that is not known
    votes           how far the probabilities (at temperature 1) are those of people's votes; None without votes

    Args:
        fitted: answers on other examples of the same network; the temperature must not see the examples it is
            judged by.
        fitted_on: the name of their split.
        leaked: (N,) bool, true for an example whose picture is in the training data too.

    Raises ValueError: `fitted` is the evaluated split or has no name, `leaked` of another length, or answers that
    `calibration.scores` refuses.
    """
    if (fitted is None) != (fitted_on is None):
        raise ValueError("answers to fit a temperature on and the name of their split go together")
    same = ("index", "label", "logits")
    if fitted is not None and all(np.array_equal(getattr(fitted, key), getattr(answers, key)) for key in same):
        raise ValueError(f"the temperature cannot be fitted on the {len(answers.label)} examples that it is judged by")
    return {
        "calibration": _calibration(answers, fitted, fitted_on),
        "flip": _flip(answers),
        "duplicates": None if leaked is None else _duplicates(answers, np.asarray(leaked, bool)),
        "votes": None if answers.votes is None else _votes(answers.logits, answers.votes),
    }


def rank_correlation(first: ArrayLike, second: ArrayLike) -> float | None:
    """Spearman's rank correlation of two variables (N,), tied values at their mean rank; None where one is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(stats.spearmanr(first, second).statistic)


def describe(depth: dict[str, Any]) -> str:
    """What `of` found as plain text, a line or two for each part that there is."""
    flip = depth["flip"]
    lines = [
        *_calibration_lines(depth["calibration"]),
        f"with mirror image    accuracy {percent(flip['accuracy'])} {interval(flip['interval'])}, "
        f"{100 * flip['difference']:+.2f} points, McNemar p = {flip['mcnemar_p']:.2g}; "
        f"macro F1 {percent(flip['macro_f1'])}",
    ]
    if found := depth["duplicates"]:
        lines.append(
            f"duplicates           {counted(found['leaked'], 'example')} in the training data too: accuracy "
            f"{percent(found['accuracy_leaked'])} of them, {percent(found['accuracy_without'])} without them"
        )
    if found := depth["votes"]:
        correlation = found["spearman_entropy"]
        lines += [
            f"people's votes       {percent(found['agreement_top'])} as the majority, which gets "
            f"{percent(found['mean_probability_of_majority'])} of the probability on average",
            f"                     cross entropy {found['cross_entropy']:.4f}, KL divergence {found['kl']:.4f} nats, "
            f"rank correlation of entropies {'-' if correlation is None else format(correlation, '.3f')}",
        ]
    return "\n".join(lines)


def _calibration(answers: Answers, fitted: Answers | None, fitted_on: str | None) -> dict[str, Any]:
    temperature = None if fitted is None else calibration.fit_temperature(fitted.logits, fitted.label)
    return {
        "temperature": temperature,
        "fitted_on": fitted_on,
        "before": calibration.scores(answers.logits, answers.label),
        "after": None if temperature is None else calibration.scores(answers.logits, answers.label, temperature),
    }


def _flip(answers: Answers) -> dict[str, Any]:
    both = (calibration.probabilities(answers.logits) + calibration.probabilities(answers.flipped)) / 2
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
        "accuracy_without": without["accuracy"] if without else None,
        "macro_f1_without": without["macro_f1"] if without else None,
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
    p, log_p = calibration.probabilities(logits[voted]), log_softmax(logits[voted])
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


def _calibration_lines(found: dict[str, Any]) -> list[str]:
    def line(name: str, scores: dict[str, Any]) -> str:
        error = percent(scores["ece"])
        return f"{name:<19}  error {error:>8}, NLL {scores['nll']:.4f} nats, Brier score {scores['brier']:.4f}"

    lines, temperature = [line("calibration", found["before"])], found["temperature"]
    if temperature is not None:
        at_bound = temperature in (calibration.LOWEST, calibration.HIGHEST)
        note = f"  (fitted on {found['fitted_on']}{'; a bound, as none between is best' if at_bound else ''})"
        lines.append(line(f"at temperature {temperature:.3g}", found["after"]) + note)
    return lines
