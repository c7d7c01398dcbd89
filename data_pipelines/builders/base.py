"""What the TFDS builders of face data share: features, checked pictures, and the account of what was skipped."""

from __future__ import annotations

import dataclasses
import io
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from PIL import Image, UnidentifiedImageError
from tensorflow_datasets.core import shuffle
from tqdm.auto import tqdm

from data_pipelines.errors import DataError
from data_pipelines.sources import MAX_MEMBER_BYTES, Source, open_source

#: More decoded pixels than this is no photograph of a face but an attack on the memory.
MAX_PIXELS = 64_000_000

# TFDS holds a split in memory until it is sorted; beyond 1 GB it would turn to files through TensorFlow, which is not
# here, and then read them all back at once. So it keeps the encoded pictures of one split in memory, whatever it is.
shuffle.MAX_MEM_BUFFER_SIZE = 1 << 50


class BadPicture(ValueError):
    """Bytes that are no usable picture; the message says why in a few words."""


def check_picture(data: bytes) -> tuple[int, int, int]:
    """Decodes `data` completely and returns its height, width and channels.

    Raises BadPicture unless it is a whole grey or RGB picture in JPEG or PNG.
    """
    if len(data) > MAX_MEMBER_BYTES:
        raise BadPicture(f"larger than {MAX_MEMBER_BYTES >> 20} MiB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is lower
            with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise BadPicture(f"{width}x{height} pixels, more than {MAX_PIXELS:,}")
                image.verify()
            with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:  # verify() leaves it unusable
                image.load()
                mode = image.mode
    except BadPicture:
        raise
    except UnidentifiedImageError:
        raise BadPicture("no JPEG or PNG picture") from None
    except Exception as error:  # for damaged files Pillow raises nearly every type there is
        raise BadPicture(f"cannot be decoded ({' '.join(str(error).split()) or type(error).__name__})") from None
    if mode not in ("L", "RGB"):
        raise BadPicture(f"colour mode {mode}, neither grey (L) nor RGB")
    return height, width, len(mode)


def encode_png(image: Image.Image) -> bytes:
    """The picture as PNG, without loss."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


@dataclasses.dataclass(frozen=True)
class Picture:
    """One labelled picture on its way into a data set."""

    order: int  # pictures are stored by rising order, in whatever order they come
    name: str  # unique in its split; for people: a path or a row
    image: bytes  # PNG or JPEG, complete and checked
    label: str  # canonical emotion
    shape: tuple[int, int, int] = (0, 0, 0)  # height, width, channels; known once the picture is checked
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)  # values of the builder's EXTRA_FEATURES


@dataclasses.dataclass(frozen=True)
class Split:
    """How many pictures a split should have, and a function that starts to produce those that are usable."""

    expected: int
    pictures: Callable[[], Iterator[Picture]]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What was recognised at a source, before the first picture is read."""

    layout: str
    protocol: str
    splits: dict[str, Split]
    notes: list[str] = dataclasses.field(default_factory=list)


class Skipped:
    """What could not be used, and why. When strict, the first such thing is an error instead."""

    def __init__(self, strict: bool) -> None:
        """Starts with nothing skipped."""
        self.strict = strict
        self.entries: list[dict[str, str]] = []

    def add(self, path: str, why: str) -> None:
        """Notes one thing left out. Raises DataError when strict."""
        if self.strict:
            raise DataError(f"{path}: {why}; put it right, or leave it out by preparing without --strict")
        self.entries.append({"path": path, "why": why})


class FaceBuilder(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]  # TFDS carries no types
    """A data set of labelled faces, stored as encoded pictures in ArrayRecord files, without TensorFlow.

    Examples are {image: encoded bytes, label: class number, name: text}. `info.metadata` keeps what a later
    reader must know: `layout` and `protocol` (where the pictures came from, and what results on them may be
    compared with), `counts` {split: {class: number}}, `shapes` {height x width x channels: number}, `skipped`
    (what could not be used, and why), `notes`, and `source` with its `fingerprint`.
    """

    VERSION = tfds.core.Version("1.0.0")
    #: TFDS looks for lists of downloads beside the module, with a package that it does not install; there are none.
    url_infos: ClassVar[dict[str, Any]] = {}
    CLASSES: ClassVar[tuple[str, ...]]
    EXTRA_FEATURES: ClassVar[dict[str, Any]] = {}
    #: Numbers of pictures {split: {class: number}} of the complete data set, where they are published.
    KNOWN_COUNTS: ClassVar[dict[str, dict[str, int]]] = {}
    #: False for a data set that is made here.
    NEEDS_SOURCE: ClassVar[bool] = True
    #: One line for somebody who does not have the data: where to ask for it.
    WHERE_TO_GET_IT: ClassVar[str] = ""

    def __init__(self, *, source: str | None = None, strict: bool = False, **kwargs: Any) -> None:
        """Takes TFDS's own arguments, and where the pictures are.

        Args:
            source: a folder, an archive or a file; needed to prepare, not to read.
            strict: whether one unusable picture is an error.
            **kwargs: `data_dir`, `config` and `version` of TFDS.
        """
        self._source = source
        self.skipped = Skipped(strict)
        super().__init__(file_format="array_record", **kwargs)

    def plan(self, source: Source | None) -> Plan:
        """Recognises what is at `source` (None where NEEDS_SOURCE is False); each builder has its own.

        Raises DataError if nothing fits.
        """
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=(self.__doc__ or "").strip(),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, None)),
                    "label": tfds.features.ClassLabel(names=list(self.CLASSES)),
                    "name": tfds.features.Text(),
                    **self.EXTRA_FEATURES,
                }
            ),
            supervised_keys=("image", "label"),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager  # nothing is ever downloaded
        source = open_source(self._source) if self._source is not None else None
        plan = self.plan(source)
        self.info.metadata.update(
            layout=plan.layout,
            protocol=plan.protocol,
            notes=plan.notes,
            counts={},
            shapes={},
            skipped=self.skipped.entries,
            source=str(source.path) if source else "",
            fingerprint=source.fingerprint() if source else "",
        )
        return {name: self._generate_examples(name, split) for name, split in plan.splits.items()}

    def _generate_examples(self, name: str, split: Split) -> Iterator[tuple[int, dict[str, Any]]]:
        counts: Counter[str] = Counter()
        shapes = self.info.metadata["shapes"]
        bar = tqdm(total=split.expected, desc=f"{self.name} {name}", unit=" pictures", file=sys.stderr, disable=None)
        before = len(self.skipped.entries)
        with bar:
            for picture in split.pictures():
                counts[picture.label] += 1
                shape = "x".join(map(str, picture.shape))
                shapes[shape] = shapes.get(shape, 0) + 1
                bar.update()
                example = {"image": picture.image, "label": picture.label, "name": picture.name, **picture.extra}
                # TFDS sorts by this key (disable_shuffling), so a folder and an archive of it give the same order.
                yield picture.order, example
        if not counts:
            why = "".join(" (the first: {path}: {why})".format(**entry) for entry in self.skipped.entries[before:][:1])
            raise DataError(f"split {name!r} has no usable picture among {split.expected:,}{why}")
        self.info.metadata["counts"][name] = {label: counts[label] for label in self.CLASSES}
        self.info.metadata["notes"] += self._compare(name, counts)

    def _compare(self, split: str, counts: Counter[str]) -> list[str]:
        """Says where a split's numbers differ from the published ones."""
        known = self.KNOWN_COUNTS.get(split)
        if known is None or all(counts[label] == number for label, number in known.items()):
            return []
        parts = [f"{label} {counts[label]:,} of {all_:,}" for label, all_ in known.items() if counts[label] != all_]
        total = f"{counts.total():,} pictures, the complete set has {sum(known.values()):,}"
        return [f"{split}: {total}; different: {', '.join(parts)}"]
