"""Of the page: the study, and its rows beside the published figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from data_pipelines.common.text import LONG
from expressnet_jax.figures import charts
from expressnet_jax.report.markup import (
    Cell,
    Html,
    Number,
    bullets,
    facts,
    finite,
    folded,
    get,
    heading,
    interval,
    join,
    label,
    paragraph,
    span,
    table,
    text,
)

#: Of an arm's runs: key in the document -> name on the page.
METRICS = {"accuracy": "accuracy", "mean_class_accuracy": "mean class accuracy", "macro_f1": "macro F1", "ece": "ECE"}
_NO_VERDICT = "no verdict"


def study(found: dict[str, Any]) -> Html:
    """The study: its question and conclusion first, then what they rest on."""
    about = {key: found.get(key) for key in ("config", "split", "baseline")}
    about |= {
        "seeds": ", ".join(map(label, found.get("seeds") or [])),
        "common settings": settings(found.get("common")),
    }
    conclusion = bullets(text(sentence, LONG) for sentence in found.get("conclusion") or [])
    parts = [
        heading(2, f"Study: {found.get('name') or 'without a name'}", "study"),
        paragraph(text(found["question"], LONG)) if found.get("question") else "",
        f'<div class="conclusion">\n{conclusion}</div>\n' if conclusion else "",
        facts((key, str(value)) for key, value in about.items() if value),
        _arms(found.get("arms") or []),
        _charts(found),
        _comparisons(found),
        _mcnemar(found.get("comparisons") or []),
        _left_out(found.get("left_out") or []),
        _agreement(found.get("agreement") or {}),
    ]
    return Html(f'<section aria-labelledby="study">\n{join(parts)}</section>\n')


def settings(found: dict[str, Any] | None) -> str | None:
    """All settings in one line, as they are written on the command line; None where there are none."""
    return ", ".join(f"{key}={_value(value)}" for key, value in (found or {}).items()) or None


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _arms(arms: list[dict[str, Any]]) -> Html:
    if not arms:
        return Html("")
    rows: list[list[Cell]] = []
    every: list[list[Cell]] = []
    for arm in arms:
        done = join([span(arm.get("done"), "count"), Html(f" of {span(len(arm.get('runs') or []), 'count')}")])
        means: list[Cell] = [_mean(get(arm, "metrics", key)) for key in METRICS]
        counts = [Number(arm.get("parameters"), "count"), Number(arm.get("flops_per_image"), "giga")]
        what = settings(arm.get("settings")) or "as in the config"
        rows.append([label(arm.get("name")), what, *counts, done, *means, Number(arm.get("images_per_second"), "rate")])
        values: list[Cell] = [
            join((span(x, "percent") for x in get(arm, "metrics", key, "values") or []), ", ") or None
            for key in METRICS
        ]
        every.append([label(arm.get("name")), *values])
    percents = [f"{title}, %" for title in METRICS.values()]
    head = ["arm", "settings", "parameters", "GFLOP an image", "seeds done", *percents, "images/s"]
    note = (
        "Mean ± standard deviation over seeds; below them the 95 % interval of the mean, which for one seed is that "
        "over examples alone. GFLOP an image are those of computing all experts, however many are selected."
    )
    return join(
        [
            heading(3, "Arms"),
            table("arms", note, head, rows),
            folded(
                "The figures of every run, by arm",
                table("arm-runs", "In the order of the runs.", ["arm", *percents], every),
            ),
        ]
    )


def _mean(metric: dict[str, Any] | None) -> Html | None:
    if get(metric, "mean") is None:
        return None
    spread = "" if get(metric, "std") is None else f" ± {span(get(metric, 'std'), 'percent')}"
    around = f"<br>{interval(get(metric, 'interval'), 'percent')}" if get(metric, "interval") else ""
    return Html(f"{span(get(metric, 'mean'), 'percent')}{spread}{around}")


def _charts(found: dict[str, Any]) -> Html:
    """The arms' differences from the baseline, and all their runs."""
    differences = []
    for one in found.get("comparisons") or []:
        difference, verdict = finite(one.get("difference")), str(one.get("verdict") or _NO_VERDICT)
        if difference is not None:
            differences.append(charts.Difference(label(one.get("arm")), difference, _ends(one), verdict))
    rows = []
    for arm in found.get("arms") or []:
        accuracy = get(arm, "metrics", "accuracy") or {}
        values = [x for x in map(finite, accuracy.get("values") or []) if x is not None]
        rows.append(charts.Dots(label(arm.get("name")), values, finite(accuracy.get("mean")), _ends(accuracy)))
    forest = charts.forest("forest", differences, label(found.get("baseline")), _level(found))
    return Html(f'<div class="charts">\n{forest}{charts.dots("dots", rows)}</div>\n')


def _ends(found: dict[str, Any]) -> tuple[float, float] | None:
    low, high = (finite(get(found, "interval", end)) for end in (0, 1))
    return None if low is None or high is None else (low, high)


def _level(found: dict[str, Any]) -> str:
    alpha = finite(found.get("alpha"))
    return "simultaneous intervals" if alpha is None else f"simultaneous {100 * (1 - alpha):g} % intervals"


