"""Drawn faces with every parameter known: a data set that anybody can make in minutes, without any licence."""

import concurrent.futures
import dataclasses
import functools
import multiprocessing
import signal
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from data_pipelines.builders.base import FaceBuilder, Picture, Plan, PlannedSplit
from data_pipelines.labels import EMOTIONS
from data_pipelines.pictures import encode
from data_pipelines.sources import Source
from data_pipelines.synthetic import Factors, draw, sample_factors

SEED = 20130614
_CHUNK = 32  # pictures that a process draws before it hands them over
_WORTH_PROCESSES = 500  # fewer pictures are drawn sooner than processes start


@dataclasses.dataclass(eq=False, kw_only=True)
class SyntheticConfig(tfds.core.BuilderConfig):  # type: ignore[misc]  # TFDS carries no types
    """How large and how many the pictures are."""

    size: int
    splits: dict[str, int]
    first: int = 0  # number of its first face: no two configurations share one


def _factor_features() -> dict[str, Any]:
    """TFDS features of all factors but the label, which has its own."""
    kinds = {float: np.float32, int: np.int64, str: tfds.features.Text()}
    fields = {field.name: kinds[type(field.default)] for field in dataclasses.fields(Factors)}
    return {name: kind for name, kind in fields.items() if name not in ("label", "label_id")}


class SyntheticFaces(FaceBuilder):
    """Faces drawn from sampled parameters (facial action units, identity, pose, light, occlusion), balanced classes."""

    CLASSES = EMOTIONS
    EXTRA_FEATURES: ClassVar[dict[str, Any]] = {"factors": _factor_features()}
    NEEDS_SOURCE = False
    BUILDER_CONFIGS: ClassVar[list[SyntheticConfig]] = [
        SyntheticConfig(name="48px", size=48, splits={"train": 6000, "validation": 800, "test": 1200}),
        SyntheticConfig(name="tiny", size=48, splits={"train": 160, "validation": 64, "test": 64}, first=8000),
    ]

    def plan(self, source: Source) -> Plan:
        """The splits, of all configurations, are ranges of one stream of faces, so no face is in two of them."""
        del source
        splits = {}
        start, size = self.builder_config.first, self.builder_config.size
        for name, examples in self.builder_config.splits.items():
            splits[name] = PlannedSplit(examples, functools.partial(_draw_all, range(start, start + examples), size))
            start += examples
        protocol = "Drawn faces: compare only with results on the same configuration of this set, never on photographs."
        return Plan(f"drawn, {size}x{size}", protocol, splits)


def _draw_all(indices: range, size: int) -> Iterator[Picture]:
    draw_one = functools.partial(_draw_one, size=size)
    if len(indices) < _WORTH_PROCESSES:
        yield from map(draw_one, indices)
        return
    # Processes are spawned, not forked: the caller may hold threads (JAX, Grain), which a fork would freeze.
    spawn = multiprocessing.get_context("spawn")
    ignore = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    with concurrent.futures.ProcessPoolExecutor(None, spawn, signal.signal, ignore) as pool:
        yield from pool.map(draw_one, indices, chunksize=_CHUNK)


def _draw_one(index: int, size: int) -> Picture:
    factors = sample_factors(SEED, index)
    values = dataclasses.asdict(factors)
    del values["label"], values["label_id"]
    image = encode(Image.fromarray(draw(factors, size)))
    return Picture(index, f"face {index}", image, factors.label, {"factors": values})
