"""How a table is declared: what its columns are called in a CSV file and on a page, where their values lie, and how
these are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from data_pipelines.common.pages import Cell, Grid, get

Row = dict[str, Any]  # what a table's columns look at
Part = tuple[Row, Any]  # the names that tell a part of the document from the others, and the part


class Column(NamedTuple):
    """A column.

    csv: its name in the CSV file, or several for the parts of one value, such as an interval's; "" where it has none.
    title: its head on the page and in LaTeX; "" where it has none.
    form: how its values are shown (`pages.Cell`).
    at: where the value lies, as keys with dots between them; by default under the CSV name; "." for the whole row.
    only: "page" or "latex", where it stands in one of the two alone.
    missing: what the page says instead of a missing text.
    """

    csv: str = ""
    title: str = ""
    form: str = "text"
    at: str = ""
    only: str = "page latex"
    missing: str | None = None

    def value(self, row: Row) -> Any:
        at = self.at or self.csv
        return row if at == "." else get(row, *at.split("."))

    def cell(self, row: Row) -> Cell:
        value = self.value(row)
        return Cell(self.missing if value is None else value, self.form)

    def plain(self, row: Row) -> list[Any]:
        """A value for each of the CSV names."""
        value, names = self.value(row), self.csv.split()
        if self.form == "spread":
            value = [*(get(value, key) for key in ("mean", "std")), *(get(value, "interval", end) for end in (0, 1))]
        return [get(value, place) for place in range(len(names))] if len(names) > 1 else [value] * len(names)


class Table:
    """A table. of: the rows of a part of the report; parts: the parts that have some."""

    def __init__(
        self, of: Callable[[Any], Iterable[Row]], parts: Callable[[Row], Iterable[Part]], *columns: Column
    ) -> None:
        self.of, self.parts, self.columns = of, parts, columns

    def rows(self, report: Row) -> Iterator[Row]:
        """All rows of a report."""
        return ({**row, **names} for names, part in self.parts(report) for row in self.of(part))

    def shown(self, where: str) -> list[Column]:
        """The columns of the page, or of LaTeX."""
        return [column for column in self.columns if column.title and where in column.only]

    def grid(self, part: Any) -> Grid:
        """The rows of a part for the page."""
        columns = self.shown("page")
        cells = [[column.cell(row) for column in columns] for row in self.of(part)]
        return Grid([column.title for column in columns], cells)
