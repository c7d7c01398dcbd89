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
    """What came out."""
    by_arm = {one["arm"]: one for one in found["comparisons"]}
    rows = [["setting", "runs", "accuracy", "95 % interval", "against the baseline", ""]]
    for arm in found["arms"]:
        accuracy, compared = arm["metrics"].get("accuracy"), by_arm.get(arm["name"])
        rows.append(
            [
                arm["name"] + " (baseline)" * (arm["name"] == found["baseline"]),
                str(arm["done"]),
                "-" if accuracy is None else f"{accuracy['mean']:.2%}",
                _interval(accuracy["interval"] if accuracy else None),
                "" if compared is None or compared["difference"] is None
                else f"{100 * compared['difference']:+.2f} {_interval(compared['interval'], points=True)}",
                "" if compared is None else compared["verdict"],
            ]
        )  # fmt: skip
    return "\n".join([*aligned(rows), "", *found["conclusion"]])


def _interval(bounds: list[float] | None, points: bool = False) -> str:
    if bounds is None:
        return ""
    low, high = (100 * bound for bound in bounds)
    return f"({low:+.2f} to {high:+.2f} points)" if points else f"{low:.2f} to {high:.2f} %"
