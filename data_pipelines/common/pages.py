"""The frame of all HTML pages: one base template, one style sheet, one script, and how values become HTML.

What a template prints passes here: text is escaped, without control characters and not too long, what is missing is a
dash, and a number carries the value that it was rounded from in the attribute data-value. A page is one ASCII file that
needs no network; it reads well without its script.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup, escape

from data_pipelines.common.text import LONG, SHORT, shown

MISSING = "-"
LARGEST = 1e300  # of numbers; larger ones leave no room for a percentage or for the range of an axis
_TEMPLATES = Path(__file__).parent / "templates"
STYLE = (_TEMPLATES / "style.css").read_text("ascii")
SCRIPT = (_TEMPLATES / "script.js").read_text("ascii")

#: How numbers are rounded: percent and points are fractions shown times 100, giga in units of 1e9.
_FORMS: dict[str, Callable[[float], str]] = {
    "percent": lambda value: f"{100 * value:.2f}",
    "tenths": lambda value: f"{100 * value:.1f}",
    "points": lambda value: f"{100 * value:+.2f}",
    "count": lambda value: f"{value:,}",
    "decimal": lambda value: f"{value:,.4f}",
    "pixel": lambda value: f"{value:.3f}",
    "rate": lambda value: f"{value:,.1f}",
    "giga": lambda value: f"{value / 1e9:,.3f}",
    "plain": lambda value: str(value) if isinstance(value, int) else f"{value:.6g}",
    "p": lambda value: f"{value:.4f}" if value >= 1e-4 else "< 0.0001",
}


class Cell(NamedTuple):
    """A value of a table, and how it is shown: a key of _FORMS, or one of the forms of macros.html.j2."""

    value: Any
    form: str = "text"


class Grid(NamedTuple):
    """A table as it is shown. The first cell of a row is the row's head."""

    head: list[str]
    rows: list[list[Cell]]


def grid(columns: Iterable[tuple[str, str]], rows: Iterable[Iterable[Any]]) -> Grid:
    """A table from its columns (head, form) and the values of its rows."""
    heads, forms = zip(*columns, strict=True)
    return Grid(list(heads), [[Cell(*cell) for cell in zip(row, forms, strict=True)] for row in rows])


def matrix(corner: str, columns: Iterable[Any], rows: Iterable[tuple[Any, Iterable[Any]]], form: str) -> Grid:
    """A table of one kind of value. rows: (head, values)."""
    heads = [(corner, "text"), *((label(column), form) for column in columns)]
    return grid(heads, ((head, *row) for head, row in rows))


def get(value: Any, *keys: str | int) -> Any:
    """What lies at these keys of nested dicts and lists; None where any step is missing or null."""
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and isinstance(key, int) and key < len(value):
            value = value[key]
        else:
            return None
    return value


def finite(value: Any) -> float | None:
    """A number as it is; None for anything else, for what JSON has no number for, and for what no figure can be."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if abs(value) <= LARGEST else None


def number(value: Any, form: str) -> str:
    """A rounded number, or a dash where there is none."""
    known = finite(value)
    return MISSING if known is None else _FORMS[form](known)


def label(value: Any) -> str:
    """A name as plain text; a dash where there is none."""
    return MISSING if value is None or value == "" or isinstance(value, jinja2.Undefined) else str(value)


def text(value: Any, longest: int = SHORT) -> Markup:
    """Any text as HTML: without control characters, the middle of a very long one left out."""
    return escape(shown(label(value), longest))


def _breakable(value: Any, longest: int = LONG) -> Markup:
    """Text that may go on in the next line after a slash, an underscore or a comma."""
    return Markup(re.sub("([/_,])", r"\1<wbr>", str(text(value, longest))))


def _span(value: Any, form: str) -> Markup:
    """A number with its full value, or an interval [low, high] of such numbers."""
    if isinstance(value, (list, tuple)):
        low, high = get(list(value), 0), get(list(value), 1)
        return Markup(MISSING if low is None or high is None else f"{_span(low, form)} to {_span(high, form)}")
    known, shape = finite(value), escape(number(value, form))
    return shape if known is None else Markup(f'<span data-value="{known!r}">{shape}</span>')


def _share(value: Any) -> float:
    """A number as one from 0 to 1."""
    return min(max(finite(value) or 0.0, 0.0), 1.0)


def _final(value: Any) -> Any:
    """What a template prints: HTML, numbers and nothing ("") as they are, all else as text."""
    if isinstance(value, jinja2.Undefined):
        return MISSING
    done = isinstance(value, (int, float)) or hasattr(value, "__html__") or value == ""
    return value if done else text(value, LONG)


def environment(*folders: Path) -> jinja2.Environment:
    """Templates of these folders and of this one. What a name does not reach is missing, at any depth."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, _TEMPLATES]), autoescape=True, finalize=_final,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.ChainableUndefined,
    )  # fmt: skip
    made.filters |= {"label": label, "text": text, "breakable": _breakable, "number": _span, "share": _share}
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    made.globals |= {"style": Markup(STYLE), "script": Markup(SCRIPT), "script_digest": digest, "grid": grid}
    return made


def render(template: jinja2.Template, **values: Any) -> str:
    """The text of a page, in ASCII: it is the same file in any locale."""
    return template.render(**values).encode("ascii", "xmlcharrefreplace").decode("ascii")
