"""The report as one HTML file: it needs no network, reads well without its script, and is a function of the report.

What it says stands in templates/; here are the tables and charts that they are given. A report's parts may be missing
at any depth. What the report quotes from strangers' files is escaped (`data_pipelines.common.pages`); pictures have to
be data: URIs.
"""

import bisect
import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from data_pipelines.common import pages
from data_pipelines.common.pages import Grid, finite, get, grid, label, matrix
from expressnet_jax.figures import charts
from expressnet_jax.report import number_files
from expressnet_jax.report.declared import FILES, METRICS, ON_PAGE, layers, settings

_PICTURE = re.compile(r"data:image/(png|jpeg|webp|gif);base64,[A-Za-z0-9+/]+={0,2}")
_MOST_LISTED = 30  # runs that are not done, at the top
_MOST_VALIDATIONS = 200  # rows of the curves' table
_MOST_POINTS = 300  # of a curve
_MOST_RECORDS = 60  # its rows where there was no validation


def write(report: dict[str, Any], path: Path) -> None:
    """Writes the page, whole or not at all. Raises DataError where it cannot be written."""
    number_files.write(path.parent, {path.name: render(report)})


def render(report: dict[str, Any]) -> str:
    """The page's text, in ASCII."""
    return pages.render(_template(), report=report, runs=report.get("runs") or [], **_header(report))


@functools.cache
def _template() -> jinja2.Template:
    made = pages.environment(Path(__file__).parent / "templates")
    given = (
        _level, _study_charts, _training_charts, _calibration_chart, _robustness_charts, _declared, layers, settings,
        _epochs, _arm_runs, _agreement, _published_classes, _confusion, _corruptions, _expert_classes,
    )  # fmt: skip
    made.globals |= {one.__name__.lstrip("_"): one for one in given}
    made.tests["picture"] = lambda value: isinstance(value, str) and _PICTURE.fullmatch(value) is not None
    return made.get_template("page.html.j2")


def _header(report: dict[str, Any]) -> dict[str, Any]:
    """How many runs are done, which are not, and the notes, less those that say this again."""
    runs = report.get("runs") or []
    counts = get(report, "study", "counts") or {}
    states = [str(run.get("state") or "in a state not known") for run in runs]
    troubled = [run for run in runs if run.get("state") != "done"]
    said = tuple(f"{run.get('name')}: {run.get('state')}" for run in troubled)
    others = counts or {state: states.count(state) for state in dict.fromkeys(states)}
    return {
        "title": report.get("title") or "Report",
        "done": counts.get("done", states.count("done")),
        "planned": counts.get("planned", len(runs)),
        "others": {state: count for state, count in others.items() if count and state not in ("planned", "done")},
        "troubled": troubled[:_MOST_LISTED],
        "more": max(len(troubled) - _MOST_LISTED, 0),
        "notes": [note for note in report.get("notes") or [] if not label(note).startswith(said)],
    }


def _declared(name: str, part: Any) -> Grid:
    return (FILES.get(name) or ON_PAGE[name]).grid(part)


def _epochs(training: dict[str, Any]) -> tuple[str, Grid]:
    """The caption and the rows of the curves' table: a row for each validation, beside the last training record before
    it; without any validation, some training records."""
    train, validation = training.get("train") or [], training.get("validation") or []
    if validation:
        kept, which = _some(validation, _MOST_VALIDATIONS, "validation")
        caption = f"{which}, and the last training record before it."
        known = [one for one in train if finite(get(one, 0)) is not None]
        before = (bisect.bisect_right(known, finite(get(one, 0)) or 0, key=lambda one: one[0]) for one in kept)
        pairs = [(known[place - 1] if place else None, one) for one, place in zip(kept, before, strict=True)]
    else:
        kept, which = _some(train, _MOST_RECORDS, "training record")
        caption = f"{which}; this run has not been validated."
        pairs = [(one, []) for one in kept]
    columns = {
        "epoch": "plain", "training loss": "decimal", "training accuracy, %": "percent", "validation loss": "decimal",
        "validation accuracy, %": "percent", "validation macro F1, %": "percent",
    }  # fmt: skip
    rows = [
        [get(validated or trained, 0), *(get(trained, n) for n in (1, 2)), *(get(validated, n) for n in (1, 2, 3))]
        for trained, validated in pairs
    ]
    return caption, grid(columns.items(), rows)


