"""Counts a network's answers over every example of a split, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from data_pipelines import loader
from data_pipelines.common.errors import DataError
from data_pipelines.splits import Batch, Split
from expressnet_jax.config import Config
from expressnet_jax.evaluation import metrics
from expressnet_jax.parallel import distributed
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.runs.state import State


def evaluate(
    config: Config, step: Callable[..., Any], state: State, split: Split, mesh: jax.sharding.Mesh
) -> dict[str, Any]:
    """The summary of `metrics.summarize` over a whole split, with `loss`; `step` is a compiled `step.eval_step`.

    Of a data set that lacks some of the network's classes, only the shared ones are predicted and counted.
    Raises DataError where the number of examples counted is not the number in the split.
    """
    classes = config.data.classes
    counts = np.zeros((len(classes), len(classes)), np.int64)
    loss = 0.0
    steps = -(-len(split) // config.batch_size)
    hidden = None if distributed.is_first() else True  # None: no bar where standard error is no terminal
    for batch in tqdm(batches(config, split), split.name, steps, leave=False, disable=hidden):
        confusion, batch_loss, _ = step(state, meshes.to_device(mesh, batch), split.known)
        counts += np.asarray(confusion, np.int64)
        loss += float(batch_loss)
    if counts.sum() != len(split):
        raise DataError(f"evaluated {counts.sum()} of the {len(split)} examples of {split.name}")
    shared = np.flatnonzero(split.known)
    counts, names = counts[np.ix_(shared, shared)], [classes[i] for i in shared]
    return {"split": split.name, "loss": loss / len(split), **metrics.summarize(counts, names)}


def batches(config: Config, split: Split) -> Iterator[Batch]:
    """This process's part of every example once; the last batch is padded."""
    return loader.evaluation_batches(
        split, config.batch_size, host=jax.process_index(), hosts=jax.process_count(), workers=config.data.workers
    )
