"""The page's charts: from the parts of a document to what `charts` draws. Fractions become per cent on the way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from markupsafe import Markup

from data_pipelines.common.pages import finite, get, label
from expressnet_jax.figures import charts

_MOST_POINTS = 300  # of a curve


def level(study: dict[str, Any]) -> str:
    """What the intervals of a study's differences are."""
    alpha = finite(study.get("alpha"))
    return "simultaneous intervals" if alpha is None else f"simultaneous {100 * (1 - alpha):g} % intervals"


def of_study(study: dict[str, Any]) -> Markup:
    """The arms' differences from the baseline, and all their runs."""
    differences = []
    for one in study.get("comparisons") or []:
        difference, verdict = finite(one.get("difference")), str(one.get("verdict") or "no verdict")
        if difference is not None:
            differences.append(charts.Difference(label(one.get("arm")), difference, _ends(one), verdict))
    rows = []
    for arm in study.get("arms") or []:
        accuracy = get(arm, "metrics", "accuracy") or {}
        values = [x for x in map(finite, accuracy.get("values") or []) if x is not None]
        rows.append(charts.Dots(label(arm.get("name")), values, finite(accuracy.get("mean")), _ends(accuracy)))
    forest = charts.forest("forest", differences, label(study.get("baseline")), level(study))
    return Markup(forest + charts.dots("dots", rows))


def _ends(found: dict[str, Any]) -> tuple[float, float] | None:
    low, high = (finite(get(found, "interval", end)) for end in (0, 1))
    return None if low is None or high is None else (low, high)


def _points(pairs: Iterable[tuple[Any, Any]], scale: float = 100) -> list[tuple[float, float]]:
    """The pairs in which both are numbers; y times the scale."""
    known = ((finite(x), finite(y)) for x, y in pairs)
    return [(x, scale * y) for x, y in known if x is not None and y is not None]


def of_training(found: dict[str, Any], key: str) -> Markup:
    """The loss and the accuracy over epochs."""
    return Markup("".join(_curve(found, key, what, column) for column, what in ((1, "loss"), (2, "accuracy"))))


def _curve(found: dict[str, Any], key: str, what: str, column: int) -> str:
    both = [[(get(one, 0), get(one, column)) for one in found.get(part) or []] for part in ("train", "validation")]
    (points, mean_of), (validated, also) = (_thin(_points(pairs, 1 if what == "loss" else 100)) for pairs in both)
    training = "training" if mean_of == 1 else f"training (mean of {mean_of} records)"
    drawn = [charts.Line(training, points), charts.Line("validation", validated, look=1)]
    title = ("Loss" if what == "loss" else "Accuracy, %") + (f"; validation: mean of {also}" if also > 1 else "")
    return charts.lines(f"{key}-{what}", title, drawn, "epoch", best=finite(found.get("best_epoch")))


def _thin(points: list[tuple[float, float]]) -> tuple[list[tuple[float, float]], int]:
    """At most _MOST_POINTS means of neighbours, and how many neighbours each is the mean of."""
    size = -(-len(points) // _MOST_POINTS) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups], size


def of_calibration(found: dict[str, Any], key: str) -> Markup:
    """Accuracy over confidence before and after scaling, and the bins' sizes before it."""
    states = {when: found[when].get("bins") or [] for when in ("before", "after") if found.get(when)}
    drawn = []
    for look, (when, bins) in enumerate(states.items()):
        means = _points((one.get("confidence"), one.get("accuracy")) for one in bins if one.get("count"))
        drawn.append(charts.Line(f"{when} scaling", [(100 * x, y) for x, y in means], look))
    first = next(iter(states.values()), [])
    most = max((one.get("count") or 0 for one in first), default=0)
    known = [one for one in first if one.get("count") and None not in (one.get("low"), one.get("high"))]
    return Markup(charts.reliability(key, drawn, [(one["low"], one["high"], one["count"] / most) for one in known]))


def of_robustness(found: dict[str, Any], key: str) -> Markup:
    """A panel for each corruption: accuracy and macro F1 over strengths."""
    strengths = found.get("strengths") or []
    panels = ""
    for place, (name, one) in enumerate((found.get("corruptions") or {}).items()):
        pairs = {measure: zip(strengths, get(one, measure) or [], strict=False) for measure in ("accuracy", "macro_f1")}
        drawn = [charts.Line("accuracy", _points(pairs["accuracy"])),
                 charts.Line("macro F1", _points(pairs["macro_f1"]), look=1)]  # fmt: skip
        panels += charts.panel(f"{key}-{place}", name, drawn)
    return Markup(panels)
