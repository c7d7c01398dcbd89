"""What the TFDS builders of face data share: the features, the account of what was skipped, and its report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds


@dataclasses.dataclass(frozen=True)
class Picture:
    """One labelled picture on its way into a data set."""

    name: str  # unique in its split; for people: a path or a row
    image: bytes  # PNG or JPEG, complete and checked
    label: str  # canonical emotion


class FaceBuilder(tfds.core.GeneratorBasedBuilder):
    """A data set of labelled faces, stored as encoded pictures in ArrayRecord files, without TensorFlow.

    Examples are {image: encoded bytes, label: class number, name: text}. `info.metadata` keeps what a later
    reader must know: `layout` and `protocol` (where the pictures came from, and what results on them may be
    compared with), `source`, and `skipped` (what could not be used, and why).
    """

    VERSION = tfds.core.Version("1.0.0")
    CLASSES: ClassVar[tuple[str, ...]]
    EXTRA_FEATURES: ClassVar[dict[str, Any]] = {}
    #: One line for somebody who does not have the data: where to ask for it.
    WHERE_TO_GET_IT: ClassVar[str] = ""

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

    def _generate_examples(self, pictures: Iterator[Picture]) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, picture in enumerate(pictures):
            yield number, {"image": picture.image, "label": picture.label, "name": picture.name}
