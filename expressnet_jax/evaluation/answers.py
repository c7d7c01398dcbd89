"""What a network answers to a split: the one step of which every figure of an evaluation is made, and its answers kept.

Legend: N examples of the split, B of them in a batch, C classes, E experts, K selected.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from scipy import special

from data_pipelines import loader
from data_pipelines.common.errors import DataError
from data_pipelines.common.files import replacing
from data_pipelines.common.text import counting, reason
from data_pipelines.splits import Split
from expressnet_jax.config import Config
from expressnet_jax.evaluation import metrics
from expressnet_jax.models import preprocess
from expressnet_jax.parallel import distributed
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.runs import state as states
from expressnet_jax.runs.state import State

Batch = dict[str, jax.Array]
Rows = dict[str, Any]
Ranges = dict[str, tuple[jax.Array, jax.Array]]
Routing = dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Answers:
    """One row an example, in the order of the split."""

    classes: tuple[str, ...]
    index: np.ndarray  # (N,) int32: its number in its data set's split
    label: np.ndarray  # (N,) int32
    logits: np.ndarray  # (N, C) float32; -inf for the classes that the data set does not have
    flipped: np.ndarray  # (N, C) float32: of the mirrored picture
    routing: Routing  # layer -> probabilities (N, E) float32 and chosen (N, K) int32, the likeliest first
    votes: np.ndarray | None = None  # (N, C) float32: the shares of people's votes, where the data set has them

    @property
    def predicted(self) -> np.ndarray:
        """(N,) the likeliest class; the first of equals."""
        return self.logits.argmax(-1)

    @property
    def right(self) -> np.ndarray:
        """(N,) bool."""
        return self.predicted == self.label

    @property
    def shared(self) -> np.ndarray:
        """Numbers of the classes that the network and the data set both have."""
        return np.flatnonzero(np.isfinite(self.logits).any(0))


def step(config: Config, *, mirrored: bool = False, features: bool = False) -> Callable[[State, Batch], Rows]:
    """Makes `step(state, batch) -> rows`: what the weights that would be exported answer to each example of a batch.

    The rows are `index`, `label`, `mask` and, where the batch has them, `votes`, as they came; `logits` (B, C) float32;
    `routing`, for each layer its probabilities (B, E) and the chosen experts (B, K); with `mirrored` also `flipped`
    (B, C), the logits of the mirrored picture; and with `features` the outputs (B, F) of each of the network's parts.
    """
    graph = states.graph(config)

    def answer(state: State, batch: Batch) -> Rows:
        images = preprocess.preprocess(batch["image"], config.model.image_size, config.preprocess)
        model = nnx.merge(graph, *states.weights(state))
        output = model(images, batch["mask"])
        rows: Rows = {key: batch[key] for key in ("index", "label", "mask", "votes") if key in batch}
        routing = {layer: (found.probabilities, found.chosen) for layer, found in output.routing.items()}
        rows |= {"logits": output.logits, "routing": routing} | ({"features": output.features} if features else {})
        return rows | ({"flipped": model(images[:, :, ::-1], batch["mask"]).logits} if mirrored else {})

    return answer


def counter(config: Config, mesh: jax.sharding.Mesh) -> Any:
    """The jitted `(state, batch, known) -> (confusion (C, C) int32, true classes in rows; loss (); ranges)`: what a
    batch adds to a validation, padding aside. It is whole on every device; `evaluate` wants it.

    `known` (C,) bool says which classes the data set has: the others are never predicted. The loss is the sum of the
    cross-entropies with smoothed labels, over all classes, as in training. The ranges are, for each part of the
    network, the smallest and the largest value (F,) of each of its outputs.
    """
    answer = step(config, features=True)

    def count(state: State, batch: Batch, known: jax.Array) -> tuple[jax.Array, jax.Array, Ranges]:
        rows = answer(state, batch)
        logits, label, mask = rows["logits"], rows["label"], rows["mask"]
        classes = logits.shape[-1]
        targets = optax.smooth_labels(jax.nn.one_hot(label, classes), config.label_smoothing)
        losses = optax.softmax_cross_entropy(logits, targets)
        guesses = jnp.where(known, logits, -jnp.inf).argmax(-1)
        # Each pair of true and predicted class has its own counter; padding goes to one more, cut off below.
        pairs = jnp.where(mask, label * classes + guesses, classes * classes)
        confusion = jnp.zeros(classes * classes + 1, jnp.int32).at[pairs].add(1)[:-1]
        real = mask[:, None]
        ranges = {
            part: (jnp.where(real, x, jnp.inf).min(0), jnp.where(real, x, -jnp.inf).max(0))
            for part, x in rows["features"].items()
        }
        return confusion.reshape(classes, classes), (losses * mask).sum(), ranges

    return jax.jit(count, out_shardings=meshes.replicated(mesh))


def evaluate(
    config: Config, count: Any, state: State, split: Split, mesh: jax.sharding.Mesh, *, each: Callable[[], None]
) -> dict[str, Any]:
    """`tally` of a whole split, with `split`, its name, and `loss`, the mean of what `counter` sums up.

    `silent`, for each part of the network: how many of its outputs were the same for every picture, as those of a dead
    relu are, and how many it has. `count` is of `counter`; `each` is called after every batch. Raises DataError like
    `tally`.
    """
    classes = len(split.classes)
    confusion, loss = np.zeros((classes, classes), np.int64), 0.0
    ranges: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for batch in batches(config, split, mesh):
        of_batch, loss_of_batch, of_parts = jax.device_get(count(state, batch, split.known))
        confusion += of_batch
        loss += float(loss_of_batch)
        for part, (low, high) in of_parts.items():
            before = ranges.get(part, (low, high))
            ranges[part] = np.minimum(before[0], low), np.maximum(before[1], high)
        each()
    silent = {part: (int((low == high).sum()), low.size) for part, (low, high) in ranges.items()}
    return {"split": split.name, "loss": loss / len(split), "silent": silent, **tally(confusion, split)}


def tally(confusion: np.ndarray, split: Split) -> dict[str, Any]:
    """`metrics.summarize` of counts (C, C) over a split, of the classes that it and the network share.

    Raises DataError where not every example of the split was counted.
    """
    if confusion.sum() != len(split):
        raise DataError(f"evaluated {confusion.sum()} of the {len(split)} examples of {split.name}")
    shared = np.flatnonzero(split.known)
    return metrics.summarize(confusion[np.ix_(shared, shared)], [split.classes[i] for i in shared])


def batches(config: Config, split: Split, mesh: jax.sharding.Mesh, *, shown: bool = True) -> Iterator[Batch]:
    """Every example of a split once, on the devices; the progress is `shown` under the split's name.

    Each process brings its part, and the last batch is padded.
    """
    ours = loader.evaluation_batches(
        split, config.batch_size, host=jax.process_index(), hosts=jax.process_count(), workers=config.data.workers
    )
    hidden = not (shown and distributed.is_first())
    for batch in counting(ours, split.name, number_of(config, split), unit="batches", hidden=hidden):
        yield meshes.to_device(mesh, batch)


def number_of(config: Config, split: Split) -> int:
    """How many batches a split has."""
    return -(-len(split) // config.batch_size)


def program(config: Config, mesh: jax.sharding.Mesh) -> Any:
    """The jitted `(state, batch) -> rows` of pictures and mirror images, whole on every device; `collect` wants it."""
    return jax.jit(step(config, mirrored=True), out_shardings=meshes.replicated(mesh))


def collect(config: Config, answer: Any, state: State, split: Split, mesh: jax.sharding.Mesh) -> Answers:
    """The answers of a network to every example of a split; every process gets them all.

    Raises DataError where they are not as many as the split has examples, or not finite.
    """
    parts = []
    for batch in batches(config, split, mesh):
        rows = jax.device_get(answer(state, batch))
        real = rows.pop("mask")
        parts.append(jax.tree.map(lambda column, real=real: np.asarray(column)[real], rows))
    whole = jax.tree.map(lambda *columns: np.concatenate(columns), *parts)
    if len(whole["label"]) != len(split):
        raise DataError(f"evaluated {len(whole['label'])} of the {len(split)} examples of {split.name}")
    both = np.concatenate([whole["logits"][:, split.known], whole["flipped"][:, split.known]], axis=1)
    if wrong := int((~np.isfinite(both)).any(1).sum()):
        raise DataError(f"the network's answers to {wrong} of {len(split)} examples of {split.name} are not finite")
    whole |= {key: np.where(split.known, whole[key], np.float32(-np.inf)) for key in ("logits", "flipped")}
    return Answers(split.classes, **whole)


def summarize(answers: Answers, label_smoothing: float) -> dict[str, Any]:
    """The summary of `metrics.summarize`, with `loss`: the mean cross-entropy with smoothed labels.

    It is over the classes that the data set has, of which one is predicted; the validation loss of training is over all
    of the network's classes, and so is larger where the data set lacks some.
    """
    shared, size = answers.shared, len(answers.classes)
    confusion = metrics.confusion(answers.label, answers.predicted, size)[np.ix_(shared, shared)]
    logs = special.log_softmax(answers.logits.astype(np.float64), axis=-1)[:, shared]  # (N, shared classes)
    targets = np.eye(size)[answers.label][:, shared] * (1 - label_smoothing) + label_smoothing / len(shared)
    loss = float(-(targets * logs).sum() / len(answers.label))
    return {"loss": loss, **metrics.summarize(confusion, [answers.classes[i] for i in shared])}


def save(answers: Answers, path: Path) -> None:
    """Writes a .npz file of plain arrays, whole or not at all."""
    arrays = {name: value for name, value in vars(answers).items() if name != "routing" and value is not None}
    for layer, (probabilities, chosen) in answers.routing.items():
        arrays |= {f"{layer}/probabilities": probabilities, f"{layer}/chosen": chosen}
    with replacing(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)


def load(path: Path) -> Answers:
    """Reads what `save` wrote; nothing is ever unpickled. Raises DataError where the file is damaged or another's."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        layers = [key.removesuffix("/chosen") for key in arrays if key.endswith("/chosen")]
        routing = {layer: (arrays.pop(f"{layer}/probabilities"), arrays.pop(f"{layer}/chosen")) for layer in layers}
        classes = tuple(str(name) for name in arrays.pop("classes"))
        answers = Answers(classes=classes, routing=routing, **arrays)
    except Exception as error:  # NumPy, zipfile and zlib each have many ways of saying that a file is damaged
        why = reason(error, named=path)
        raise DataError(f"{path} cannot be read as answers ({why}); evaluate the run again") from error
    if wrong := _misfit(answers):
        raise DataError(f"{path} holds no answers of a network ({wrong}); evaluate the run again")
    return answers


