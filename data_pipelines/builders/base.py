"""What the TFDS builders of face data share: features, checked pictures, and a list of what was skipped and why."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import tensorflow_datasets as tfds

from data_pipelines import pictures, sources
from data_pipelines.common.errors import DataError, UsageError
from data_pipelines.common.text import counted, first_of, progress
from data_pipelines.common.threads import ordered
from data_pipelines.pictures import BadPicture
from data_pipelines.sources import Source
from data_pipelines.staging import Finished, Shard, Stage

if TYPE_CHECKING:
    from data_pipelines.faces.crop import FaceCrop

#: The side of stored pictures where those of a source have no size in common: that of the published network.
COMMON_SIDE = 224

#: What results may be compared with where a builder's KNOWN_COUNTS are not what is there, whatever its plan says.
_OTHER_PICTURES = (
    "These are not all pictures of the official data set, or others (the notes have the numbers): compare only with "
    "results on the same files."
)


@dataclasses.dataclass(frozen=True, slots=True)
class Picture:
    """One labelled picture on its way into a data set."""

    order: int  # pictures are stored by rising order, in whatever order they come; unique in its split
    name: str  # unique in its split; for people: a path or a row
    image: bytes  # encoded as found, not checked yet; empty until it is read
    label: str  # canonical emotion, or another class of the plan's
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)  # values of the builder's EXTRA_FEATURES


@dataclasses.dataclass(frozen=True)
class PlannedSplit:
    """How many pictures a split should have, and a function that starts to produce them, always in one order."""

    expected: int
    pictures: Callable[[], Iterator[Picture]]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What was recognised at a source, before the first picture is read."""

    layout: str  # the form of the data set, in a few words
    protocol: str  # what results on it may be compared with, if the numbers of pictures are KNOWN_COUNTS
    splits: dict[str, PlannedSplit]
    notes: list[str] = dataclasses.field(default_factory=list)
    aligned: bool = False  # the pictures are crops of faces already
    classes: tuple[str, ...] = ()  # where they are not the builder's CLASSES
    numbered: bool = False  # some classes were told by number, in an order that --codes could give


@dataclasses.dataclass(frozen=True)
class Form:
    """How pictures are stored."""

    side: int = 0  # squares of so many pixels; 0: as they are, where they have one size
    crop: FaceCrop | None = None  # None: the whole picture
    recrop: bool = False  # crop even what is a crop already

    def describe(self) -> dict[str, Any]:
        """As plain values, to tell one form from another."""
        return {"side": self.side, "faces": self.crop.text if self.crop else "", "recrop": self.recrop}


