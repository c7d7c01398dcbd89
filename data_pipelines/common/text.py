"""Text for people and machines: what a terminal may be shown, plain counts and times, one line of JSON."""

from __future__ import annotations

import difflib
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tqdm import tqdm

SHORT, LONG = 200, 2000  # letters that people are shown of a name, and of a sentence with names in it
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


def say(text: str) -> None:
    """Text for the user, on standard error and above any progress bar: standard output is for results."""
    tqdm.write(text.rstrip(), file=sys.stderr)
    sys.stderr.flush()


def progress(what: str, total: int, done: int = 0) -> tqdm[Any]:
    """A progress bar over pictures, on standard error; none where that is no terminal."""
    return tqdm(total=total, initial=done, desc=what, unit=" pictures", file=sys.stderr, disable=None)


def shown(text: str, longest: int = SHORT) -> str:
    """A stranger's text without control characters, which could steer a terminal, and with a long middle cut out."""
    if len(text) > longest:
        text = f"{text[: longest // 2]}...{text[-longest // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(text: object) -> str:
    """Any text, such as a library's message, as one line with single blanks."""
    return " ".join(str(text).split())


def reason(error: BaseException, longest: int = 300, *, named: object = None) -> str:
    """What an exception says, on one line; the name of its type where it says nothing.

    The system's errors are told without their number, which says nothing to people, and without the path where that is
    `named`, by the message that this is for.
    """
    said: object = error
    if isinstance(error, OSError) and error.strerror:
        known = error.filename is None or str(error.filename) == str(named)
        said = error.strerror if known else f"{error.strerror}: {error.filename}"
    return one_line(said)[:longest] or type(error).__name__


def first_of(entries: Sequence[Mapping[str, str]]) -> str:
    """The first of some [{path, why}], to be put behind a message: " (the first: path: why)", or nothing."""
    return " (the first: {path}: {why})".format(**entries[0]) if entries else ""


def some(items: Sequence[object], most: int = 1, between: str = ", ") -> str:
    """The first few of some things in a message: "a, b and 3 more"."""
    return between.join(map(str, items[:most])) + (f" and {len(items) - most:,} more" if len(items) > most else "")


def shorten(name: str, width: int) -> str:
    """`name` in at most `width` characters, the cut marked by an ellipsis."""
    return name if len(name) <= width else name[: width - 1].rstrip() + _ELLIPSIS


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: "; did you mean ...?", or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def counted(number: int, noun: str, plural: str = "") -> str:
    """ "1 picture", "2,000 pictures"; `plural` where it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def span(seconds: float) -> str:
    """A length of time as 1:02:03 or 4:05."""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{s:02}" if hours else f"{minutes}:{s:02}"


def json_line(value: Any) -> str:
    """One line of JSON. What JSON has no number for (NaN, infinity) becomes null."""
    return json.dumps(_finite(value), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
