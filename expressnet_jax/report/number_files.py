"""The report's numbers as files: CSV in full precision for spreadsheets and programs, LaTeX for a paper.

LaTeX is in the form of the package booktabs, its numbers rounded as on the page.
"""

import io
from pathlib import Path
from typing import Any

from data_pipelines.common.errors import DataError
from data_pipelines.common.files import write_text
from data_pipelines.common.pages import MISSING, get, label, number
from data_pipelines.common.tables import CsvWriter
from data_pipelines.common.text import reason, shown
from expressnet_jax.report.declared import FILES, Row, Table

#: [ and * would be taken for an argument of the end of the line before.
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "[": "{[}", "*": "{*}",
}  # fmt: skip
#: Heads that LaTeX has another word for.
_HEADS = {"p": "$p$", "GFLOP an image": "GFLOP", "seeds done": "seeds"}


def write_csv(report: dict[str, Any], folder: Path) -> list[Path]:
    """Writes each table of the report that has rows as <folder>/<table>.csv; what is missing is an empty cell.

    Texts stand in quotes, and what a spreadsheet would take for a formula gets an apostrophe in front. Raises
    DataError where a file cannot be written.
    """
    files = {}
    for name, table in FILES.items():
        stream = io.StringIO(newline="")
        writer, rows = CsvWriter(stream), list(table.rows(report))
        writer.rows([[csv for column in table.columns for csv in column.csv.split()]])
        writer.rows([x for column in table.columns for x in column.plain(row)] for row in rows)
        files[f"{name}.csv"] = stream.getvalue() if rows else ""
    return write(folder, files)


def write_latex(report: dict[str, Any], folder: Path) -> list[Path]:
    """Writes arms.tex and comparisons.tex (both for a study), evaluations.tex, per_class.tex (one table for each
    evaluation) and published.tex. They need the LaTeX package booktabs. A table without rows has no file.

    Raises DataError where a file cannot be written.
    """
    study = get(report, "study", "name")
    captions = {
        "arms": f"Arms{f' of the study {_text(study)}' if study else ''}: mean $\\pm$ standard deviation over seeds; "
        "GFLOP of an image with all experts computed.",
        "comparisons": f"Accuracy of each arm less that of {_text(get(report, 'study', 'baseline'))}; the intervals "
        "and $p$ hold for all comparisons together.",
        "evaluations": "All evaluations.",
        "published": "Beside the published figures; published.csv says what keeps them apart.",
    }
    files = {name: _latex(FILES[name], list(FILES[name].rows(report)), words) for name, words in captions.items()}
    classes = FILES["per_class"]
    files["per_class"] = "\n".join(
        _latex(classes, list(classes.of(one)), f"{_text(names['run'])} on {_text(names['split'])}.")
        for names, one in classes.parts(report)
    )
    return write(folder, {f"{name}.tex": text for name, text in files.items()})


def write(folder: Path, files: dict[str, str]) -> list[Path]:
    """Writes texts to files of a folder, each whole or not at all; one without a text is not written, and what an
    earlier report left in its place is removed. Raises DataError where one cannot be written."""
    folder = folder.expanduser()
    made = [folder / name for name, content in files.items() if content]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in ((folder / name, content) for name, content in files.items()):
            if not content:
                path.unlink(missing_ok=True)
                continue
            # A name of a file that is no text holds half characters, which no file can.
            write_text(path, content.encode("utf-8", "backslashreplace").decode())
    except OSError as error:
        where = made[0] if len(made) == 1 else folder
        raise DataError(f"{where}: cannot be written ({reason(error)}); choose another place") from error
    return made


def _latex(table: Table, rows: list[Row], caption: str) -> str:
    """A table of LaTeX; nothing where there are no rows."""
    if not rows:
        return ""
    columns = table.shown("latex")
    head = [_HEADS.get(column.title) or _text(column.title) for column in columns]
    body = [[_cell(column.value(row), column.form) for column in columns] for row in rows]
    return f"""\\begin{{table}}
  \\centering
  \\caption{{{caption}}}
  \\begin{{tabular}}{{l{"r" * (len(columns) - 1)}}}
    \\toprule
    {_line(head)}
    \\midrule
{"".join(f"    {_line(cells)}{chr(10)}" for cells in body)}    \\bottomrule
  \\end{{tabular}}
\\end{{table}}
"""


def _line(cells: list[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _cell(value: Any, form: str) -> str:
    if form == "text":
        return _text(value)
    if form == "comparable":
        return MISSING if value is None else "yes" if value else "no"
    if form == "done":
        return f"{number(value.get('done'), 'count')}/{value['planned']}"
    if form == "spread":
        std = get(value, "std")
        return _cell(get(value, "mean"), "percent") + ("" if std is None else rf" $\pm$ {number(std, 'percent')}")
    if isinstance(value, list):
        return " to ".join(_cell(end, form) for end in value) or MISSING
    shape = number(value, form)
    return _text(shape).replace("-", "$-$") if form == "points" and shape != MISSING else _text(shape)


def _text(value: Any) -> str:
    """Any text as LaTeX."""
    return "".join(_LATEX.get(c, c) for c in shown(label(value)))
