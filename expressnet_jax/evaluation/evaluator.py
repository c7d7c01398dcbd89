"""The one evaluation step, of which every figure is made, and the loops that take it over a split, each example once.

Legend: B batch, C classes, E experts, K selected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from data_pipelines import loader
from data_pipelines.common.errors import DataError
from data_pipelines.splits import Split
from expressnet_jax.config import Config
from expressnet_jax.evaluation import metrics
from expressnet_jax.models import preprocess
from expressnet_jax.parallel import distributed
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.runs import state as states

Batch = dict[str, jax.Array]
Rows = dict[str, Any]


def step(config: Config, *, mirrored: bool = False) -> Callable[[states.State, Batch], Rows]:
    """Makes `step(state, batch) -> rows`: what the weights that would be exported answer to each example of a batch.

    The rows are `index`, `label`, `mask` and, where the batch has them, `votes`, as they came; `logits` (B, C) float32;
    `routing`, for each layer its probabilities (B, E) and the chosen experts (B, K); and with `mirrored` also
    `flipped` (B, C), the logits of the mirrored picture.
    """
    graph = states.graph(config)

    def answer(state: states.State, batch: Batch) -> Rows:
        images = preprocess.preprocess(batch["image"], config.model.image_size, config.preprocess)
        model = nnx.merge(graph, *states.weights(state))
        output = model(images, batch["mask"])
        rows: Rows = {key: batch[key] for key in ("index", "label", "mask", "votes") if key in batch}
        rows |= {"logits": output.logits}
        rows |= {"routing": {layer: (found.probabilities, found.chosen) for layer, found in output.routing.items()}}
        return rows | ({"flipped": model(images[:, :, ::-1], batch["mask"]).logits} if mirrored else {})

    return answer


def counts(rows: Rows, known: jax.Array, label_smoothing: float) -> tuple[jax.Array, jax.Array]:
    """What a batch's rows add to a validation, padding aside: (confusion (C, C) int32, true classes in rows; loss ()).

    `known` (C,) bool says which classes the data set has: the others are never predicted. The loss is the sum of the
    cross-entropies with smoothed labels, over all classes, as in training.
    """
    logits, label, mask = rows["logits"], rows["label"], rows["mask"]
    classes = logits.shape[-1]
    targets = optax.smooth_labels(jax.nn.one_hot(label, classes), label_smoothing)
    losses = optax.softmax_cross_entropy(logits, targets)
    guesses = jnp.where(known, logits, -jnp.inf).argmax(-1)
    # Each pair of true and predicted class has its own counter; padding goes to one more, cut off below.
    pairs = jnp.where(mask, label * classes + guesses, classes * classes)
    confusion = jnp.zeros(classes * classes + 1, jnp.int32).at[pairs].add(1)[:-1]
    return confusion.reshape(classes, classes), (losses * mask).sum()


def counter(config: Config, mesh: jax.sharding.Mesh) -> Any:
    """The jitted `(state, batch, known) -> counts` of a batch's rows, whole on every device; `evaluate` wants it."""
    answer = step(config)

    def count(state: states.State, batch: Batch, known: jax.Array) -> tuple[jax.Array, jax.Array]:
        return counts(answer(state, batch), known, config.label_smoothing)

    return jax.jit(count, out_shardings=meshes.replicated(mesh))


def evaluate(config: Config, count: Any, state: states.State, split: Split, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """`summarize` of a whole split, with `split`, its name, and `loss`, the mean of what `counts` sums up.

    `count` is of `counter`. Raises DataError like `summarize`.
    """
    classes = len(split.classes)
    confusion, loss = np.zeros((classes, classes), np.int64), 0.0
    for batch in batches(config, split, mesh):
        of_batch, loss_of_batch = count(state, batch, split.known)
        confusion += np.asarray(of_batch)
        loss += float(loss_of_batch)
    return {"split": split.name, "loss": loss / len(split), **summarize(confusion, split)}


def summarize(confusion: np.ndarray, split: Split) -> dict[str, Any]:
    """`metrics.summarize` of counts (C, C) over a split, of the classes that it and the network share.

    Raises DataError where not every example of the split was counted.
    """
    if confusion.sum() != len(split):
        raise DataError(f"evaluated {confusion.sum()} of the {len(split)} examples of {split.name}")
    shared = np.flatnonzero(split.known)
    return metrics.summarize(confusion[np.ix_(shared, shared)], [split.classes[i] for i in shared])


def batches(config: Config, split: Split, mesh: jax.sharding.Mesh, how: str = "") -> Iterator[Batch]:
    """Every example of a split once, on the devices, with a progress bar that names the split and `how`.

    Each process brings its part, and the last batch is padded.
    """
    ours = loader.evaluation_batches(
        split, config.batch_size, host=jax.process_index(), hosts=jax.process_count(), workers=config.data.workers
    )
    for batch in distributed.progress(ours, f"{split.name}{how}", -(-len(split) // config.batch_size)):
        yield meshes.to_device(mesh, batch)
