"""HTML from plain values: all text is escaped here, and all numbers are rounded here.

A report's parts may be missing at any depth: `get` looks them up, and what is missing is shown as a dash. Each number
on the page carries the value that it was rounded from, in the attribute data-value.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from data_pipelines.common.text import LONG, SHORT, shown

MISSING = "-"
_LARGEST = 1e300  # of numbers; larger ones leave no room for a percentage or for the range of an axis

#: How numbers are rounded: percent and points are fractions shown times 100, giga in units of 1e9.
_FORMS: dict[str, Callable[[float], str]] = {
    "percent": lambda value: f"{100 * value:.2f}",
    "points": lambda value: f"{100 * value:+.2f}",
    "count": lambda value: f"{value:,}",
    "decimal": lambda value: f"{value:,.4f}",
    "rate": lambda value: f"{value:,.1f}",
    "giga": lambda value: f"{value / 1e9:,.3f}",
    "plain": lambda value: str(value) if isinstance(value, int) else f"{value:.6g}",
    "p": lambda value: f"{value:.4f}" if value >= 1e-4 else "< 0.0001",
}


class Html(str):
    """Text that is HTML already; all other text is escaped on its way to the page."""

    __slots__ = ()


@dataclass(frozen=True)
class Number:
    """A number and the form (a key of _FORMS) that it is shown in."""

    value: float | None
    form: str


#: A Number, HTML (of numbers), text, or None for what is missing.
Cell = Html | Number | str | None


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
    return value if abs(value) <= _LARGEST else None


def number(value: Any, form: str) -> str:
    """A rounded number, or a dash where there is none."""
    known = finite(value)
    return MISSING if known is None else _FORMS[form](known)


def label(value: Any) -> str:
    """A name as plain text; a dash where there is none."""
    return MISSING if value is None or value == "" else str(value)


def text(value: Any, longest: int = SHORT) -> Html:
    """Any text as HTML: without control characters, the middle of a very long one left out."""
    return Html(html.escape(shown(label(value), longest)))


def breakable(value: Any, longest: int = SHORT) -> Html:
    """Text that may go on in the next line after a slash, an underscore or a comma."""
    return Html(re.sub("([/_,])", r"\1<wbr>", text(value, longest)))


def name(value: Any) -> Html:
    """A name within a sentence; one that is written from right to left leaves the rest where it is."""
    return Html(f"<bdi>{breakable(value)}</bdi>")


def join(parts: Iterable[str], between: str = "") -> Html:
    """Pieces of HTML in a row."""
    return Html(between.join(parts))


def span(value: Any, form: str) -> Html:
    """A number within a sentence or a cell, with its full value."""
    known = finite(value)
    shape = number(value, form).replace("<", "&lt;")
    return Html(shape if known is None else f'<span data-value="{known!r}">{shape}</span>')


def interval(low_high: Any, form: str) -> Html:
    """ "low to high" of an interval [low, high]; a dash where there is none."""
    low, high = get(low_high, 0), get(low_high, 1)
    return Html(MISSING) if low is None or high is None else Html(f"{span(low, form)} to {span(high, form)}")


def with_interval(value: Any, low_high: Any, form: str) -> Html:
    """A value and, where there is one, its interval in brackets."""
    return Html(span(value, form) + (f" ({interval(low_high, form)})" if low_high else ""))


def cell(value: Cell, tag: str = "td", more: str = "", longest: int = LONG) -> Html:
    """One cell of a table, or another element of one value."""
    if value is None:
        return Html(f"<{tag}{more}>{MISSING}</{tag}>")
    if isinstance(value, Number):
        known = finite(value.value)
        full = "" if known is None else f' data-value="{known!r}"'
        return Html(f"<{tag}{full}{more}>{number(value.value, value.form).replace('<', '&lt;')}</{tag}>")
    if isinstance(value, Html):
        return Html(f"<{tag}{more}>{value}</{tag}>")
    return Html(f'<{tag} class="text"{more}>{breakable(value, longest)}</{tag}>')


def table(key: str, caption: str, head: Sequence[str], rows: Sequence[Sequence[Cell]], kind: str = "sortable") -> Html:
    """A table under its caption; the first cell of each row is the row's head. Nothing where there are no rows.

    key: unique on the page. kind: "sortable", where the page's script puts buttons into the heads; "matrix", of `heat`
    cells in a fixed order; or "" for a fixed order.
    """
    if not rows:
        return Html("")
    texts = [any(isinstance(row[i], str) and not isinstance(row[i], Html) for row in rows) for i in range(len(head))]
    top = "".join(
        f'<th scope="col"{" class=text" if is_text else ""}>{text(title)}</th>'
        for title, is_text in zip(head, texts, strict=True)
    )
    body = ""
    for first, *cells in rows:
        body += f"<tr>{cell(first, 'th', ' scope=row', SHORT)}{join(cell(one) for one in cells)}</tr>\n"
    attribute = f' class="{kind}"' if kind and not (kind == "sortable" and len(rows) == 1) else ""
    return Html(
        f'<div class="wide" role="group" aria-labelledby="{key}-caption"><table{attribute} id="{key}">\n'
        f'<caption id="{key}-caption"><span>{text(caption, LONG)}</span></caption>\n'
        f"<thead><tr>{top}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n"
    )


def heat(value: Number, share: Any, note: str = "") -> Html:
    """A cell's content on a ground whose strength is `share` (0 to 1); the text keeps its contrast at any strength.

    note: HTML that follows the number.
    """
    strength = min(max(finite(share) or 0.0, 0.0), 1.0)
    return Html(f'<span class="heat" style="--heat:{strength:.3f}">{span(value.value, value.form)}{note}</span>')


def bar(share: Any) -> Html:
    """A horizontal bar, `share` (0 to 1) of its column; what it says has to stand beside it."""
    width = 100 * min(max(finite(share) or 0.0, 0.0), 1.0)
    return Html(f'<span class="bar"><span style="width:{width:.1f}%"></span></span>')


def facts(pairs: Iterable[tuple[str, Cell]]) -> Html:
    """A list of names and values, beside each other where there is room."""
    entries = join(f"<div><dt>{text(title)}</dt>{cell(value, 'dd')}</div>\n" for title, value in pairs)
    return Html(f'<dl class="facts">\n{entries}</dl>\n' if entries else "")


def bullets(items: Iterable[str]) -> Html:
    """A list of items that are HTML already."""
    entries = join(f"<li>{item}</li>\n" for item in items)
    return Html(f"<ul>\n{entries}</ul>\n" if entries else "")


def paragraph(content: str, weak: bool = False) -> Html:
    """A paragraph of content that is HTML already."""
    return Html(f"<p{' class=weak' if weak else ''}>{content}</p>\n")


def heading(level: int, content: str, key: str = "") -> Html:
    """A heading of plain text; key: its id."""
    return Html(f"<h{level}{f' id={chr(34)}{key}{chr(34)}' if key else ''}>{text(content)}</h{level}>\n")


def folded(summary: str, content: str) -> Html:
    """Content that opens on demand, without a script. Nothing where there is no content."""
    return Html(f"<details>\n<summary>{text(summary)}</summary>\n{content}</details>\n" if content else "")
