"""The splits of a prepared data set: opened by name, and cut into training and validation.

Legend: N examples of a split, H W stored height and width, C colour channels (1 or 3).
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from data_pipelines import labels, prepare, staging, stored
from data_pipelines.common.errors import DataError
from data_pipelines.common.text import counted

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Split:
    """Some examples of one split, with their labels counted in the order of `classes`."""

    name: str  # "fer2013/train"
    records: Any  # random access, one by one or by a list of numbers, to {image: bytes, label: int, ...}
    numbers: np.ndarray  # (N,) int64: which records belong to it
    label_map: np.ndarray  # (classes of the data set,) int32: their numbers in `classes`, -1 for none
    classes: tuple[str, ...]
    shape: tuple[int, int, int]  # (H, W, C) of every picture
    votes: bool = False  # whether examples come with the shares of the votes on their label

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def known(self) -> np.ndarray:
        """(classes,) bool: which of `classes` the data set has a name for."""
        return np.isin(np.arange(len(self.classes)), self.label_map)

    def load(self, positions: np.ndarray) -> Batch:
        """Examples by their positions in this split: image (n, H, W, C) uint8, label, mask, index; see `loader`."""
        numbers = self.numbers[positions]
        records = self.records.__getitems__([int(number) for number in numbers])
        images = np.empty((len(numbers), *self.shape), np.uint8)
        for image, record in zip(images, records, strict=True):
            image[...] = pixels(record["image"], self.shape[2])
        batch: Batch = {
            "image": images,
            "label": np.array([self.label_map[record["label"]] for record in records], np.int32),
            "mask": np.ones(len(numbers), bool),
            "index": numbers.astype(np.int32),
        }
        if self.votes:
            batch["votes"] = self._votes(np.stack([record["votes"] for record in records]))
        return batch

    def _votes(self, votes: np.ndarray) -> np.ndarray:
        """(n, their classes) counts to (n, classes) float32 shares."""
        mapped = np.zeros((len(votes), len(self.classes)), np.float32)
        known = self.label_map >= 0
        mapped[:, self.label_map[known]] = votes[:, known]
        return mapped / np.maximum(mapped.sum(axis=1, keepdims=True), 1)

    def scan(self) -> Iterator[dict[str, Any]]:
        """All records in order, their pictures still encoded."""
        return staging.read_records(self.records, self.numbers)

    def spread(self, most: int) -> np.ndarray:
        """Positions of at most so many examples, spread evenly over the split."""
        return np.linspace(0, len(self) - 1, min(most, len(self))).astype(int)

    def labels(self) -> np.ndarray:
        """(N,) int32 classes."""
        return np.array([self.label_map[record["label"]] for record in self.scan()], np.int32)

    def part(self, positions: np.ndarray, name: str) -> Split:
        """The examples at some positions (numbers, or a mask) as a split of their own."""
        return dataclasses.replace(self, name=f"{self.name} ({name})", numbers=self.numbers[positions])


def pixels(data: bytes, channels: int) -> np.ndarray:
    """A stored picture as (H, W, channels) uint8; grey ones become colour where `channels` is 3."""
    if data[:2] == b"\xff\xd8":  # libjpeg-turbo, as in Pillow, at a seventh of its time for 48 x 48 pixels
        return simplejpeg.decode_jpeg(data, colorspace="GRAY" if channels == 1 else "RGB")
    with Image.open(io.BytesIO(data)) as picture:
        decoded = np.asarray(picture)
    if decoded.ndim == 2:
        decoded = decoded[..., None]  # (H, W) -> (H, W, 1)
    return np.broadcast_to(decoded, (*decoded.shape[:2], channels))


def open_split(
    name: str, split: str, classes: Sequence[str], *, data_dir: str | None = None, votes: bool = False
) -> Split:
    """One split of a prepared data set, its labels mapped by name to their places in `classes`.

    `split` is a name of the data set, a sum of names ("public_test+private_test"), or "test" for all test parts that
    this copy has. Examples of a class that `classes` does not have are left out. With `votes`, examples come with the
    shares of the votes that people gave each class.
    Raises DataError: not prepared or damaged, no such split, nothing in it, no class in common, or no votes.
    """
    builder = prepare.read_info(name, data_dir)
    available = {s: info.num_examples for s, info in builder.info.splits.items()}
    if split == "test" and split not in available:
        split = "+".join(s for s in available if s.endswith("_test")) or split
    parts = split.split("+")
    for part in parts:
        if part not in available:
            raise DataError(f"{name} has no split {part!r}; it has {', '.join(available)}")
        if parts.count(part) > 1:
            raise DataError(f"{name}: the split {split!r} would count {part} more than once")
    if votes and "votes" not in builder.info.features:
        raise DataError(f"{name} has one label a picture and no votes; set data.target=label, or take ferplus")
    records = stored.records(builder, split, f"run: {prepare.again(name, data_dir, metadata=builder.info.metadata)}")
    theirs = tuple(builder.info.features["label"].names)
    label_map = np.array(labels.positions(theirs, tuple(classes)), np.int32)
    if (label_map < 0).all():
        raise DataError(f"{name} and this network have no class in common: {', '.join(theirs)} / {', '.join(classes)}")
    shapes = np.array([shape.split("x") for shape in builder.info.metadata["shapes"]], int)
    height, width, channels = map(int, shapes.max(0))  # `prepare` brings pictures to one size, but keeps grey ones grey
    shape = (height, width, channels)
    opened = Split(f"{name}/{split}", records, np.arange(len(records)), label_map, tuple(classes), shape, votes)
    if (label_map < 0).any():
        opened = dataclasses.replace(opened, numbers=np.flatnonzero(opened.labels() >= 0))
    if not len(opened):
        raise DataError(f"split {split!r} of {name} is empty; prepare the data set again, or choose another split")
    return opened


def repeated(split: Split, others: Sequence[Split]) -> np.ndarray:
    """(N,) bool: which pictures of a split are in one of the others too, equal in every pixel (grey counts as grey)."""
    seen = {_digest(record["image"], other.shape[2]) for other in others for record in other.scan()}
    return np.array([_digest(record["image"], split.shape[2]) in seen for record in split.scan()], bool)


def _digest(data: bytes, channels: int) -> bytes:
    image = pixels(data, channels)
    if channels == 3 and (image == image[..., :1]).all():
        image = image[..., :1]
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).digest()


def clean_holdout(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Cuts a split in two, (rest, held out): `fraction` of each class, equal pictures always on one side.

    The cut depends on the split and `seed` only. Raises DataError where either side would be empty.
    """
    groups: dict[bytes, tuple[int, list[int]]] = {}  # of equal pictures: the label of the first one, their positions
    for position, record in enumerate(split.scan()):
        _, equal = groups.setdefault(hashlib.sha256(record["image"]).digest(), (int(record["label"]), []))
        equal.append(position)
    rng = np.random.default_rng(seed)
    held: list[int] = []
    for label in sorted({label for label, _ in groups.values()}):
        members = [positions for of, positions in groups.values() if of == label]
        wanted = len(held) + round(fraction * sum(map(len, members)))
        for i in rng.permutation(len(members)):
            if len(held) < wanted:
                held += members[i]
    return _cut(split, held, fraction)


