"""Whether a graph, loaded again by its own runtime, answers as the checkpoint does.

Legend: B image, H W height and width, C colour channels, S the network's picture side, E experts, K chosen.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from data_pipelines.common.text import counted
from data_pipelines.splits import Split
from expressnet_jax import target
from expressnet_jax.config import Config, ConfigError
from expressnet_jax.export import artifact
from expressnet_jax.export.artifact import ArtifactError
from expressnet_jax.models import preprocess

#: Largest difference of a probability in float32.
TOLERANCE = 1e-5
#: Largest difference of logits and features, as a fraction of the largest of them.
_RELATIVE = 1e-4
#: Two scores of a router no further apart than this are a tie: rounding decides which expert answers.
_TIE = 1e-5
_CHUNK = 16  # pictures that the reference answers at once
_LARGE = 64  # the side of pictures from which on 256 at once would need too much memory

Run = Callable[[np.ndarray], Mapping[str, np.ndarray]]


class Batch(NamedTuple):
    """Pictures, and the checkpoint's answers."""

    images: np.ndarray  # (B, H, W, 3) uint8
    answers: dict[str, np.ndarray]
    scores: dict[str, np.ndarray]  # by output of experts: what the router chose by, (B, E)
    order: dict[str, np.ndarray]  # likewise: the probabilities, by which the chosen are in order


def plain(config: Config) -> Config:
    """A config whose network computes what every graph does: float32, all experts on every picture, and convolutions
    in the form that is the fastest on each kind of machine. None of it changes an answer by more than rounding."""
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, dtype="float32", remat=False, convolution="auto"),
        moe=dataclasses.replace(config.moe, implementation="dense"),
    )


class Reference:
    """The checkpoint's own answers: the network as it is evaluated, in float32 on the CPU, nothing folded."""

    def __init__(self, config: Config, weights: Mapping[str, np.ndarray]) -> None:
        """weights: by canonical name. Raises ConfigError where this process has no CPU backend."""
        try:
            self.device = jax.local_devices(backend="cpu")[0]
        except RuntimeError:
            said = "export compares on the CPU; set JAX_PLATFORMS to cuda,cpu or tpu,cpu, or do not set it"
            raise ConfigError(said) from None
        self.config = config
        graph, state = nnx.split(artifact.filled(config, weights))
        self.state = jax.device_put(state, self.device)

        def run(state: Any, images: jax.Array) -> tuple[dict[str, jax.Array], ...]:
            network: Any = nnx.merge(graph, state)
            routing = network(preprocess.normalize(images, config.preprocess)).routing
            order, scores = {}, {}
            for layer, found in routing.items():
                output, bias = artifact.chosen_by(layer), getattr(network, layer).selection_bias
                order[output] = found.probabilities
                scores[output] = found.probabilities + (0.0 if bias is None else bias[...])
            # `answer` finds nothing left to resize; the compiler computes the network once for both.
            return artifact.answer(config)(network, images), scores, order

        self.run = jax.jit(run)
        size, antialias = config.model.image_size, config.preprocess.antialias
        self.resize = jax.jit(lambda images: preprocess.resize(images, size, antialias=antialias))

    def __call__(self, images: np.ndarray) -> Batch:
        """Answers pictures (B, H, W, C) uint8; grey ones come back repeated, as the graphs take them."""
        parts = []
        for start in range(0, len(images), _CHUNK):
            part = images[start : start + _CHUNK]
            padded = np.concatenate([part, np.zeros((_CHUNK - len(part), *part.shape[1:]), np.uint8)])
            with target.compiling_for("cpu"), jax.default_matmul_precision("highest"):
                found = self.run(self.state, self.resize(jax.device_put(padded, self.device)))
            parts.append(jax.tree.map(np.asarray, found))
        found = jax.tree.map(lambda *values: np.concatenate(values)[: len(images)], *parts)
        return Batch(in_colour(images), *found)


