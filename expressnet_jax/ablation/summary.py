"""What a study has shown: each setting's figures over its seeds, and its difference from the baseline.

Legend: S seeds, N examples, C classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.common.errors import DataError
from data_pipelines.common.prose import percent
from data_pipelines.common.tables import aligned
from data_pipelines.common.text import counted
from expressnet_jax.ablation.study import Outcome, Study, counts
from expressnet_jax.evaluation import answers as answering
from expressnet_jax.evaluation import depth, experts, statistics
from expressnet_jax.evaluation.answers import Answers

ALPHA = 0.05  # of all comparisons of a study together
_FACTS = ("name", "question", "config", "split", "seeds", "baseline", "left_out")
_FIGURES = ("accuracy", "mean_class_accuracy", "macro_f1", "ece")

Seeds = dict[int, Answers]  # seed -> answers of an arm's run that counts


def of(study: Study, runs: list[dict[str, Any]], outcomes: list[Outcome]) -> dict[str, Any]:
    """The study as `report.collect` has it in its document; `runs` are its runs there, in the order of the plan.

    Runs whose answers cannot be read, or are on other examples than the first one's, are not counted; `dropped` names
    each.
    """
    found, dropped = _answers(study, outcomes)
    compared = _comparisons(study.baseline, found)
    examples = next((len(one.label) for seeds in found.values() for one in seeds.values()), 0)
    return {
        **{key: getattr(study, key) for key in _FACTS},
        "common": dict(study.common), "alpha": ALPHA, "counts": counts(outcomes),
        "arms": [_arm(study, name, runs, seeds) for name, seeds in found.items()],
        "comparisons": compared, "agreement": {name: _agreement(seeds) for name, seeds in found.items()},
        "dropped": dropped, "conclusion": conclusion(study, compared, examples),
    }  # fmt: skip


def _answers(study: Study, outcomes: list[Outcome]) -> tuple[dict[str, Seeds], list[str]]:
    """arm -> the answers of its runs that are done, all on the same examples; and why the others do not count."""
    found: dict[str, Seeds] = {name: {} for name in study.arms}
    dropped, first = [], None
    for run, outcome in zip(study.runs, outcomes, strict=True):
        if outcome.state != "done" or outcome.judged is None:
            continue
        try:
            answers = answering.load(outcome.judged / "answers.npz")
        except DataError as error:
            dropped.append(f"run {run.number} is not counted: {error}")
            continue
        first = first or answers
        same = all(np.array_equal(getattr(answers, column), getattr(first, column)) for column in ("index", "label"))
        if answers.classes == first.classes and same:
            found[run.arm][run.seed] = answers
        else:
            dropped.append(f"run {run.number} is not counted: it was evaluated on other examples than the first run")
    return found, dropped


def _arm(study: Study, name: str, runs: list[dict[str, Any]], seeds: Seeds) -> dict[str, Any]:
    mine = [run for run in runs if run["arm"] == name]
    answers = list(seeds.values())
    metrics: dict[str, Any] = dict.fromkeys(_FIGURES)
    if answers:
        shared = answers[0].shared
        predictions = np.stack([np.searchsorted(shared, one.predicted) for one in answers])  # (S, N)
        metrics |= statistics.mean_intervals(predictions, np.searchsorted(shared, answers[0].label), len(shared))
        errors = [depth.scores(one.logits, one.label)["ece"] for one in answers]
        std = float(np.std(errors, ddof=1)) if len(errors) > 1 else None
        metrics["ece"] = {"values": errors, "mean": float(np.mean(errors)), "std": std, "interval": None, "over": None}
    speeds = [run["training"]["images_per_second"] for run in mine if run["training"] and run["state"] == "done"]
    return {
        "name": name, "settings": study.arms[name], "runs": [run["name"] for run in mine], "done": len(answers),
        **{key: next((run[key] for run in mine if run[key] is not None), None)
           for key in ("parameters", "flops_per_image")},
        "metrics": metrics, "images_per_second": float(np.median(speeds)) if speeds else None,
    }  # fmt: skip


def _comparisons(baseline: str, found: dict[str, Seeds]) -> list[dict[str, Any]]:
    """Every other setting against the baseline; the intervals hold together."""
    base = found[baseline]
    rows = []
    for name, arm in found.items():
        if name == baseline:
            continue
        row: dict[str, Any] = dict.fromkeys(("difference", "interval", "p_value")) | {"verdict": "not enough runs"}
        if arm and base:
            ours, theirs = (np.stack([one.right for one in side.values()]) for side in (arm, base))  # (S, N) each
            row = statistics.compare(ours, theirs, len(found) - 1, ALPHA)
        mcnemar = []
        for seed in sorted(set(arm) & set(base)):
            test = statistics.mcnemar(arm[seed].right, base[seed].right)
            sides = {"only_arm": test["only_first"], "only_baseline": test["only_second"]}
            mcnemar.append({"seed": seed, **sides, "p_value": test["p_value"]})
        rows.append({"arm": name, "baseline": baseline, **row, "mcnemar": mcnemar})
    return rows


def _agreement(seeds: Seeds) -> dict[str, float | None]:
    """How far the seeds of a setting divide the examples among experts alike, by layer."""
    runs = list(seeds.values())
    layers = [layer for layer in runs[0].routing if all(layer in one.routing for one in runs)] if runs else []
    return {layer: experts.agreement([one.routing[layer][1][:, 0] for one in runs]) for layer in layers}


def conclusion(study: Study, compared: list[dict[str, Any]], examples: int) -> list[str]:
    """What the intervals carry, in sentences: a setting is called better or worse only where its interval says so."""
    judged = [one for one in compared if one["interval"] is not None]
    if not judged:
        return ["No setting has the two runs that a comparison with the baseline needs on both sides."]
    level = f"{100 * (1 - ALPHA):g} % for all comparisons together"
    sentences = [
        f"Compared with {study.baseline} on {counted(examples, 'example')} of {study.split}: {len(judged)} of "
        f"{counted(len(compared), 'other setting')}. Intervals are of the difference in accuracy, over seeds and "
        f"examples, {level}."
    ]
    for verdict in ("better", "worse"):
        named = [f"{one['arm']} ({_points(one)})" for one in judged if one["verdict"] == verdict]
        if named:
            settings = counted(len(named), "setting is", "settings are")
            sentences.append(f"{settings} {verdict} than {study.baseline}: {'; '.join(named)}.")
    rest = [one for one in judged if one["verdict"] == "no difference shown"]
    if rest:
        half = float(np.median([(one["interval"][1] - one["interval"][0]) / 2 for one in rest]))
        sentences.append(
            f"For {len(rest)} of {len(judged)} no difference is shown: each interval includes 0. It reaches "
            f"{100 * half:.1f} points to either side (the median): a smaller difference could not have been seen here."
        )
    missing = [one["arm"] for one in compared if one["interval"] is None]
    if missing:
        sentences.append(f"Not enough finished runs to judge: {'; '.join(missing)}.")
    return sentences


def describe_plan(study: Study, flops: dict[str, float]) -> str:
    """What will be compared, and what each run asks for against the baseline's, as lines of text."""
    seeds = f"{'seed' if len(study.seeds) == 1 else 'seeds'} {', '.join(map(str, study.seeds))}"
    runs, settings = counted(len(study.runs), "run"), counted(len(study.arms), "setting")
    base = flops[study.baseline]
    rows = [["setting", "work of a run, baseline = 1"]]
    rows += [[name + " (baseline)" * (name == study.baseline), f"{flops[name] / base:.3f}"] for name in study.arms]
    left_out = [f"left out: {one['arm']}: {one['why']}" for one in study.left_out]
    head = f"{study.name}: {runs}, {settings} with {seeds}, compared on {study.split}"
    return "\n".join([head, *aligned(rows), *left_out])