def random_holdout(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """The cut of scikit-learn's `train_test_split(..., test_size=fraction, stratify=labels, random_state=seed)`.

    The published AffectNet results use it with 0.2 and seed 52 (arXiv 2510.13493). Equal pictures may fall on both
    sides. Example for example the same as scikit-learn 1.9, which draws from NumPy's old generator: how many of each
    class to keep, how many of the rest to hold out, then a permutation of each class. Raises DataError where a side
    would be empty.
    """
    names = split.labels()
    classes, counts = np.unique(names, return_counts=True)
    rng = np.random.RandomState(seed)
    held_count = int(np.ceil(fraction * len(names)))
    kept = _apportion(counts, len(names) - held_count, rng)
    held = _apportion(counts - kept, held_count, rng)
    chosen: list[int] = []
    for label, keep, hold in zip(classes, kept, held, strict=True):
        members = np.flatnonzero(names == label)
        chosen += members[rng.permutation(len(members))[keep : keep + hold]].tolist()
    return _cut(split, chosen, fraction)


def _apportion(counts: np.ndarray, draws: int, rng: Any) -> np.ndarray:
    """`draws` shared out in proportion to `counts`: whole parts first, the rest by largest remainder, ties by lot."""
    exact = counts / counts.sum() * draws
    shares = np.floor(exact)
    missing = int(draws - shares.sum())
    remainders = exact - shares
    for value in np.sort(np.unique(remainders))[::-1]:
        if missing <= 0:
            break
        equal = np.flatnonzero(remainders == value)
        lucky = rng.choice(equal, size=min(len(equal), missing), replace=False)
        shares[lucky] += 1
        missing -= len(lucky)
    return shares.astype(int)


def _cut(split: Split, held: list[int], fraction: float) -> tuple[Split, Split]:
    """The split without the positions `held`, and with only those. Raises DataError where one of the two is empty."""
    chosen = np.isin(np.arange(len(split)), held)
    if chosen.all() or not chosen.any():
        examples = counted(len(split), "example")
        raise DataError(f"holding out {fraction:g} of {examples} of {split.name} leaves an empty split")
    return split.part(~chosen, "rest"), split.part(chosen, "held out")
