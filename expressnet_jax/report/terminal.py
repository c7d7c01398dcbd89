"""Studies as plain text."""

from __future__ import annotations

from typing import Any

from data_pipelines.common.tables import aligned
from data_pipelines.common.text import counted
from expressnet_jax.ablation.study import Study


def plan(study: Study, flops: dict[str, float]) -> str:
    """What will be compared, and what each run asks for against the baseline's."""
    seeds = f"{'seed' if len(study.seeds) == 1 else 'seeds'} {', '.join(map(str, study.seeds))}"
    runs, settings = counted(len(study.runs), "run"), counted(len(study.arms), "setting")
    lines = [f"{study.name}: {runs}, {settings} with {seeds}, compared on {study.split}"]
    base = flops[study.baseline]
    rows = [["setting", "work of a run, baseline = 1"]]
    rows += [[f"{name}{' (baseline)' * (name == study.baseline)}", f"{flops[name] / base:.3f}"] for name in study.arms]
    lines += aligned(rows)
    lines += [f"left out: {one['arm']}: {one['why']}" for one in study.left_out]
    return "\n".join(lines)


def study(found: dict[str, Any]) -> str:
    """What came out: a line for each setting, then the conclusion."""
    by_arm = {one["arm"]: one for one in found["comparisons"]}
    rows = [["setting", "runs", "accuracy", "95 % interval", "against the baseline", ""]]
    for arm in found["arms"]:
        accuracy, compared = arm["metrics"]["accuracy"], by_arm.get(arm["name"])
        row = [arm["name"] + " (baseline)" * (arm["name"] == found["baseline"]), str(arm["done"])]
        row += ["-", ""] if accuracy is None else [f"{accuracy['mean']:.2%}", _percent(accuracy["interval"])]
        row += [_difference(compared), compared["verdict"]] if compared else ["", ""]
        rows.append(row)
    return "\n".join([*aligned(rows), "", *found["conclusion"]])


def _percent(bounds: list[float] | None) -> str:
    return f"{100 * bounds[0]:.2f} to {100 * bounds[1]:.2f} %" if bounds else ""


def _difference(one: dict[str, Any]) -> str:
    if one["difference"] is None:
        return ""
    between = f" ({100 * one['interval'][0]:+.2f} to {100 * one['interval'][1]:+.2f} points)" if one["interval"] else ""
    return f"{100 * one['difference']:+.2f}{between}"
