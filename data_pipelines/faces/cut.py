"""From a picture to the face in it, once, when a data set is prepared."""

from __future__ import annotations

import dataclasses

import numpy as np

from data_pipelines.faces import crop, detectors


@dataclasses.dataclass(frozen=True)
class FaceCrop:
    """Finds the labelled face and cuts it out: with the published margins, or turned so that the eyes lie level."""

    detector: str  # a name of `detectors`
    model: str | None  # the file that some detectors need
    align: bool
    side: int  # of the crop, in pixels

    def __post_init__(self) -> None:
        """Raises UsageError where the detector cannot be made."""
        object.__setattr__(self, "_detector", detectors.create(self.detector, self.model))

    def describe(self) -> str:
        """Everything that decides what is cut out, in one line."""
        return f"{self.detector}, {'eyes level' if self.align else 'published margins'}, {self.side} px"

    def __call__(self, rgb: np.ndarray) -> np.ndarray | None:
        """The face in (H, W, 3) as (side, side, 3), both uint8; None if there is none."""
        found = self._detector.detect(rgb)  # type: ignore[attr-defined]
        if not found:
            return None
        height, width, _ = rgb.shape
        face = crop.best(found, width, height)
        return (crop.align if self.align else crop.crop)(rgb, face, self.side)