class Skipped:
    """What could not be used, and why. When strict, the first such thing is an error instead."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.entries: list[dict[str, str]] = []

    def add(self, path: str, why: str) -> None:
        """Notes one thing left out. Raises DataError when strict."""
        if self.strict:
            raise DataError(f"{path}: {why}; put it right, or leave it out by preparing without --strict")
        self.entries.append({"path": path, "why": why})


class FaceBuilder(tfds.core.ShardBasedBuilder):  # type: ignore[misc]  # TFDS carries no types
    """A data set of labelled faces, stored as encoded pictures in ArrayRecord files, without TensorFlow.

    Examples are {image: encoded bytes, label: class number, name: text}. `info.metadata` keeps what a later
    reader must know: `layout` and `protocol` (where the pictures came from, and what results on them may be
    compared with), `counts` {split: {class: number}}, `shapes` {height x width x channels: number}, `skipped`
    (what could not be used, and why), `faces` ({} or {detector, found, whole: pictures kept whole}), `notes`, the
    `form` in which pictures were stored, the `codes` that were given, and `source` with its `fingerprint`.
    """

    VERSION = tfds.core.Version("1.0.0")
    name: str  # TFDS sets it: that of the module
    #: TFDS looks for lists of downloads beside the module, with a package that it does not install; there are none.
    url_infos: ClassVar[dict[str, Any]] = {}
    CLASSES: ClassVar[tuple[str, ...]]
    EXTRA_FEATURES: ClassVar[dict[str, Any]] = {}
    #: Numbers of pictures {split: {class: number}} of the complete data set, where they are published. A copy with
    #: other numbers is not comparable with published results.
    KNOWN_COUNTS: ClassVar[dict[str, dict[str, int]]] = {}
    #: Whether its classes may be numbers that `codes` gives the names of.
    TAKES_CODES: ClassVar[bool] = False
    #: False for a data set that is made here.
    NEEDS_SOURCE: ClassVar[bool] = True
    #: One line for somebody who does not have the data: where to ask for it.
    WHERE_TO_GET_IT: ClassVar[str] = ""

    def __init__(
        self, *, source: Source | None = None, strict: bool = False, form: Form = Form(), staging: Path | None = None,
        codes: Sequence[str] = (), own_name: str = "", **kwargs: Any,
    ) -> None:  # fmt: skip
        """Takes TFDS's own arguments (`data_dir`, `config`, `version`), and what is needed to prepare.

        That is the pictures' source, whether one unusable picture is an error (`strict`), how pictures are stored, a
        folder for finished pictures before they are in order (`staging`), the classes in the order of their numbers
        (`codes`), and what the data set is called where that is not the builder's name.
        """
        self._source, self._form, self._staging = source, form, staging
        self.codes, self._given = tuple(codes), list(codes)  # a plan may put its own spelling into the former
        self._stages: dict[str, Stage] = {}
        self._size: tuple[int, int] | None = None  # what all pictures are brought to
        if own_name:
            self.name = own_name
        self.skipped = Skipped(strict)
        super().__init__(file_format="array_record", **kwargs)

    def plan(self, source: Source) -> Plan:
        """Recognises what is at `source`; each builder has its own.

        Raises DataError if nothing is recognised or usable, or a split, class or column is missing or unknown.
        """
        raise NotImplementedError

    def _feature_set(self, classes: Sequence[str], shape: tuple[int | None, ...] = (None, None, None)) -> Any:
        features = {
            "image": tfds.features.Image(shape=shape),
            "label": tfds.features.ClassLabel(names=list(classes)),
            "name": tfds.features.Text(),
        }
        return tfds.features.FeaturesDict(features | self.EXTRA_FEATURES)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=(self.__doc__ or "").strip(),
            features=self._feature_set(self.CLASSES),
            supervised_keys=("image", "label"),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        self._finish_pictures()
        super()._download_and_prepare(dl_manager, download_config)  # asks for the features before it does anything

    def _finish_pictures(self) -> None:
        """All pictures finished, and their classes, sizes and colours known: TFDS decodes nothing without the last."""
        source = self._source
        plan = self.plan(source)  # type: ignore[arg-type]  # None only where the builder needs none
        if self.codes and not plan.numbered:
            raise UsageError(
                f"--codes {','.join(self._given)}: no class here is a number ({plan.layout}); leave it out"
            )
        classes = plan.classes or self.CLASSES
        self.info._features = self._feature_set(classes)  # of a DatasetInfo, which lets nobody else change them
        cropping = self._form.crop if self._form.recrop or not plan.aligned else None
        self._stages = stages = {name: self._stage(name, split, cropping) for name, split in plan.splits.items()}
        labels = {name: Counter(stage.values("labels")) for name, stage in stages.items()}
        shapes = Counter(shape for stage in stages.values() for shape in stage.values("shapes"))
        self._size, shapes, notes = _common_size(shapes)
        height, width, channels = (max(values) for values in zip(*(_numbers(shape) for shape in shapes), strict=True))
        self.info._features = self._feature_set(classes, (height, width, channels))
        if self._form.crop and not cropping:
            notes.append("these pictures are crops of faces already and were not cropped again; --recrop does it")
        different: list[str] = []
        for name, counts in labels.items():
            if known := self.KNOWN_COUNTS.get(name):
                different += differences(name, counts, known, sum(known.values()), "the complete set")
        whole = [entry["path"] for stage in stages.values() for entry in stage.values("whole")]
        self.info.metadata.update(
            layout=plan.layout,
            protocol=_OTHER_PICTURES if different else plan.protocol,
            notes=plan.notes + notes + different + (left_over(source, self.skipped) if source else []),
            counts={name: {label: counts[label] for label in classes} for name, counts in labels.items()},
            shapes=dict(shapes),
            skipped=self.skipped.entries,
            faces={"detector": cropping.text, "found": shapes.total() - len(whole), "whole": whole} if cropping else {},
            form=self._form.describe(),
            codes=self._given,
            source=str(source.path) if source else "",
            fingerprint=source.fingerprint() if source else "",
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Callable[[], Iterator[Any]]]]:
        del dl_manager  # nothing is ever downloaded
        return {
            name: [functools.partial(self._examples, shard, self._size) for shard in stage.shards()]
            for name, stage in self._stages.items()
        }

    def _stage(self, name: str, split: PlannedSplit, crop: FaceCrop | None) -> Stage:
        """All pictures of a split, finished; what an interrupted run has finished is not done again."""
        assert self._staging is not None
        stage = Stage(self._staging / name)
        before = len(self.skipped.entries)
        for entry in stage.values("bad"):
            self.skipped.add(**entry)
        waiting = itertools.islice(split.pictures(), stage.taken, None)
        with progress(f"{self.name} {name}", split.expected, stage.taken) as bar:
            stage.add(self._finished(waiting, crop, bar))
        if not stage.values("sizes"):
            why = first_of(self.skipped.entries[before:])
            raise DataError(f"split {name!r} has no usable picture among {split.expected:,}{why}")
        return stage

    def _finished(self, waiting: Iterator[Picture], crop: FaceCrop | None, bar: Any) -> Iterator[Finished]:
        """Pictures checked, cropped and encoded by all cores (Pillow lets threads run), in the order they came."""
        for _, finished in ordered(functools.partial(self._finish, crop=crop), waiting):
            bar.update()
            if bad := finished.values.get("bad"):
                self.skipped.add(**bad)
            yield finished

    def _finish(self, picture: Picture, crop: FaceCrop | None) -> Finished:
        try:
            image, shape, face = pictures.store(picture.image, self._form.side, crop)
        except BadPicture as error:
            return Finished(b"", {"bad": {"path": picture.name, "why": str(error)}})
        example = {"image": image, "label": picture.label, "name": picture.name, **picture.extra}
        record = self.info.features.serialize_example(example)
        shown = "x".join(map(str, shape))
        values = {"orders": picture.order, "sizes": len(record), "labels": picture.label, "shapes": shown}
        if crop and not face:
            values["whole"] = {"path": picture.name, "why": "no face found"}
        return Finished(record, values)

    def _examples(self, shard: Shard, size: tuple[int, int] | None) -> Iterator[tuple[int, Any]]:
        """A shard's examples, their pictures brought to (height, width) where that is given."""
        decoders = {"image": tfds.decode.SkipDecoding()}
        for position, record in shard():
            example = self.info.features.deserialize_example_np(record, decoders=decoders)
            if size:
                example["image"] = pictures.resized(example["image"], size)
            yield position, example