def _some(records: list[list[Any]], most: int, kind: str) -> tuple[list[list[Any]], str]:
    """At most so many of the records, in even steps up to the last, and which they are in words."""
    step = -(-len(records) // most) or 1
    kept = records[::-1][::step][::-1]
    return kept, f"Each {kind}" if step == 1 else f"Every {_ordinal(step)} {kind} up to the last"


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number % 100 not in (11, 12, 13) else "th"
    return f"{number}{ending}"


def _arm_runs(study: dict[str, Any]) -> Grid:
    rows = ((arm.get("name"), [get(arm, "metrics", key, "values") for key in METRICS]) for arm in study["arms"])
    return matrix("arm", (f"{name}, %" for name in METRICS.values()), rows, "values")


def _agreement(study: dict[str, Any]) -> Grid:
    found = study.get("agreement") or {}
    columns = list(dict.fromkeys(layer for by_layer in found.values() for layer in by_layer or {}))
    rows = ((arm, [get(by_layer, layer) for layer in columns]) for arm, by_layer in found.items() if columns)
    return matrix("arm", columns, rows, "decimal")


def _published_classes(paper: dict[str, Any]) -> Grid:
    labels = list(paper.get("classes") or paper.get("per_class_f1") or {})
    rows = FILES["published"].of(paper) if labels else []
    by_class = ((row.get("run"), [get(row, "per_class_f1", name) for name in labels]) for row in rows)
    return matrix("run", labels, by_class, "percent")


def _confusion(found: dict[str, Any]) -> Grid:
    labels = found.get("classes") or []
    counts = ([get(row, place) for place in range(len(labels))] for row in found.get("confusion") or [])
    rows = zip(labels, map(_parts, counts), strict=False)
    return matrix("true \\ predicted", labels, rows, "part")


def _expert_classes(layer: dict[str, Any]) -> Grid:
    """The document has a row for each expert, the page one for each class."""
    experts = layer.get("classes") or []
    rows = ((true, _parts([get(row, place) for row in experts])) for place, true in enumerate(layer["labels"]))
    return matrix("class \\ expert", range(len(experts)), rows if experts else [], "part")


def _parts(counts: list[Any]) -> list[dict[str, Any]]:
    total = sum(count or 0 for count in counts)
    return [{"count": count, "total": total} for count in counts]


def _corruptions(found: dict[str, Any], measure: str) -> Grid:
    strengths = found.get("strengths") or []
    curves = ((name, get(one, measure) or []) for name, one in (found.get("corruptions") or {}).items())
    rows = ((name, [get(values, place) for place in range(len(strengths))]) for name, values in curves)
    return matrix("corruption", (f"strength {label(strength)}" for strength in strengths), rows, "heat")


def _level(study: dict[str, Any]) -> str:
    """What the intervals of a study's differences are."""
    alpha = finite(study.get("alpha"))
    return "simultaneous intervals" if alpha is None else f"simultaneous {100 * (1 - alpha):g} % intervals"


def _study_charts(study: dict[str, Any]) -> Markup:
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
    forest = charts.forest("forest", differences, label(study.get("baseline")), _level(study))
    return Markup(forest + charts.dots("dots", rows))


def _ends(found: dict[str, Any]) -> tuple[float, float] | None:
    low, high = (finite(get(found, "interval", end)) for end in (0, 1))
    return None if low is None or high is None else (low, high)


def _points(pairs: Iterable[tuple[Any, Any]], scale: float = 100) -> list[tuple[float, float]]:
    """The pairs in which both are numbers; y times the scale."""
    known = ((finite(x), finite(y)) for x, y in pairs)
    return [(x, scale * y) for x, y in known if x is not None and y is not None]


def _training_charts(found: dict[str, Any], key: str) -> Markup:
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


def _calibration_chart(found: dict[str, Any], key: str) -> Markup:
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


def _robustness_charts(found: dict[str, Any], key: str) -> Markup:
    """A panel for each corruption: accuracy and macro F1 over strengths."""
    strengths = found.get("strengths") or []
    panels = ""
    for place, (name, one) in enumerate((found.get("corruptions") or {}).items()):
        pairs = {measure: zip(strengths, get(one, measure) or [], strict=False) for measure in ("accuracy", "macro_f1")}
        drawn = [charts.Line("accuracy", _points(pairs["accuracy"])),
                 charts.Line("macro F1", _points(pairs["macro_f1"]), look=1)]  # fmt: skip
        panels += charts.panel(f"{key}-{place}", name, drawn)
    return Markup(panels)
