"""Text for people and machines: where it goes, progress, what a terminal may be shown, counts, times, JSON."""

from __future__ import annotations

import difflib
import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar

from tqdm import tqdm

INSTALL = "pip install -c launch/constraints.txt"
EVERY = 15.0  # seconds between two lines of progress where standard error is no terminal
SHORT, LONG = 200, 2000  # letters that people are shown of a name, and of a sentence with names in it
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
_T = TypeVar("_T")


def show(text: str) -> None:
    """A result for people, on standard output and above any progress bar."""
    tqdm.write(text.rstrip("\n"), file=sys.stdout)
    sys.stdout.flush()


def say(text: str) -> None:
    """Anything else for people, on standard error and above any progress bar: standard output is for results.

    Where nobody can read that any more (a closed pipe, a lost terminal, a full disk) the work goes on without.
    """
    try:
        tqdm.write(text.rstrip(), file=sys.stderr)
        sys.stderr.flush()
    except OSError:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115, until the process ends


class Progress:
    """How far something is, on standard error, while entered; `update` counts.

    On a terminal one line is rewritten, and is gone at the end. Elsewhere a line comes every `EVERY` seconds, so that
    what is short says nothing. A thread keeps the time: a single long step, such as a compilation, which has no `unit`
    to count, shows too. Where the caller has lines of its `own`, which it gives to `at`, those are shown instead.
    """

    def __init__(
        self, what: str, total: int | None = None, done: int = 0, *, unit: str = "pictures", hidden: bool = False,
        own: bool = False,
    ) -> None:  # fmt: skip
        self._what, self._total, self._first, self._done, self._unit = what, total, done, done, unit
        self._bar: tqdm[Any] | None = None
        self._hidden, self._own, self._over = hidden, own, threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._live = sys.stderr.isatty()
        if not self._hidden:
            if self._live:
                form = (
                    "{percentage:3.0f} %|{bar:10}| {desc}" if self._own else None if self._unit else "{desc}: {elapsed}"
                )
                self._bar = tqdm(
                    desc=self._what, total=self._total, initial=self._first, unit=f" {self._unit}", file=sys.stderr,
                    leave=False, dynamic_ncols=True, bar_format=form,
                )  # fmt: skip
            if self._live or not self._own:
                self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._bar is not None:
            self._bar.close()

    def update(self, more: int = 1) -> None:
        """Counts what has been done."""
        self._done += more
        if self._bar is not None:
            self._bar.update(more)

    def at(self, done: int, line: str) -> None:
        """So much is done, and a line says more: beside the bar on a terminal, elsewhere as a line that stays.

        Its parts have two blanks between them. A narrow terminal cuts its end, so the last part is the first there.
        """
        self._done = done
        if self._bar is not None:
            *parts, last = line.split("  ")
            self._bar.n = done
            self._bar.set_description_str("  ".join([last, *parts]))
        elif not self._hidden:
            say(line)

    def _watch(self) -> None:
        while not self._over.wait(1.0 if self._live else EVERY):
            if self._bar is not None:
                self._bar.refresh()
            else:
                say(self._line())

    def _line(self) -> str:
        spent = time.monotonic() - self._began
        line = f"{self._what}: {span(spent)} so far"
        if not self._total:
            return f"{line}, {self._done:,} {self._unit}" if self._unit else line
        more = self._done - self._first
        left = f", about {span((self._total - self._done) * spent / more)} left" if more else ""
        return f"{line}, {self._done:,} of {self._total:,} {self._unit}{left}"


def progress(what: str, total: int, done: int = 0) -> Progress:
    """How far the pictures of something are."""
    return Progress(what, total, done)


def counting(items: Iterable[_T], what: str, total: int, *, unit: str, hidden: bool = False) -> Iterator[_T]:
    """The items, one after another, while their progress is shown."""
    with Progress(what, total, unit=unit, hidden=hidden) as bar:
        for item in items:
            yield item
            bar.update()


def install(extra: str) -> str:
    """The command that installs an extra of this project, as the docs have it."""
    return f"{INSTALL} -e '.[{extra}]'"


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
