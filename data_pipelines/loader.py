"""From a prepared data set to batches of uint8 on one host, in an order that is a function of the step alone.

Legend: N examples of a split, B global batch, H W stored height and width, C colour channels (1 or 3).
A batch is {image: uint8 (b, H, W, C), label: int32 (b,), mask: bool (b,), index: int32 (b,)}, b = B / hosts.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np
import tensorflow_datasets as tfds
from absl import flags
from PIL import Image

from data_pipelines import labels, prepare
from data_pipelines.errors import DataError

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class Split:
    """Some examples of one split, with their labels counted in the order of `classes`."""

    name: str  # "fer2013/train"
    records: Any  # random access to {image: bytes, label: int, ...} by number
    numbers: np.ndarray  # (N,) int64: which records belong to it
    label_map: np.ndarray  # (classes of the data set,) int32: their numbers in `classes`, -1 for none
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: int) -> dict[str, Any]:
        number = int(self.numbers[position])
        record = self.records[number]
        with Image.open(io.BytesIO(record["image"])) as picture:
            pixels = np.asarray(picture)  # grey or RGB: `prepare` lets nothing else in
        return {
            "image": pixels if pixels.ndim == 3 else pixels[..., None],  # (H, W) -> (H, W, 1)
            "label": np.int32(self.label_map[record["label"]]),
            "mask": np.bool_(True),
            "index": np.int32(number),
        }


def open_split(name: str, split: str, classes: Sequence[str], *, data_dir: str | None = None) -> Split:
    """One split of a prepared data set, its labels mapped by name to their places in `classes`.

    `split` is a name of the data set, a sum of names ("public_test+private_test"), or "test" for all test parts that
    this copy has. Examples of a class that `classes` does not have are left out.
    Raises DataError: not prepared, no such split, nothing in it, or no class in common.
    """
    builder = prepare.read_info(name, data_dir)
    available = {s: info.num_examples for s, info in builder.info.splits.items()}
    if split == "test" and split not in available:
        split = "+".join(s for s in available if s.endswith("_test")) or split
    for part in split.split("+"):
        if part not in available:
            raise DataError(f"{name} has no split {part!r}; it has {', '.join(available)}")
    shapes = builder.info.metadata["shapes"]
    if len(shapes) > 1:
        raise DataError(
            f"the pictures of {name} have different sizes ({', '.join(map(str, shapes))}), and a batch needs one; "
            "bring them to one size and prepare the data set again"
        )
    records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    theirs = tuple(builder.info.features["label"].names)
    label_map = np.array(labels.positions(theirs, tuple(classes)), np.int32)
    if (label_map < 0).all():
        raise DataError(f"{name} and this network have no class in common: {', '.join(theirs)} / {', '.join(classes)}")
    numbers = np.arange(len(records))
    if (label_map < 0).any():
        numbers = numbers[[label_map[records[int(i)]["label"]] >= 0 for i in numbers]]
    if not len(numbers):
        raise DataError(f"split {split!r} of {name} is empty; prepare the data set again, or choose another split")
    return Split(f"{name}/{split}", records, numbers, label_map, tuple(classes))


def holdout(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Cuts a split in two, (rest, held out): `fraction` of each class, equal pictures always on one side.

    The cut depends on the split and `seed` only. Raises DataError where either side would be empty.
    """
    groups: dict[bytes, list[int]] = {}
    classes: dict[bytes, int] = {}
    for position, number in enumerate(split.numbers):
        record = split.records[int(number)]
        digest = hashlib.sha256(record["image"]).digest()
        groups.setdefault(digest, []).append(position)
        classes.setdefault(digest, int(record["label"]))  # a group with conflicting labels counts as its first
    rng = np.random.default_rng(seed)
    held: list[int] = []
    for label in sorted(set(classes.values())):
        members = [digest for digest, c in classes.items() if c == label]
        wanted = round(fraction * sum(len(groups[d]) for d in members))
        taken: list[int] = []
        for i in rng.permutation(len(members)):
            if len(taken) >= wanted:
                break
            taken += groups[members[i]]
        held += taken
    chosen = np.zeros(len(split), bool)
    chosen[held] = True
    if chosen.all() or not chosen.any():
        raise DataError(f"holding out {fraction:g} of {len(split)} examples of {split.name} leaves an empty split")
    return _part(split, ~chosen, "rest"), _part(split, chosen, "held out")


def _part(split: Split, chosen: np.ndarray, name: str) -> Split:
    return Split(f"{split.name} ({name})", split.records, split.numbers[chosen], split.label_map, split.classes)


def training_batches(
    split: Split, batch_size: int, *, seed: int, start: int = 0, host: int = 0, hosts: int = 1, workers: int = 0
) -> Iterator[Batch]:
    """This host's part of every global batch from step `start` on, without end; each epoch has its own order.

    Batch s holds the examples s*B to (s+1)*B of the shuffled, repeated split, whatever the number of hosts, and host h
    gets the h-th slice of each. `workers` processes decode; with 0, threads do.
    """
    # Batching happens on the MapDataset: after workers have split the stream, a tail would be cut once per worker.
    stream = grain.MapDataset.source(split).shuffle(seed=seed).repeat()
    batches = stream.batch(batch_size // hosts, batch_fn=_stack)[start * hosts + host :: hosts]
    return iter(_read(batches, workers))


def evaluation_batches(
    split: Split, batch_size: int, *, host: int = 0, hosts: int = 1, workers: int = 0
) -> Iterator[Batch]:
    """This host's part of every example once, in order; the last global batch is padded, `mask` false there."""
    padded = grain.MapDataset.source(_Padded(split, -(-len(split) // batch_size) * batch_size))
    return iter(_read(padded.batch(batch_size // hosts, batch_fn=_stack)[host::hosts], workers))


@dataclass(frozen=True)
class _Padded:
    """A split, made longer by masked copies of its first example."""

    split: Split
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> dict[str, Any]:
        if position < len(self.split):
            return self.split[position]
        return {**self.split[0], "mask": np.bool_(False)}


def _read(batches: grain.MapDataset, workers: int) -> grain.IterDataset:
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain's workers read absl flags, which only absl programs parse
            flags.FLAGS.mark_as_parsed()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return batches.to_iter_dataset().mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return batches.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))


def _stack(examples: Sequence[dict[str, Any]]) -> Batch:
    return {key: np.stack([example[key] for example in examples]) for key in examples[0]}
