"""Rows as text: aligned columns for a terminal, CSV that no spreadsheet takes for formulas."""

import csv
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TextIO

#: What makes a cell a formula to spreadsheets (OWASP, "CSV Injection"), the signs of full width too. Where the locale
#: has a decimal comma, Excel parts lines at semicolons, in quotes or not, so that a cell can begin after each of them.
_SIGNS = r"=+\-@\uff1d\uff0b\uff0d\uff20"
_FORMULA = re.compile(rf"^(?=[{_SIGNS}\t\r\n])|;[\s\"]*(?=[{_SIGNS}])")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column to the left, the others to the right, each as wide as it needs."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


class CsvWriter:
    """Writes rows to a text stream that was opened with newline="". Texts stand in quotes, None is an empty cell.

    With quoting=csv.QUOTE_MINIMAL, only those texts stand in quotes that could not be told apart otherwise.
    """

    def __init__(self, stream: TextIO, quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC) -> None:
        self._writer = csv.writer(stream, quoting=quoting)

    def rows(self, rows: Iterable[Iterable[Any]]) -> None:
        """Writes the rows; a text that a spreadsheet would take for a formula gets an apostrophe in front."""
        for row in rows:
            self._writer.writerow([guarded(cell) for cell in row])


def guarded(cell: Any) -> Any:
    """A cell of a CSV file: None as an empty text, and no text that is a formula; numbers written as text may stay."""
    if cell is None:
        return ""
    if not isinstance(cell, str) or _NUMBER.fullmatch(cell):
        return cell
    return _FORMULA.sub(r"\g<0>'", cell)
