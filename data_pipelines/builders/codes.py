"""Classes that are numbered: which number means which, as the user says it, or as it is assumed and can be checked."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from data_pipelines.builders.base import Picture
from data_pipelines.builders.readers import quote
from data_pipelines.common.errors import UsageError
from data_pipelines.common.text import counted, nearest, some
from data_pipelines.labels import canonical

_EXAMPLES = 3  # files that a note names
_SHOWN = 20  # numbers that a message lists


def number(text: str) -> int | None:
    """The class number that a label or a folder's name is, if it is one; "3.0" is 3, as tables write it."""
    found = re.fullmatch(r"(\d{1,4})(\.0+)?", text.strip(), re.ASCII)
    return int(found[1]) if found else None


def numbers(texts: Iterable[str]) -> set[int]:
    """Those of some labels that are numbers."""
    return {found for text in texts if (found := number(text)) is not None}


def named(codes: Sequence[str], numbers: Iterable[int]) -> dict[int, str]:
    """The class of each number: `codes` has one for each number there is, or counts from 0, some of which may lack.

    Raises UsageError where neither is so: it cannot be told then which name belongs to which number.
    """
    if len({code.casefold() for code in codes}) < len(codes):
        raise UsageError(f"--codes {','.join(codes)} has a name twice; each number means another class")
    there = sorted(set(numbers))
    if len(there) == len(codes):
        return dict(zip(there, codes, strict=True))
    if there and there[0] == 0 and there[-1] < len(codes):
        return dict(enumerate(codes))
    both = f"{counted(len(codes), 'name')} for {counted(len(there), 'number')} ({some(there, _SHOWN)})"
    raise UsageError(f"--codes has {both}; give one for each number, in their order")


def emotions(codes: Sequence[str], classes: Collection[str]) -> tuple[str, ...]:
    """Canonical names for those that the user gave. Raises UsageError for one that is none of `classes`, or twice."""
    found: list[str] = []
    for code in codes:
        label = canonical(code)
        if label is None or label not in classes:
            hint = nearest(code.lower(), classes)
            raise UsageError(f"--codes: there is no class {quote(code)}{hint}; known: {', '.join(classes)}")
        if label in found:
            raise UsageError(f"--codes: {label} is there twice; each number means another class")
        found.append(label)
    return tuple(found)


def note(names: Mapping[int, str], wanted: Mapping[str, Mapping[Any, Picture]], assumed: str = "") -> str:
    """What the numbers were taken for, with files to look at; `assumed` says whose order that is if nobody gave it."""
    order = ", ".join(f"{number} {label}" for number, label in names.items())
    first: dict[str, str] = {}  # label -> a file, or a row, with it
    for inside in wanted.values():
        for place, picture in inside.items():
            first.setdefault(picture.label, place if isinstance(place, str) else picture.name)
    numbered = [(number, label) for number, label in names.items() if label in first]
    chosen = numbered[:: max(1, (len(numbered) - 1) // (_EXAMPLES - 1))][:_EXAMPLES]
    files = ", ".join(f"{first[label]} ({number}: {label})" for number, label in chosen)
    if not assumed:
        return f"numbers are classes as --codes has them: {order}; for example {files}"
    return (
        f"numbers were taken for {assumed}: {order}. Nothing here says so, and other copies count otherwise: look at "
        f"{files}; if they show something else, give the classes in the order of the numbers, --codes NAME,NAME,..., "
        "with --overwrite"
    )
