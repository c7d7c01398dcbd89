"""The report's tables as LaTeX for a paper, in the form of the package booktabs; numbers are rounded as on the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from data_pipelines.common.text import shown
from expressnet_jax.report.markup import MISSING, get, number
from expressnet_jax.report.sections_run import all_evaluations
from expressnet_jax.report.sections_study import METRICS, published_rows

#: [ and * would be taken for an argument of the end of the line before.
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "[": "{[}", "*": "{*}",
}  # fmt: skip


def tables(report: dict[str, Any]) -> dict[str, str]:
    """File -> its tables; empty where the report has nothing of it."""
    return {
        "arms": _arms(report),
        "comparisons": _comparisons(report),
        "evaluations": _evaluations(report),
        "per_class": _classes(report),
        "published": _published(report),
    }


def _arms(report: dict[str, Any]) -> str:
    rows = []
    for arm in get(report, "study", "arms") or []:
        cells = [number(arm.get("parameters"), "count"), number(arm.get("flops_per_image"), "giga")]
        cells += [f"{number(arm.get('done'), 'count')}/{len(arm.get('runs') or [])}"]
        for key in METRICS:
            mean, std = get(arm, "metrics", key, "mean"), get(arm, "metrics", key, "std")
            spread = "" if std is None else rf" $\pm$ {number(std, 'percent')}"
            cells.append(f"{number(mean, 'percent')}{spread}")
        rows.append([_text(arm.get("name")), *cells])
    head = ["arm", "parameters", "GFLOP", "seeds", *(rf"{name}, \%" for name in METRICS.values())]
    study = get(report, "study", "name")
    caption = f"Arms of the study {_text(study)}" if study else "Arms"
    note = "mean $\\pm$ standard deviation over seeds; GFLOP of an image with all experts computed."
    return _table(f"{caption}: {note}", head, rows)


def _comparisons(report: dict[str, Any]) -> str:
    rows = []
    for one in get(report, "study", "comparisons") or []:
        names = [_text(one.get(key)) for key in ("arm", "verdict")]
        figures = [_points(one.get("difference")), _between(one.get("interval"), _points)]
        rows.append([names[0], *figures, _text(number(one.get("p_value"), "p")), names[1]])
    head = ["arm", "difference, points", "interval, points", "$p$", "verdict"]
    baseline = _text(get(report, "study", "baseline"))
    caption = f"Accuracy of each arm less that of {baseline}; the intervals and $p$ hold for all comparisons together."
    return _table(caption, head, rows)


def _points(value: Any) -> str:
    """A difference with the sign that LaTeX has for it."""
    return number(value, "points").replace("-", "$-$")


def _between(ends: Any, shape: Callable[[Any], str]) -> str:
    return f"{shape(get(ends, 0))} to {shape(get(ends, 1))}" if ends else MISSING


def _evaluations(report: dict[str, Any]) -> str:
    rows = []
    for (run, split), one in all_evaluations(report):
        percents = [_percent(one.get(key)) for key in ("mean_class_accuracy", "macro_f1")]
        around = _between(one.get("accuracy_interval"), _percent)
        ece = _percent(get(one, "depth", "calibration", "before", "ece"))
        counts = number(one.get("examples"), "count")
        rows.append([_text(run), _text(split), counts, _percent(one.get("accuracy")), around, *percents, ece])
    head = ["run", "split", "examples", r"accuracy, \%", r"95 \% interval, \%", r"mean class accuracy, \%"]
    return _table("All evaluations.", [*head, r"macro F1, \%", r"ECE, \%"], rows)


def _percent(value: Any) -> str:
    return number(value, "percent")


def _published(report: dict[str, Any]) -> str:
    rows = []
    for data_set, row in published_rows(report):
        names = [_text(name) for name in (data_set, row.get("run"), row.get("split"))]
        comparable = MISSING if row.get("comparable") is None else "yes" if row["comparable"] else "no"
        figures = [_percent(row.get(key)) for key in ("accuracy", "macro_f1")]
        rows.append([*names, number(row.get("examples"), "count"), *figures, comparable])
    head = ["data set", "run", "split", "examples", r"accuracy, \%", r"macro F1, \%", "comparable"]
    return _table("Beside the published figures; published.csv says what keeps them apart.", head, rows)


def _classes(report: dict[str, Any]) -> str:
    made = []
    for (run, split), one in all_evaluations(report):
        rows = []
        for label, figures in (one.get("per_class") or {}).items():
            percents = [number(get(figures, key), "percent") for key in ("precision", "recall", "f1")]
            rows.append([_text(label), *percents, number(get(figures, "examples"), "count")])
        head = ["class", r"precision, \%", r"recall, \%", r"F1, \%", "examples"]
        made.append(_table(f"{_text(run)} on {_text(split)}.", head, rows))
    return "\n".join(made)


def _table(caption: str, head: list[str], rows: list[list[str]]) -> str:
    """One table; nothing where there are no rows. All cells are LaTeX already."""
    if not rows:
        return ""
    body = "".join(f"    {' & '.join(row)} \\\\\n" for row in rows)
    return (
        f"\\begin{{table}}\n  \\centering\n  \\caption{{{caption}}}\n  \\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}\n"
        f"    \\toprule\n    {' & '.join(head)} \\\\\n    \\midrule\n{body}    \\bottomrule\n"
        "  \\end{tabular}\n\\end{table}\n"
    )


def _text(value: Any) -> str:
    """Any text as LaTeX."""
    return MISSING if value is None else "".join(_LATEX.get(c, c) for c in shown(str(value)))
