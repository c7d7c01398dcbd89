"""What `audit` keeps of every picture, some 700 bytes, and what it finds in them."""

import hashlib
import itertools
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipelines import hashing, pictures

#: Standard deviation in grey levels (of 255) below which a picture shows nothing.
BLANK = 2.0
#: A report lists at most so many groups or pictures of each finding, beside their number.
LISTED = 5000
#: A report names at most so many pictures of one group, beside their number.
MEMBERS = 50

_SIZES = 10  # sizes that a report names
_GREY, _COLOUR, _COLOURLESS = range(3)  # one channel; three; three that are equal
_POWERS = np.arange(256, dtype=np.int64)[:, None] ** [0, 1, 2]
_DIGEST = 16  # bytes: equal digests of different pictures do not happen

ROW = np.dtype(
    [
        ("split", np.uint8), ("label", np.int16), ("height", np.int32), ("width", np.int32), ("kind", np.uint8),
        ("deviation", np.float32), ("file", np.uint64, _DIGEST // 8), ("pixels", np.uint64, _DIGEST // 8),
        ("small", np.uint8, (hashing.SIDE, hashing.SIDE)),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Scan:
    """All usable pictures, in the order of their splits."""

    splits: tuple[str, ...]  # training first
    classes: tuple[str, ...]
    rows: np.ndarray  # (N,) ROW
    names: list[str]
    sums: list[np.ndarray]  # of each split: what `measure` returns, added up

    def member(self, number: int) -> dict[str, Any]:
        """A picture as a report names it."""
        row = self.rows[number]
        return {"split": self.splits[row["split"]], "label": self.classes[row["label"]], "name": self.names[number]}


def measure(data: bytes) -> tuple[tuple[Any, ...], np.ndarray]:
    """Decodes a picture and keeps what the findings need. Raises BadPicture.

    Returns the fields of ROW from height on; and (3, 3) int64, of each channel: number of pixels, their sum, the sum of
    their squares.
    """
    image = pictures.decode(data)
    counts = np.array(image.histogram(), np.int64).reshape(-1, 256)  # of each channel: pixels of each level
    kind = _GREY if len(counts) == 1 else _COLOUR
    if kind == _COLOUR and (counts == counts[0]).all() and not np.ptp(np.asarray(image), axis=2).any():
        image, counts, kind = image.getchannel(0), counts[:1], _COLOURLESS
    sums = counts @ _POWERS
    deviation = max(_deviation(*channel) for channel in sums.tolist())
    file, content = _digest(data), _digest(f"{image.size} {image.mode}".encode(), image.tobytes())
    row = (image.height, image.width, kind, deviation, file, content, hashing.reduced(image))
    return row, np.broadcast_to(sums, (3, 3))


def _deviation(number: int, total: int, squares: int) -> float:
    """Standard deviation; the numbers are whole and exact."""
    return math.sqrt(number * squares - total * total) / number


def _digest(*parts: bytes) -> np.ndarray:
    found = hashlib.blake2b(digest_size=_DIGEST)
    for part in parts:
        found.update(part)
    return np.frombuffer(found.digest(), np.uint64)


def statistics(scan: Scan, splits: tuple[str, ...]) -> dict[str, Any]:
    """Classes, colour, and mean and standard deviation from 0 to 1 over all pixels, of some splits together.

    A grey picture among coloured ones counts as one with three equal channels.
    """
    places = [scan.splits.index(split) for split in splits]
    rows = scan.rows[np.isin(scan.rows["split"], places)]
    classes = np.bincount(rows["label"], minlength=len(scan.classes)).tolist()
    kinds = np.bincount(rows["kind"], minlength=3).tolist()
    sums = np.sum([scan.sums[place] for place in places], 0)
    channels = (sums if kinds[_COLOUR] else sums[:1]).tolist()
    return {
        "pictures": len(rows),
        "classes": dict(zip(scan.classes, classes, strict=True)),
        "imbalance": round(max(classes) / min(classes), 4) if min(classes) else None,
        "grey": kinds[_GREY],
        "colour": kinds[_COLOUR],
        "colour_without_colour": kinds[_COLOURLESS],
        **_mean_and_deviation(sums.sum(0).tolist()),
        "channels": [_mean_and_deviation(channel) for channel in channels],
    }


def _mean_and_deviation(sums: list[int]) -> dict[str, float | None]:
    number, total, _ = sums
    if not number:
        return {"mean": None, "deviation": None}
    return {"mean": round(total / number / 255, 6), "deviation": round(_deviation(*sums) / 255, 6)}


def duplicates(scan: Scan) -> dict[str, Any]:
    """`exact_duplicates`, `near_duplicates` and `mirrored`; see `_summary`."""
    rows = scan.rows
    numbers = np.arange(len(rows))
    equal, files = _first_equal(rows["pixels"]), _first_equal(rows["file"])
    near = hashing.near_groups(rows["small"], equal == numbers)[equal]
    mirrored = hashing.near_groups(rows["small"], equal == numbers, mirrored=True)[equal]
    how = {"max_bits": hashing.MAX_BITS, "max_difference": hashing.MAX_DIFFERENCE}
    return {
        "exact_duplicates": {"equal_files": int((files != numbers).sum()), **_summary(scan, equal, numbers)},
        "near_duplicates": {**how, **_summary(scan, near, equal)},
        "mirrored": {**how, **_summary(scan, mirrored, near)},
    }


def _first_equal(digests: np.ndarray) -> np.ndarray:
    """For each of (N, 2) digests the number of the first that is equal: int (N,)."""
    _, first, which = np.unique(digests, axis=0, return_index=True, return_inverse=True)
    return first[which.reshape(-1)]


def _summary(scan: Scan, group: np.ndarray, content: np.ndarray) -> dict[str, Any]:
    """The groups of more than one content.

    Args:
        scan: all pictures.
        group: (N,) the number of the first picture in the same group.
        content: (N,) the same for what counts as one content: exact duplicates are one near duplicate.

    Returns:
        `pictures` (contents beyond the first of each group), `conflicting` (groups with more than one label), `leaks`
        [{`split`, `like`, `pictures`}] (for each pair of splits the pictures of `split` in a group with one of `like`,
        but for those whose content is in both), and the groups [{`size`, `splits`, `labels`, `pictures`}], those
        across splits and with conflicting labels first.
    """
    order = np.argsort(group, kind="stable")
    _, start, size = np.unique(group[order], return_index=True, return_counts=True)
    beyond, conflicting = 0, 0
    leaks = dict.fromkeys(itertools.combinations(range(len(scan.splits)), 2), 0)
    found = []
    for begin, end in zip(start[size > 1], (start + size)[size > 1], strict=True):
        members = order[begin:end]
        contents = len(set(content[members].tolist()))
        if contents == 1:
            continue
        beyond += contents - 1
        splits, labels = scan.rows["split"][members], scan.rows["label"][members]
        conflict = len(np.unique(labels)) > 1
        conflicting += conflict
        for like, split in itertools.combinations(np.unique(splits).tolist(), 2):
            new = ~np.isin(content[members[splits == split]], content[members[splits == like]])
            leaks[like, split] += int(new.sum())
        found.append((-int(splits[0] != splits[-1]) - conflict, int(members[0]), members))
    found.sort(key=lambda entry: entry[:2])
    return {
        "pictures": beyond,
        "conflicting": conflicting,
        "leaks": [
            {"split": scan.splits[split], "like": scan.splits[like], "pictures": number}
            for (like, split), number in leaks.items()
        ],
        **listed([members for _, _, members in found], lambda members: _group(scan, members)),
    }


def _group(scan: Scan, members: np.ndarray) -> dict[str, Any]:
    """A group as a report lists it: one picture of each split and label first, so that differences are seen at once."""
    splits, labels = scan.rows["split"][members].tolist(), scan.rows["label"][members].tolist()
    turns, before = [], Counter[tuple[int, int]]()
    for number, kind in zip(members.tolist(), zip(splits, labels, strict=True), strict=True):
        turns.append((before[kind], number))
        before[kind] += 1
    return {
        "size": len(members),
        "splits": {scan.splits[place]: number for place, number in sorted(Counter(splits).items())},
        "labels": {scan.classes[place]: number for place, number in sorted(Counter(labels).items())},
        "pictures": [scan.member(number) for _, number in sorted(turns)[:MEMBERS]],
    }


def others(scan: Scan) -> dict[str, Any]:
    """The findings in single pictures: `blank`, `sizes`, `odd_sizes` and `colour_without_colour`."""
    rows = scan.rows
    counts = Counter(zip(rows["width"].tolist(), rows["height"].tolist(), strict=True))
    ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    (width, height), most = ranked[0]
    usual = (rows["width"] == width) & (rows["height"] == height) if 2 * most > len(rows) else np.ones(len(rows), bool)
    by_area = sorted(counts, key=lambda size: (size[0] * size[1], size))
    sizes = {
        "different": len(counts),
        "most_common": [{"width": w, "height": h, "pictures": number} for (w, h), number in ranked[:_SIZES]],
        "smallest": dict(zip(("width", "height"), by_area[0], strict=True)),
        "largest": dict(zip(("width", "height"), by_area[-1], strict=True)),
    }

    def odd(number: int) -> dict[str, Any]:
        return {**scan.member(number), "width": int(rows["width"][number]), "height": int(rows["height"][number])}

    blank = np.flatnonzero(rows["deviation"] < BLANK)
    of_one_level = int((rows["deviation"] == 0).sum())
    return {
        "blank": {"below": BLANK, "of_one_level": of_one_level, **listed(blank.tolist(), scan.member)},
        "sizes": sizes,
        "odd_sizes": listed(np.flatnonzero(~usual).tolist(), odd),
        "colour_without_colour": listed(np.flatnonzero(rows["kind"] == _COLOURLESS).tolist(), scan.member),
    }


def listed(items: list[Any], show: Any) -> dict[str, Any]:
    """A list for a report: never cut in silence."""
    return {"total": len(items), "cap": LISTED, "listed": [show(item) for item in items[:LISTED]]}