def describe(found: dict[str, Any]) -> str:
    """What came out, as lines of text: one for each setting, then the conclusion."""
    by_arm = {one["arm"]: one for one in found["comparisons"]}
    rows = [["setting", "runs", "accuracy", "95 % interval", "against the baseline", ""]]
    for arm in found["arms"]:
        name, accuracy, compared = arm["name"], arm["metrics"]["accuracy"], by_arm.get(arm["name"])
        row = [name + " (baseline)" * (name == found["baseline"]), str(arm["done"]), "-", "", "", ""]
        if accuracy is not None:
            row[2] = percent(accuracy["mean"])
            row[3] = f"{_ends(accuracy['interval'], '.2f')} %" if accuracy["interval"] else ""
        if compared is not None:
            row[4:] = [_points(compared), compared["verdict"]]
        rows.append(row)
    return "\n".join([*aligned(rows), "", *found["conclusion"]])


def _points(one: dict[str, Any]) -> str:
    """A difference with its interval, where they are known, in points of percent."""
    if one["difference"] is None:
        return ""
    return f"{100 * one['difference']:+.2f} points" + (f", {_ends(one['interval'], '+.2f')}" if one["interval"] else "")


def _ends(interval: Sequence[float], form: str) -> str:
    low, high = interval
    return f"{100 * low:{form}} to {100 * high:{form}}"