def unused(source: Source, names: Sequence[str], noun: str, why: str = "", prefix: str = "") -> list[str]:
    """A note on files that are left over, such as "not used: 2 pictures without a row, for example a.png".

    names: their paths at the source, after `prefix`.
    """
    source.accounted.update(prefix + name for name in names)
    return [f"not used: {counted(len(names), noun)}{why}, for example {names[0]}"] if names else []


def left_over(source: Source, skipped: Skipped) -> list[str]:
    """Notes on the pictures and tables at the source that were neither read nor skipped, nor named by another note.

    The rule for every data set, after all its pictures were read: nothing is left out in silence.
    """
    told = {entry["path"] for entry in skipped.entries}

    def named(name: str) -> bool:  # messages leave the folders above a data set out
        parts = name.split("/")
        return any("/".join(parts[depth:]) in told for depth in range(len(parts)))

    left = [name for name in source.names() if name not in source.accounted and not named(name)]
    images = [name for name in left if name.lower().endswith((*sources.SUFFIXES, *sources.OTHER_SUFFIXES))]
    tables = [name for name in left if sources.is_table(name) or name.lower().endswith((".parquet", ".arrow"))]
    return unused(source, images, "picture") + unused(source, tables, "table")


def differences(split: str, counts: Counter[str], known: Mapping[str, int], total: int, whole: str) -> list[str]:
    """A note where a split's pictures of each class differ from `whole`, which has the published numbers.

    `known` has those of the classes that have one, `total` that of all pictures.
    """
    parts = [f"{label} {counts[label]:,} of {number:,}" for label, number in known.items() if counts[label] != number]
    if counts.total() == total and not parts:
        return []
    note = f"{split}: {counted(counts.total(), 'picture')}, {whole} has {total:,}"
    return [f"{note}; different: {', '.join(parts)}" if parts else note]


def _common_size(shapes: Counter[str]) -> tuple[tuple[int, int] | None, Counter[str], list[str]]:
    """The (height, width) that pictures of different sizes are brought to, or None; their shapes then; a note on it."""
    sizes = Counter(shape.rpartition("x")[0] for shape in shapes.elements())
    if len(sizes) == 1:
        return None, shapes, []
    size, number = sizes.most_common(1)[0]
    if 2 * number <= sizes.total():
        size = f"{COMMON_SIDE}x{COMMON_SIDE}"
    note = f"{sizes.total() - sizes[size]:,} of {counted(sizes.total(), 'picture')} had another size: brought to {size}"
    after = Counter(f"{size}x{shape.rpartition('x')[2]}" for shape in shapes.elements())
    height, width = _numbers(size)
    return (height, width), after, [note]


def _numbers(shape: str) -> list[int]:
    return [int(number) for number in shape.split("x")]