def batches(reference: Reference, real: np.ndarray | None) -> list[Batch]:
    """Random pictures of two sizes in batches of 1, 7 and 256 (of large networks 32), and the real ones, if any."""
    size = reference.config.model.image_size
    shapes = [(1, size, size), (7, size + size // 2, max(1, size - size // 4))]
    shapes += [(256 if size <= _LARGE else 32, size, size)]
    images = [random_pictures(number, *shape) for number, shape in enumerate(shapes)]
    return [reference(part) for part in (*images, real) if part is not None]


def random_pictures(seed: int, b: int, h: int, w: int) -> np.ndarray:
    """(b, h, w, 3) uint8: coarse patches of random colours under noise, some dark, some bright."""
    rng = np.random.default_rng(seed)
    patches = rng.random((b, 7, 7, 3), np.float32)[:, np.arange(h) * 7 // h][:, :, np.arange(w) * 7 // w]
    brightness = rng.uniform(0.2, 1, (b, 1, 1, 1)).astype(np.float32)
    return (255 * brightness * (0.6 * patches + 0.4 * rng.random((b, h, w, 3), np.float32))).astype(np.uint8)


def check(name: str, run: Run, made: list[Batch]) -> dict[str, Any]:
    """Runs a graph on all batches. Returns the largest differences, as `config.json` keeps them.

    Raises ArtifactError, with the numbers, where one is above what rounding explains or an output is not what it
    should be.
    """
    worst: dict[str, float] = {}
    ties = 0
    for batch in made:
        found = dict(run(batch.images))
        same = np.ones(len(batch.images), bool)
        for output, expected in batch.answers.items():
            _check_form(name, output, found.get(output), expected)
            if output in batch.scores:
                same &= _same_experts(name, output, batch, found[output])
        ties += int((~same).sum())
        for output in set(batch.answers) - set(batch.scores):
            expected, difference = batch.answers[output][same], np.abs(found[output] - batch.answers[output])[same]
            scale = 1.0 if output == "probabilities" else float(np.abs(expected).max(initial=1e-6))
            # Not Python's `max`, for which a NaN is smaller than 0.
            worst[output] = float(np.maximum(worst.get(output, 0.0), difference.max(initial=0.0) / scale))
    off = [
        f"{output} by {value:.2g} (allowed: {allowed:g})"
        for output, value in sorted(worst.items())
        if not value <= (allowed := TOLERANCE if output == "probabilities" else _RELATIVE)
    ]
    if off:
        raise ArtifactError(f"{name}: answers other than the checkpoint's: {', '.join(off)}")
    return {
        "pictures": sum(len(batch.images) for batch in made),
        "batches": [len(batch.images) for batch in made],
        "largest_difference": {output: float(f"{value:.3g}") for output, value in sorted(worst.items())},
        "ties": ties,
    }


def measure(run: Run, made: list[Batch]) -> dict[str, Any]:
    """How far a graph of lower precision is from the checkpoint: of its probabilities, and of its answers."""
    pairs = [(np.asarray(run(batch.images)["probabilities"]), batch.answers["probabilities"]) for batch in made]
    found, expected = (np.concatenate(column) for column in zip(*pairs, strict=True))
    if not np.isfinite(found).all():
        raise ArtifactError("the graph of lower precision gives NaN; leave --quantize out, or take the other one")
    difference = np.abs(found - expected)
    return {
        "pictures": len(found),
        "largest_difference": float(f"{difference.max():.3g}"),
        "mean_difference": float(f"{difference.mean():.3g}"),
        "same_answer": float((found.argmax(-1) == expected.argmax(-1)).mean()),
    }


def accuracy(run: Run, split: Split, most: int) -> tuple[float, int]:
    """Which fraction of a split's pictures a graph answers rightly, and of how many: at most `most`, spread over it."""
    chosen, right = split.spread(most), 0
    for start in range(0, len(chosen), _CHUNK):
        batch = split.load(chosen[start : start + _CHUNK])
        answers = np.asarray(run(in_colour(batch["image"]))["probabilities"])
        right += int((np.where(split.known, answers, -1).argmax(-1) == batch["label"]).sum())
    return right / len(chosen), len(chosen)


def in_colour(images: np.ndarray) -> np.ndarray:
    """(B, H, W, C) as a graph takes it: grey pictures repeated three times."""
    return np.repeat(images, 3, -1) if images.shape[-1] == 1 else images


def _check_form(name: str, output: str, found: Any, expected: np.ndarray) -> None:
    if found is None:
        raise ArtifactError(f"{name}: the graph has no output {output!r}")
    if found.shape != expected.shape or found.dtype != expected.dtype:
        kinds = f"{found.dtype} {found.shape} and should be {expected.dtype} {expected.shape}"
        raise ArtifactError(f"{name}: {output} is {kinds}")


def _same_experts(name: str, output: str, batch: Batch, found: np.ndarray) -> np.ndarray:
    """(B,) bool: where the experts are the same. Raises ArtifactError where others are chosen, or the same in another
    order, that were no tie."""
    expected, scores = batch.answers[output], batch.scores[output]
    if found.min() < 0 or found.max() >= scores.shape[1]:
        raise ArtifactError(f"{name}: {output} names experts that do not exist")
    ours, theirs = (np.sort(np.take_along_axis(scores, chosen, 1), -1) for chosen in (found, expected))
    same = (np.sort(found, -1) == np.sort(expected, -1)).all(-1)
    ordered, as_ordered = (np.take_along_axis(batch.order[output], chosen, 1) for chosen in (found, expected))
    wrong = (np.abs(ours - theirs).max(-1) > _TIE) | (same & (np.abs(ordered - as_ordered).max(-1) > _TIE))
    if wrong.any():
        raise ArtifactError(f"{name}: {output} differ for {wrong.sum()} of {counted(len(found), 'picture')}")
    return same
