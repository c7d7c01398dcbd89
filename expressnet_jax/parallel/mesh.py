"""Devices in a grid of two axes, `data` and `expert`, and where each array lies on it.

The batch is split over both axes, the experts' parameters over `expert`; everything else is on every device.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from expressnet_jax.config import Config, ConfigError

BATCH = PartitionSpec(("data", "expert"))


def create(config: Config) -> Mesh:
    """The mesh of a config over the devices at hand. Raises ConfigError, with the numbers, where it does not fit."""
    devices, expert = jax.device_count(), config.mesh.expert
    data = devices // expert if config.mesh.data == -1 else config.mesh.data
    if data * expert > devices or data < 1:
        needed = max(data, 1) * expert
        raise ConfigError(f"mesh.data={data} x mesh.expert={expert} needs {needed} devices, not {devices}")
    if config.batch_size % (data * expert * config.optimizer.accumulate):
        raise ConfigError(
            f"batch_size={config.batch_size} is not divisible by {data * expert} devices "
            f"(mesh.data={data} x mesh.expert={expert}) x optimizer.accumulate={config.optimizer.accumulate}; "
            f"choose a multiple of {data * expert * config.optimizer.accumulate}"
        )
    chosen = np.array(jax.devices()[: data * expert]).reshape(data, expert)
    return Mesh(chosen, ("data", "expert"), axis_types=(AxisType.Auto,) * 2)


def for_evaluation(config: Config) -> Mesh:
    """As many of the devices at hand as divide the batch, whatever mesh the network was trained on."""
    data = math.gcd(config.batch_size, jax.device_count())
    return Mesh(np.array(jax.devices()[:data]).reshape(data, 1), ("data", "expert"), axis_types=(AxisType.Auto,) * 2)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis over all devices."""
    return NamedSharding(mesh, BATCH)


def state_sharding(mesh: Mesh, state: Any) -> Any:
    """A tree of shardings for a tree of arrays: stacked experts over `expert`, the rest replicated.

    Optimizer and averaged copies of a parameter carry its path, and so lie where it lies.
    """

    def place(path: tuple[Any, ...], _: Any) -> NamedSharding:
        stacked = any(getattr(key, "key", None) == "experts" for key in path)
        return NamedSharding(mesh, PartitionSpec("expert") if stacked else PartitionSpec())

    return jax.tree_util.tree_map_with_path(place, state)


def to_device(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Makes the global batch from each host's slice of it."""
    sharding = batch_sharding(mesh)
    return {key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()}
