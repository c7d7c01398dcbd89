"""Of the page: the runs, each with its settings, training, evaluations and pictures."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from typing import Any

from data_pipelines.common.text import LONG
from expressnet_jax.figures import charts
from expressnet_jax.report.markup import (
    Cell,
    Html,
    Number,
    breakable,
    facts,
    finite,
    folded,
    get,
    heading,
    interval,
    join,
    label,
    name,
    paragraph,
    table,
    text,
)
from expressnet_jax.report.sections_evaluation import evaluation
from expressnet_jax.report.sections_study import settings

_PICTURE = re.compile(r"data:image/(png|jpeg|webp|gif);base64,[A-Za-z0-9+/]+={0,2}")
_MOST_POINTS = 300  # of a curve
_MOST_VALIDATIONS = 200  # rows of the curves' table
_MOST_RECORDS = 60  # its rows where there was no validation


def runs(found: list[dict[str, Any]]) -> Html:
    """A table of all runs, then each of them: open where there is one, else folded."""
    if not found:
        return Html("")
    each = join(_run(run, place, len(found) > 1) for place, run in enumerate(found))
    return Html(f'<section aria-labelledby="runs">\n{heading(2, "Runs", "runs")}{_overview(found)}{each}</section>\n')


def all_evaluations(report: dict[str, Any]) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """([run, split], evaluation) of every evaluation."""
    for run in report.get("runs") or []:
        for one in run.get("evaluations") or []:
            yield [run.get("name"), one.get("split")], one


def states(found: list[dict[str, Any]]) -> list[Html]:
    """A sentence for every run that is not done."""
    return [
        Html(f"{name(run.get('name'))}: {text(run.get('state') or 'state not known')}{_why(run)}")
        for run in found
        if run.get("state") != "done"
    ]


def _why(run: dict[str, Any]) -> str:
    return f": {text(run['why'], LONG)}" if run.get("why") else ""


def _overview(found: list[dict[str, Any]]) -> Html:
    rows: list[list[Cell]] = []
    for place, run in enumerate(found):
        link = Html(f'<a href="#run-{place}">{breakable(run.get("name"))}</a>')
        about: list[Cell] = [label(run.get("arm")), Number(run.get("seed"), "plain"), label(run.get("state"))]
        for one in run.get("evaluations") or [{}]:
            accuracy, between = (
                Number(one.get("accuracy"), "percent"),
                interval(one.get("accuracy_interval"), "percent"),
            )
            means = [Number(one.get(key), "percent") for key in ("mean_class_accuracy", "macro_f1")]
            ece = Number(get(one, "depth", "calibration", "before", "ece"), "percent")
            rows.append([link, *about, label(one.get("split")), accuracy, between, *means, ece])
    head = ["run", "arm", "seed", "state", "split", "accuracy, %", "95 % interval, %", "mean class accuracy, %"]
    return table("all-runs", "All runs and their evaluations.", [*head, "macro F1, %", "ECE, %"], rows)


def _run(run: dict[str, Any], place: int, many: bool) -> Html:
    key = f"run-{place}"
    state = run.get("state")
    trouble = "" if state == "done" else paragraph(f"{text(state or 'state not known').capitalize()}{_why(run)}")
    pictures = _pictures(run.get("pictures") or [])
    evaluations = [evaluation(one, f"{key}-evaluation-{n}") for n, one in enumerate(run.get("evaluations") or [])]
    content = join([_about(run), _training(run.get("training"), key), *evaluations, pictures])
    title = heading(3, label(run.get("name")))
    inside = f'<div class="target" id="{key}">\n{trouble}{content}</div>\n'
    if many and content:
        aside = join([text(part) for part in (run.get("arm"), state) if part], ", ")
        summary = f'<summary>{title.strip()} <span class="weak">{aside}</span></summary>'
        return Html(f'<details class="run">\n{summary}\n{inside}</details>\n')
    return Html(f'<div class="run">\n{title}{inside}</div>\n')


def _about(run: dict[str, Any]) -> Html:
    pairs: list[tuple[str, Cell]] = [
        ("arm", run.get("arm")),
        ("seed", None if run.get("seed") is None else Number(run["seed"], "plain")),
        ("folder", run.get("path")),
        ("parameters", None if run.get("parameters") is None else Number(run["parameters"], "count")),
        (
            "GFLOP an image, all experts computed",
            None if run.get("flops_per_image") is None else Number(run["flops_per_image"], "giga"),
        ),
        ("settings", settings(run.get("settings"))),
    ]
    if not any(run.get(key) for key in ("parameters", "flops_per_image", "settings", "training", "evaluations")):
        return Html("")  # a run that never began: its state says it all
    return facts((title, value) for title, value in pairs if value is not None)


def _training(found: dict[str, Any] | None, key: str) -> Html:
    if not found:
        return Html("")
    pairs: list[tuple[str, Cell]] = [
        ("steps", Number(found.get("steps"), "count")),
        ("best step", Number(found.get("best_step"), "count")),
        ("best epoch", Number(found.get("best_epoch"), "plain")),
        ("training time", found.get("training_time")),
        ("images/s, median", Number(found.get("images_per_second"), "rate")),
    ]
    train, validation = found.get("train") or [], found.get("validation") or []
    best = finite(found.get("best_epoch"))
    drawn = [_curve(key, train, validation, 1, best), _curve(key, train, validation, 2, best)]
    parts = [
        heading(4, "Training"),
        facts(pairs),
        f'<div class="charts">\n{join(drawn)}</div>\n' if any(drawn) else "",
        folded("The curves as a table", _epochs(train, validation, key)),
    ]
    return join(parts)


def _curve(key: str, train: list[list[Any]], validation: list[list[Any]], column: int, best: float | None) -> Html:
    """The loss (column 1) or the accuracy in % (2) over epochs."""
    scale, what = (1, "loss") if column == 1 else (100, "accuracy")
    (points, mean_of), (validated, also) = (_thin(_points(found, column, scale)) for found in (train, validation))
    training = "training" if mean_of == 1 else f"training (mean of {mean_of} records)"
    drawn = [charts.Line(training, points), charts.Line("validation", validated, look=1)]
    title = ("Loss" if column == 1 else "Accuracy, %") + (f"; validation: mean of {also}" if also > 1 else "")
    return Html(charts.lines(f"{key}-{what}", title, drawn, "epoch", best=best))


def _points(records: list[list[Any]], column: int, scale: float) -> list[tuple[float, float]]:
    pairs = [(finite(get(record, 0)), finite(get(record, column))) for record in records]
    return [(epoch, scale * value) for epoch, value in pairs if epoch is not None and value is not None]


def _thin(points: list[tuple[float, float]]) -> tuple[list[tuple[float, float]], int]:
    """At most _MOST_POINTS means of neighbours, and how many neighbours each is the mean of."""
    size = -(-len(points) // _MOST_POINTS) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups], size


def _epochs(train: list[list[Any]], validation: list[list[Any]], key: str) -> Html:
    """A row for each validation, beside the last training record before it; without any, some training records."""
    pairs: list[tuple[Any, Any]] = []
    if validation:
        shown, which = _spread(validation, _MOST_VALIDATIONS, "validation")
        caption = f"{which}, and the last training record before it."
        known = [one for one in train if finite(get(one, 0)) is not None]
        for record in shown:
            earlier = bisect.bisect_right(known, finite(get(record, 0)) or 0, key=lambda one: one[0])
            pairs.append((record, known[earlier - 1] if earlier else None))
    else:
        shown, which = _spread(train, _MOST_RECORDS, "training record")
        caption = f"{which}; this run has not been validated."
        pairs = [(None, record) for record in shown]
    rows: list[list[Cell]] = []
    for validated, trained in pairs:
        epoch = get(validated, 0) if validated else get(trained, 0)
        values = [Number(get(trained, 1), "decimal"), Number(get(trained, 2), "percent")]
        values += [Number(get(validated, 1), "decimal"), Number(get(validated, 2), "percent")]
        rows.append([Number(epoch, "plain"), *values, Number(get(validated, 3), "percent")])
    head = ["epoch", "training loss", "training accuracy, %", "validation loss", "validation accuracy, %"]
    return table(f"{key}-epochs", caption, [*head, "validation macro F1, %"], rows, "")


def _spread(records: list[list[Any]], most: int, kind: str) -> tuple[list[list[Any]], str]:
    """At most so many of the records, in even steps up to the last, and which they are in words."""
    step = -(-len(records) // most) or 1
    shown = records[::-1][::step][::-1]
    return shown, f"Each {kind}" if step == 1 else f"Every {_ordinal(step)} {kind} up to the last"


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number % 100 not in (11, 12, 13) else "th"
    return f"{number}{ending}"


def _pictures(found: list[dict[str, Any]]) -> Html:
    figures = []
    for one in found:
        caption = f"<figcaption>{text(one.get('title') or 'without a title')}</figcaption>"
        source = str(one.get("src") or "")
        if _PICTURE.fullmatch(source):
            figures.append(f'<figure><img src="{source}" alt="{text(one.get("alt") or "", LONG)}">{caption}</figure>\n')
        else:
            figures.append(f"<figure><p>This picture cannot be shown.</p>{caption}</figure>\n")
    return join([heading(4, "Pictures"), f'<div class="pictures">\n{join(figures)}</div>\n']) if figures else Html("")
