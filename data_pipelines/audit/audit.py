"""`data audit`: what is wrong with the pictures of a data set, within its splits and across them.

Pictures are *equal* if they decode to the same pixels; a colour picture without any colour counts as grey. *Near
duplicates* are defined in `hashing`. Duplicates are counted as the pictures beyond the first of each group. A picture
is *blank* if no channel's standard deviation reaches `findings.BLANK` grey levels. A size is *odd* if more than
half of all pictures have another one in common.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipelines import prepare, staging, stored
from data_pipelines.audit import findings
from data_pipelines.builders import BUILDERS, builder_class
from data_pipelines.common.errors import DataError
from data_pipelines.common.tables import aligned
from data_pipelines.common.text import LONG, counted, first_of, progress, shown
from data_pipelines.common.threads import ordered
from data_pipelines.pictures import BadPicture
from data_pipelines.sources import Source, open_source

if TYPE_CHECKING:
    from data_pipelines.builders.base import FaceBuilder, Picture, Plan

_MOST_SPECIFIC_FIRST = ("ferplus", "fer2013", "rafdb", "affectnet", "folder")
_SHOWN = 3  # examples that the text for people names
_TRAIN_FIRST = "train".__ne__
_LAYOUTS = "the layouts are in docs/data.md, and `expressnet data prepare NAME --from PATH` says what NAME expects"
_MOMENTS = ("mean", "deviation")
_WAY_OUT = "To see them: --html FILE writes a page with example pictures of each finding; --json lists them by name."

#: The findings in several pictures: key in a report -> what those of one split are to those of another.
DUPLICATES = {"exact_duplicates": "equal to", "near_duplicates": "nearly equal to", "mirrored": "mirroring"}
#: All findings, those in several pictures first: key in a report -> title.
TITLES = {
    "exact_duplicates": "exact duplicates",
    "near_duplicates": "near duplicates",
    "mirrored": "mirrored duplicates",
    "blank": "blank",
    "odd_sizes": "odd sizes",
    "colour_without_colour": "colour files without colour",
    "unusable": "unusable",
}


@dataclass(frozen=True)
class Opened:
    """The pictures of a data set, wherever they are."""

    head: dict[str, Any]  # what a report says about the whole
    classes: tuple[str, ...]
    splits: dict[str, int]  # how many pictures each should have, training first
    stream: Callable[[str], Iterator[Picture]]  # the pictures of a split, not checked
    unusable: list[dict[str, str]]  # {path, why}; complete once all splits were streamed


def open_pictures(what: str, data_dir: str | None = None) -> Opened:
    """The prepared data set of that name, or the pictures at that path.

    Raises DataError: neither is there, the data set is not prepared, or the path holds nothing that a builder knows.
    """
    there = os.path.lexists(os.path.expanduser(what))
    if prepare.is_known(what, data_dir) and ("/" not in what or not there):
        return _open_prepared(what, data_dir)
    if there:
        return _open_path(what)
    raise DataError(f"{what}: no file or folder, and no name of a data set; known names: {', '.join(BUILDERS)}")


def _open_prepared(name: str, data_dir: str | None) -> Opened:
    from data_pipelines.builders.base import Picture

    builder = prepare.read_info(name, data_dir)
    classes = tuple(builder.info.features["label"].names)
    metadata = builder.info.metadata
    kept = {key: metadata[key] for key in ("layout", "protocol", "notes")}

    def stream(split: str) -> Iterator[Picture]:
        records = stored.records(builder, split, f"run: {prepare.again(name, data_dir, metadata=metadata)}")
        for number, record in enumerate(staging.read_records(records, range(len(records)))):
            yield Picture(number, record["name"].decode("utf-8", "replace"), record["image"], classes[record["label"]])

    splits = {split: builder.info.splits[split].num_examples for split in sorted(metadata["counts"], key=_TRAIN_FIRST)}
    head = {"kind": "prepared", "data_set": name, **kept}
    return Opened(head, classes, splits, stream, list(metadata["skipped"]))


def _open_path(path: str) -> Opened:
    name, builder, plan = recognise(open_source(path))
    # No protocol: folders of several data sets look alike, so that it could be that of another one.
    head = {"kind": "path", "data_set": name, "layout": plan.layout, "protocol": None, "notes": list(plan.notes)}
    splits = {split: plan.splits[split].expected for split in sorted(plan.splits, key=_TRAIN_FIRST)}
    return Opened(
        head,
        plan.classes or builder.CLASSES,
        splits,
        lambda split: plan.splits[split].pictures(),
        builder.skipped.entries,
    )


def recognise(source: Source) -> tuple[str, FaceBuilder, Plan]:
    """The first data set whose builder knows what is at `source`, the most specific one first: name, builder, plan.

    Raises DataError that says for each builder why it is not its own.
    """
    if not (names := source.names()):  # what cannot be read at all is an error of its own
        raise DataError(f"{source.path}: there is no file in it; {_LAYOUTS}")
    refused = []
    for name in _MOST_SPECIFIC_FIRST:
        with tempfile.TemporaryDirectory() as empty:  # TFDS looks there for a data set that is prepared
            builder = builder_class(name)(data_dir=empty)
        try:
            plan = builder.plan(source)
        except DataError as error:
            why = str(error).removeprefix(f"{source.path}: ").partition("; expected")[0]  # all of them fill a screen
            refused.append(f"{name}: {why}")
            continue
        # Anybody's folders of pictures may have such names; only one with its classes is taken for a known data set.
        there = {file.split("/")[-2] for file in names if "/" in file}
        if "folders" not in plan.layout or name == "folder" or 2 * len(there) >= len(builder.CLASSES):
            return name, builder, plan
        refused.append(f"{name}: {counted(len(there), 'class folder')} of {len(builder.CLASSES)}")
    raise DataError(f"{source.path}: no builder recognises this: {'; '.join(refused)}; {_LAYOUTS}")


def audit(what: str, *, data_dir: str | None = None) -> dict[str, Any]:
    """Looks at every picture of a data set once.

    Args:
        what: the name of a prepared data set; or a folder, archive or file in any layout that `prepare` reads.
        data_dir: where prepared data sets lie; TFDS's own folder if None.

    Returns:
        Numbers and names, ready for JSON, and the same for the same pictures: `what` and `data_dir` as given, `kind`
        ("prepared" or "path"), `data_set`, `layout`, `protocol` (None for a path), `notes`; `splits` {split: what
        `statistics` returns} and `all` (of all splits together); and the findings: `exact_duplicates` (with
        `equal_files`, the files beyond the first of each group of equal ones), `near_duplicates`, `mirrored`, `blank`,
        `sizes`, `odd_sizes`, `colour_without_colour`, `unusable` [{`path`, `why`}]. A list is `total`, `cap`, and
        `listed`, the first `cap` of them.

    Raises:
        DataError: see `open_pictures`; or there is no usable picture.
    """
    opened = open_pictures(what, data_dir)
    scan = _scan(opened)
    if not scan.names:
        total = sum(opened.splits.values())
        raise DataError(f"{what}: no usable picture among {total:,}{first_of(opened.unusable)}")
    return {
        "what": what,
        "data_dir": data_dir,
        **opened.head,
        "splits": {split: findings.statistics(scan, (split,)) for split in scan.splits},
        "all": findings.statistics(scan, scan.splits),
        **findings.duplicates(scan),
        **findings.others(scan),
        "unusable": findings.listed(sorted(opened.unusable, key=lambda entry: (entry["path"], entry["why"])), dict),
    }


def describe(report: dict[str, Any]) -> str:
    """A report of `audit` for people: tables of splits, every finding with a few names, and how to see more."""
    path = "" if report["kind"] == "prepared" else f", read as {report['data_set']}"
    protocol = [report["protocol"]] if report["protocol"] else []
    notes = [f"note: {shown(note, LONG)}" for note in report["notes"]]
    head = f"{shown(report['what'])}{path} (layout: {shown(report['layout'])})"
    return "\n".join([head, *protocol, *notes, *_splits(report), *_found(report), _WAY_OUT])


def _splits(report: dict[str, Any]) -> list[str]:
    parts = {**report["splits"], **({"all": report["all"]} if len(report["splits"]) > 1 else {})}
    rows = [["split", "pictures", *report["all"]["classes"], "largest : smallest"]]
    by_channel = ["mean by channel", "deviation by channel"] if len(report["all"]["channels"]) > 1 else []
    pixels = [["split", "grey", "colour", "mean", "deviation", *by_channel]]
    for split, numbers in parts.items():
        imbalance = f"{numbers['imbalance']:.1f}" if numbers["imbalance"] else "-"
        counts = [f"{number:,}" for number in (numbers["pictures"], *numbers["classes"].values())]
        rows.append([shown(split), *counts, imbalance])
        grey = numbers["grey"] + numbers["colour_without_colour"]
        cells = [f"{grey:,}", f"{numbers['colour']:,}", *(decimal(numbers[key]) for key in _MOMENTS)]
        if by_channel:
            cells += [" ".join(decimal(channel[key]) for channel in numbers["channels"]) for key in _MOMENTS]
        pixels.append([shown(split), *cells])
    return [f"  {line}" for table in (rows, pixels) for line in aligned(table)]


def _found(report: dict[str, Any]) -> list[str]:
    lines = []
    for key, title in TITLES.items():
        kind, shown_first = report[key], report[key]["listed"][:_SHOWN]
        if key in DUPLICATES:
            groups = f" in {counted(kind['total'], 'group')}, {kind['conflicting']:,} of them with different labels"
            equal = f"; {counted(kind['equal_files'], 'equal file')}" if kind.get("equal_files") else ""
            lines.append(f"{title}: {kind['pictures']:,}{f'{groups}{equal}' if kind['total'] else ''}")
            lines += [f"  {leak}" for leak in leaks(kind, key)]
            for group in shown_first:
                names = [f"{shown(one['name'])} ({one['label']})" for one in group["pictures"][:_SHOWN]]
                rest = f" and {group['size'] - _SHOWN:,} more" if group["size"] > _SHOWN else ""
                lines.append(f"  {', '.join(names)}{rest}")
        else:
            limit = f", with a standard deviation below {kind['below']:g} of 255" if "below" in kind else ""
            one_level = f", {kind['of_one_level']:,} of them of one level" if kind.get("of_one_level") else ""
            lines += [f"{title}{limit}: {kind['total']:,}{one_level}", *(f"  {detail(one)}" for one in shown_first)]
    return [*lines, f"sizes: {sizes(report)}"]


def leaks(kind: dict[str, Any], key: str) -> list[str]:
    """For each pair of splits, in words, how many pictures of one are in the other too. key: the finding's."""
    return [
        f"{counted(one['pictures'], 'picture')} of {shown(one['split'])} {DUPLICATES[key]} one of {shown(one['like'])}"
        for one in kind.get("leaks", [])
        if one["pictures"]
    ]


