"""An exported network as a Python object: pictures go in, and what it sees in their faces comes out.

    model = expressnet_jax.load("artifact")
    for picture in model.predict(["a.jpg", "photos", array]):
        print(picture.path, [(face.label, face.probabilities[face.label]) for face in picture.faces])

Pictures are read, decoded and cut in threads, ahead of the device, which gets whole batches.

Legend: B batch, H W height and width, S side of the network's picture.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import warnings
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from PIL import Image

from data_pipelines.common.errors import DataError, Failure, UsageError
from data_pipelines.common.text import SHORT, one_line
from data_pipelines.common.threads import ordered
from data_pipelines.faces import crop, detectors
from data_pipelines.faces.detectors import Face
from data_pipelines.pictures import BadPicture
from expressnet_jax.export import artifact as artifacts
from expressnet_jax.export import packed
from expressnet_jax.models import expressnet, inference
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.predict import inputs as predict_inputs
from expressnet_jax.predict.inputs import Input, Preparation

#: Threads that read and decode; more of them only wait for each other.
_THREADS = min(16, os.cpu_count() or 1)

#: Once so many bytes of frames and arrays wait in memory, the next batch is started without waiting until it is full.
_MAX_HELD = 256 << 20

#: What data preparation says of how it cut faces out (data_pipelines/faces/crop.py).
_CROPPED = re.compile(r"(\w+), (published margins|eyes level), (\d+) px")


class PredictError(Failure):
    """A prediction that cannot be, as it was asked for; the message is one line."""

    exit_code = 2


@dataclass(frozen=True)
class Prediction:
    """What the network says of one face, or of a whole picture."""

    label: str  # the most probable class: what the face is perceived to express
    probabilities: dict[str, float]  # by class, in the network's order
    box: tuple[int, int, int, int] | None  # left, top, width, height in pixels of the upright picture; None: all of it
    score: float | None  # how sure the detector is of the face, 0 to 1; None: nothing was detected
    experts: dict[str, tuple[int, ...]]  # numbers of the experts chosen in each layer, the likeliest first


@dataclass(frozen=True)
class Pictured:
    """What came of one picture, or of one frame of a video."""

    path: str  # "" for an array or a PIL image
    faces: tuple[Prediction, ...]  # the surest detection first
    error: str = ""  # why there are none
    note: str = ""
    time: float | None = None  # of a frame, in seconds from the start


def load(
    path: str | os.PathLike[str], *, faces: str | None = None, faces_model: str | None = None,
    batch_size: int | None = None, mirrored: bool = False,
) -> Model:  # fmt: skip
    """`expressnet_jax.load`, whose description holds here too."""
    if batch_size is not None and not (isinstance(batch_size, int) and batch_size > 0):
        raise PredictError(f"a batch of {batch_size!r} pictures; give a whole number, 1 or more")
    artifact = packed.read(Path(path))
    side = artifact.config.model.image_size
    # On a CPU, a few large pictures keep it busy as well as 64 of 48 pixels.
    busy = 128 if jax.default_backend() != "cpu" else min(max(64 * 48**2 // side**2, 8), 64)
    return Model(artifact, _preparation(artifact, faces, faces_model), batch_size or busy, mirrored=mirrored)


def _preparation(artifact: artifacts.Artifact, faces: str | None, faces_model: str | None) -> Preparation:
    """Raises DataError where a detector that was asked for cannot be had; warns where it was not."""
    config, described = artifact.config, str(artifact.meta.get("faces") or "")
    trained = _CROPPED.fullmatch(described)
    stored = _stored(artifact.meta)
    if trained and not stored:
        stored = (int(trained[3]), int(trained[3]), 3)
    made = Preparation(config.model.image_size, config.preprocess.antialias, stored)
    name = faces if faces is not None else trained[1] if trained else described or "none"
    if name == "none":
        if faces_model:
            raise UsageError(f"{faces_model} is the model of a detector; name it as well: faces=NAME, --faces NAME")
        return made
    try:
        detector = detectors.create(name, faces_model)
    except DataError as error:
        if faces is not None or faces_model:
            raise
        warnings.warn(
            f"the network was trained on faces cut out by {described}, and here whole pictures are taken: {error} "
            '(or say faces="none", --faces none, if the pictures are cut out already)',
            stacklevel=4,
        )
        return made
    side = int(trained[3]) if trained else max(stored[:2]) if stored else made.size
    align = trained is not None and trained[2] == "eyes level"
    return dataclasses.replace(made, detector=detector, align=align, side=side)


def _stored(meta: dict[str, Any]) -> tuple[int, int, int] | None:
    """Height, width and channels of the stored training pictures, if the artifact says so and they make sense."""
    match meta.get("stored"):
        case [int(height), int(width), int(channels)] if channels in (1, 3) and min(height, width) >= 1:
            return (height, width, channels) if max(height, width) <= 4096 else None
    return None


@dataclass
class _Picture:
    """A picture, cut and ready for the device, of which some answers are still to come."""

    source: Input
    error: str = ""
    note: str = ""
    images: list[np.ndarray] = field(default_factory=list)
    faces: list[tuple[tuple[int, int, int, int] | None, float | None]] = field(default_factory=list)  # box and score
    answers: list[Prediction] = field(default_factory=list)


class Model:
    """A network with its weights, made by `load`. For one thread at a time."""

    def __init__(
        self, artifact: artifacts.Artifact, preparation: Preparation, batch_size: int, *, mirrored: bool = False
    ) -> None:
        """Compiles nothing yet; the first batch does."""
        config = artifact.config
        self.classes, self.config, self.batch_size = artifact.classes, config, batch_size
        self._preparation, self._layers = preparation, expressnet.routed_layers(config)
        self._mesh = meshes.for_evaluation(dataclasses.replace(config, batch_size=batch_size))
        with jax.set_mesh(self._mesh):  # which tells the large kernels how many devices share a batch
            graph, arrays = inference.prepared(artifacts.filled(config, artifact.weights), config)
        everywhere = jax.sharding.NamedSharding(self._mesh, jax.sharding.PartitionSpec())
        self._arrays = jax.device_put(arrays, everywhere)
        run, wanted = artifacts.answer(config), ("probabilities", *map(artifacts.chosen_by, self._layers))

        def answer(arrays: Any, images: jax.Array) -> dict[str, jax.Array]:
            network = nnx.merge(graph, arrays)
            found = run(network, images)
            if mirrored:
                other = run(network, images[:, :, ::-1])["probabilities"]
                found = {**found, "probabilities": (found["probabilities"] + other) / 2}
            return {name: found[name] for name in wanted}

        self._answer = jax.jit(answer)

    def _start(self, images: list[np.ndarray]) -> Any:
        """Begins to answer at most a batch of pictures of one size. Fewer are padded: there is one program, and another
        where a picture comes in float32."""
        batch = np.stack(images + images[-1:] * (self.batch_size - len(images)))
        with jax.set_mesh(self._mesh):
            return self._answer(self._arrays, meshes.to_device(self._mesh, {"images": batch})["images"])

    def _finish(self, owners: list[_Picture], started: Any) -> None:
        """Waits for a batch, and gives the pictures that its images are of their answers; padding is left over."""
        found = {name: values.tolist() for name, values in jax.device_get(started).items()}
        for i, one in enumerate(owners):
            probabilities = dict(zip(self.classes, found["probabilities"][i], strict=True))
            experts = {layer: tuple(found[artifacts.chosen_by(layer)][i]) for layer in self._layers}
            label = max(probabilities, key=probabilities.__getitem__)
            one.answers.append(Prediction(label, probabilities, *one.faces[len(one.answers)], experts))

    def predict(self, images: Any) -> list[Pictured]:
        """Answers pictures: one result for each, in order.

        Args:
            images: one of these, or a list of any: a path (of a picture, a folder or a video, or a pattern; see
                predict/inputs.py's find), an array (predict/inputs.py's of_image), a PIL image.

        A picture that cannot be read, or has no face, has an `error`. Raises PredictError for other arrays and objects.
        """
        return list(self.stream(images))

    def stream(self, images: Any, *, every: int = 1) -> Iterator[Pictured]:
        """As `predict`, for any number of pictures: `images` may be a generator, and a few batches at a time are taken
        from it. Of videos, one frame of `every` is answered."""
        for _, result in self.answers(_inputs(images, every)):
            yield result

    def answers(self, sources: Iterable[Input]) -> Iterator[tuple[Input, Pictured]]:
        """What `stream` gives, each with the input that it answers."""
        waiting: deque[_Picture] = deque()  # for answers, in order
        queue: deque[tuple[_Picture, np.ndarray]] = deque()  # for the device
        started: deque[tuple[list[_Picture], Any]] = deque()  # on the device
        held = 0
        for one in itertools.chain(self._read(sources), [None]):  # None: the end
            if one is not None:
                waiting.append(one)
                queue.extend((one, image) for image in one.images)
                held += one.source.held
            # A camera waits for its answer; and neither pictures without a face nor large ones may pile up.
            urgent = one is None or one.source.live or held > _MAX_HELD or len(waiting) > 8 * self.batch_size
            while len(queue) >= (1 if urgent else self.batch_size):
                taken = [queue.popleft() for _ in range(min(len(queue), self.batch_size))]
                started.append(([owner for owner, _ in taken], self._start([image for _, image in taken])))
                if len(started) > 1:  # the device has one to do while the next is made ready
                    self._finish(*started.popleft())
            while urgent and started:
                self._finish(*started.popleft())
            while waiting and len(waiting[0].answers) == len(waiting[0].images):
                done = waiting.popleft()
                held -= done.source.held
                result = Pictured(done.source.path, tuple(done.answers), done.error, done.note, done.source.time)
                yield done.source, result

    def _read(self, sources: Iterable[Input]) -> Iterator[_Picture]:
        def full(waiting: Collection[Input]) -> bool:
            many = len(waiting) > 2 * self.batch_size + _THREADS
            return many or sum(one.held for one in waiting) > _MAX_HELD or any(one.live for one in waiting)

        def ready(source: Input) -> _Picture:
            return _ready(source, self._preparation)

        return (one for _, one in ordered(ready, sources, workers=_THREADS, full=full))


def _inputs(images: Any, every: int) -> Iterator[Input]:
    if every < 1:
        raise PredictError(f"one frame of every {every}; give 1 or more")
    single = isinstance(images, (str, os.PathLike, Image.Image)) or (isinstance(images, np.ndarray) and images.ndim < 4)
    if not single and not isinstance(images, Iterable):
        raise PredictError(f"a {type(images).__name__} is no picture; give paths, PIL pictures or arrays")
    for image in [images] if single else images:
        if isinstance(image, (str, os.PathLike)):
            yield from predict_inputs.open_found(predict_inputs.find(image), every)
            continue
        try:
            yield predict_inputs.of_image(image)
        except TypeError as error:
            raise PredictError(str(error)) from None


def _ready(source: Input, preparation: Preparation) -> _Picture:
    """Reads one picture, finds its faces where that is asked for, and fits what is to be answered."""
    try:
        decoded = source.read(preparation.within)
        if preparation.detector is None:
            return _Picture(source, "", decoded.note, [preparation.fit(decoded.rgb)], [(None, None)])
        faces = preparation.detector.detect(decoded.rgb)
        cut = crop.align if preparation.align else crop.crop
        images = [preparation.fit(cut(decoded.rgb, face, preparation.side)) for face in faces]
    except BadPicture as error:
        return _Picture(source, str(error))
    except Exception as error:  # a detector's library may raise anything; one picture is no reason to stop
        return _Picture(source, f"looking for its faces failed ({one_line(error)[:SHORT]})")
    found = [(_box(face, decoded), round(face.score, 4)) for face in faces]
    return _Picture(source, "" if faces else "no face found", decoded.note, images, list(found))


def _box(face: Face, decoded: predict_inputs.Decoded) -> tuple[int, int, int, int]:
    """The face's box in pixels of the original picture, which it does not leave."""
    x, y, width, height = face.box
    across, down = (whole / part for whole, part in zip(decoded.size, decoded.rgb.shape[1::-1], strict=True))
    left, right = (min(max(round(at * across), 0), decoded.size[0]) for at in (x, x + width))
    top, bottom = (min(max(round(at * down), 0), decoded.size[1]) for at in (y, y + height))
    return left, top, max(right - left, 1), max(bottom - top, 1)