def _misfit(answers: Answers) -> str:
    """What makes arrays from a file no answers; empty where they fit together."""
    n, c = answers.label.size, len(answers.classes)
    votes = {} if answers.votes is None else {"votes": ("f", (n, c))}
    expected = {"index": ("i", (n,)), "label": ("i", (n,)), "logits": ("f", (n, c)), "flipped": ("f", (n, c)), **votes}
    for name, (kind, shape) in expected.items():
        array = getattr(answers, name)
        if array.dtype.kind != kind or array.shape != shape:
            return f"{name} is {array.dtype} {array.shape}"
    if not n or not np.isin(answers.label, answers.shared).all():
        return f"{n} examples, or labels that are never predicted"
    if not all(np.isfinite(values[:, answers.shared]).all() for values in (answers.logits, answers.flipped)):
        return "not finite"
    for layer, (probabilities, chosen) in answers.routing.items():
        kinds, shapes = probabilities.dtype.kind + chosen.dtype.kind, (probabilities.shape, chosen.shape)
        if kinds != "fi" or any(len(shape) != 2 or shape[0] != n or not shape[1] for shape in shapes):
            return f"{layer} is {probabilities.dtype} {shapes[0]}, {chosen.dtype} {shapes[1]}"
        if not np.isfinite(probabilities).all() or chosen.min() < 0 or chosen.max() >= shapes[0][1]:
            return f"{layer} has probabilities or choices of no expert"
    return ""