def _comparisons(found: dict[str, Any]) -> Html:
    rows: list[list[Cell]] = []
    for one in found.get("comparisons") or []:
        between = interval(one.get("interval"), "points")
        names = (label(one.get("arm")), label(one.get("baseline")))
        difference, p_value = Number(one.get("difference"), "points"), Number(one.get("p_value"), "p")
        rows.append([*names, difference, between, p_value, str(one.get("verdict") or _NO_VERDICT)])
    if not rows:
        return Html("")
    head = ["arm", "baseline", "difference, points", "interval, points", "p", "verdict"]
    caption = (
        "Accuracy of each arm less that of the baseline, each the mean over all of its seeds that are done, with "
        f"{_level(found)}. Examples are paired, seeds are not."
    )
    return join([heading(3, "Differences from the baseline"), table("comparisons", caption, head, rows)])


def _mcnemar(comparisons: list[dict[str, Any]]) -> Html:
    rows: list[list[Cell]] = [
        [
            label(one.get("arm")),
            label(one.get("baseline")),
            Number(test.get("seed"), "plain"),
            Number(test.get("only_arm"), "count"),
            Number(test.get("only_baseline"), "count"),
            Number(test.get("p_value"), "p"),
        ]
        for one in comparisons
        for test in one.get("mcnemar") or []
    ]
    if not rows:
        return Html("")
    head = ["arm", "baseline", "seed", "right only in the arm", "right only in the baseline", "p"]
    caption = (
        "McNemar's test of two networks of one seed: the examples that only one of them gets right. Each p is of its "
        "own test alone, not corrected for the number of these tests, which is that of arms times seeds."
    )
    return join([heading(3, "Seed by seed"), table("mcnemar", caption, head, rows)])


def _left_out(found: list[dict[str, Any]]) -> Html:
    rows = [[label(one.get("arm")), str(one.get("why") or "no reason given")] for one in found]
    if not rows:
        return Html("")
    caption = "Combinations of settings that were not planned, and why."
    return join([heading(3, "Left out"), table("left-out", caption, ["arm", "why"], rows)])


def _agreement(found: dict[str, dict[str, Any] | None]) -> Html:
    layers = list(dict.fromkeys(layer for by_layer in found.values() for layer in by_layer or {}))
    if not layers:
        return Html("")
    rows: list[list[Cell]] = [
        [arm, *(Number(get(by_layer, layer), "decimal") for layer in layers)] for arm, by_layer in found.items()
    ]
    caption = (
        "Adjusted mutual information between the first choices of two seeds, mean over pairs of seeds: 1 where experts "
        "divide the pictures alike, 0 where they agree as chance would have it."
    )
    return join(
        [heading(3, "Do seeds divide the pictures alike?"), table("agreement", caption, ["arm", *layers], rows)]
    )


def against(papers: list[dict[str, Any]] | None) -> Html:
    """Evaluations beside the published figures of each data set, with what keeps the two from being compared."""
    if not papers:
        return Html("")
    title = heading(2, "Beside the published figures", "against")
    each = join(_paper(paper, f"published-{place}") for place, paper in enumerate(papers))
    return Html(f'<section aria-labelledby="against">\n{title}{each}</section>\n')


def published_rows(report: dict[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """(data set, row): the authors' figures, then those beside them."""
    for paper in report.get("against") or []:
        authors = {"run": "published", **(paper.get("published") or {}), "per_class_f1": paper.get("per_class_f1")}
        yield from ((paper.get("data_set"), row) for row in [authors, *(paper.get("rows") or [])])


def _paper(paper: dict[str, Any], key: str) -> Html:
    labels = list(paper.get("classes") or paper.get("per_class_f1") or {})
    published = {**(paper.get("published") or {}), "per_class_f1": paper.get("per_class_f1")}
    rows = [_paper_row("published", published, "", "the authors' own figures")]
    classes = [_paper_classes("published", published, labels)]
    for one in paper.get("rows") or []:
        comparable = {True: "comparable", False: "not comparable"}.get(one.get("comparable"), "not known")
        rows.append(_paper_row(label(one.get("run")), one, comparable, str(one.get("why") or "")))
        classes.append(_paper_classes(label(one.get("run")), one, labels))
    data_set = str(paper.get("data_set") or "the same data")
    head = ["run", "split", "examples", "accuracy, %", "macro F1, %", "comparable", "why"]
    caption = f"{data_set}. The first row is the authors'."
    return join(
        [
            heading(3, data_set),
            table(key, caption, head, rows, ""),
            table(f"{key}-classes", f"{data_set}: F1 of each class, %.", ["run", *labels], classes, "")
            if labels
            else "",
        ]
    )


def _paper_row(run: str, one: dict[str, Any], comparable: str, why: str) -> list[Cell]:
    figures = [Number(one.get(name), "percent") for name in ("accuracy", "macro_f1")]
    return [run, label(one.get("split")), Number(one.get("examples"), "count"), *figures, comparable, why]


def _paper_classes(run: str, one: dict[str, Any], labels: list[str]) -> list[Cell]:
    return [run, *(Number(get(one, "per_class_f1", name), "percent") for name in labels)]