def sizes(report: dict[str, Any]) -> str:
    """The most common sizes of the pictures in words."""
    kind = report["sizes"]
    parts = [f"{size['width']}x{size['height']} ({size['pictures']:,})" for size in kind["most_common"]]
    if kind["different"] == len(parts):
        return ", ".join(parts)
    smallest, largest = (f"{kind[key]['width']}x{kind[key]['height']}" for key in ("smallest", "largest"))
    return f"{', '.join(parts)}, and {kind['different'] - len(parts):,} more, from {smallest} to {largest}"


def detail(one: dict[str, Any]) -> str:
    """A picture of a list in words."""
    if "why" in one:
        return f"{shown(one['path'])}: {shown(one['why'])}"
    size = f", {one['width']}x{one['height']}" if "width" in one else ""
    return f"{shown(one['name'])} ({shown(one['split'])}, {one['label']}{size})"


def decimal(number: float | None) -> str:
    """Three digits behind the point."""
    return "-" if number is None else f"{number:.3f}"


def _scan(opened: Opened) -> findings.Scan:
    """Measures all pictures, in as many threads as there are cores (Pillow lets them run)."""
    rows = bytearray()  # it grows in place
    orders: list[int] = []
    names: list[str] = []
    sums = [np.zeros((3, 3), np.int64) for _ in opened.splits]
    for number, (split, expected) in enumerate(opened.splits.items()):
        with progress(f"audit {split}", expected) as bar:
            for picture, result in ordered(_measure, opened.stream(split)):
                bar.update()
                if isinstance(result, BadPicture):
                    opened.unusable.append({"path": picture.name, "why": str(result)})
                    continue
                orders.append(picture.order)
                names.append(picture.name)
                fields, added = result
                row = (number, opened.classes.index(picture.label), *fields)
                rows += np.array(row, findings.ROW).tobytes()
                sums[number] += added
    table = np.frombuffer(rows, findings.ROW)
    by_order = np.lexsort((np.array(orders), table["split"]))  # an archive gives its pictures in an order of its own
    if (by_order != np.arange(len(table))).any():
        table, names = table[by_order], [names[place] for place in by_order]
    return findings.Scan(tuple(opened.splits), opened.classes, table, names, sums)


def _measure(picture: Picture) -> tuple[tuple[Any, ...], np.ndarray] | BadPicture:
    try:
        return findings.measure(picture.image)
    except BadPicture as error:
        return error
