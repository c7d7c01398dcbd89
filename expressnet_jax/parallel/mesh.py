"""Devices in a grid of two axes, `data` and `expert`, and where each array lies on it.

The batch is split over both axes, the experts' parameters over `expert`; everything else is on every device, unless
the optimizer's state is split along `data` (`mesh.shard_optimizer`; ZeRO stage 2, Rajbhandari et al. 2020).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from data_pipelines.common.text import counted
from expressnet_jax.config import Config, ConfigError
from expressnet_jax.moe.layer import is_expert_path

AXES = ("data", "expert")
BATCH = PartitionSpec(AXES)


def create(config: Config, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of a config over these devices (default: all of all processes).

    Raises ConfigError, with the numbers, where it does not fit.
    """
    devices = jax.devices() if devices is None else devices
    data, expert = sizes(config, len(devices))
    return Mesh(_grid(devices[: data * expert], data, expert), AXES, axis_types=(AxisType.Auto,) * 2)


def sizes(config: Config, devices: int) -> tuple[int, int]:
    """How many of `devices` devices lie along `data` and along `expert`. Raises ConfigError, with the numbers."""
    expert, turns = config.mesh.expert, config.optimizer.accumulate
    data = devices // expert if config.mesh.data == -1 else config.mesh.data
    used, which = data * expert, f"mesh.data={data} x mesh.expert={expert}"
    if used > devices or data < 1:
        raise ConfigError(f"{which} needs {counted(max(data, 1) * expert, 'device')}, not {devices}")
    if used < devices and jax.process_count() > 1:
        left_out = f"{devices - used} of {devices} devices, which several processes cannot; set mesh.data=-1"
        raise ConfigError(f"{which} leaves out {left_out}")
    if config.batch_size % (used * turns):
        factors = f"{counted(used, 'device')} ({which}) x optimizer.accumulate={turns}"
        multiple = f"choose a multiple of {used * turns}"
        raise ConfigError(f"batch_size={config.batch_size} is not divisible by {factors}; {multiple}")
    return data, expert


def _grid(devices: Sequence[jax.Device], data: int, expert: int) -> np.ndarray:
    """Devices as (data, expert): experts between neighbours, and slices of a TPU pod apart only along `data`.

    Only gradients then cross the slower network between slices, once a step.
    """
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if devices[0].platform != "tpu":
        return np.array(devices).reshape(data, expert)
    if data % slices:
        limit = f"mesh.expert={expert} must stay inside a slice of {len(devices) // slices} chips"
        raise ConfigError(f"mesh.data={data} is not divisible by {slices} slices; {limit}")
    if slices > 1:
        inside, across = (data // slices, expert), (slices, 1)
        return mesh_utils.create_hybrid_device_mesh(inside, across, devices, allow_split_physical_axes=True)
    # An axis may then be a part of one of the torus's: 8 devices of 4 x 4.
    return mesh_utils.create_device_mesh((data, expert), devices, allow_split_physical_axes=True)


def for_evaluation(config: Config) -> Mesh:
    """As many of the devices at hand as divide the batch, whatever mesh the network was trained on.

    Of several processes each has to take part, so there it is all of them; see `even_batch`.
    """
    data = jax.device_count() if jax.process_count() > 1 else math.gcd(config.batch_size, jax.device_count())
    return Mesh(np.array(jax.devices()[:data]).reshape(data, 1), AXES, axis_types=(AxisType.Auto,) * 2)


def even_batch(config: Config, mesh: Mesh) -> Config:
    """`config` with the next larger batch that the devices of the mesh can share."""
    return dataclasses.replace(config, batch_size=-(-config.batch_size // mesh.size) * mesh.size)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis over all devices."""
    return NamedSharding(mesh, BATCH)


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def state_sharding(mesh: Mesh, state: Any, *, shard_optimizer: bool = False) -> Any:
    """The shardings of a training state (a NamedTuple): stacked experts over `expert`, the rest replicated.

    Optimizer and averaged copies of a parameter carry its path, and so lie where it lies; with `shard_optimizer` they
    are split along `data` too, and each device updates only its part.
    """
    split = {"opt_state", "ema"} if shard_optimizer else set()

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        along = mesh.shape["data"] if getattr(path[0], "name", None) in split else 1
        return NamedSharding(mesh, spec(path, leaf.shape, along))

    return jax.tree_util.tree_map_with_path(place, state)


def spec(path: tuple[Any, ...], shape: tuple[int, ...], data: int = 1) -> PartitionSpec:
    """How an array at this path of a parameter tree lies; with `data` > 1 also in so many parts, where it divides.

    Vectors (biases, BatchNorm) stay whole: they are a thousandth of the memory, and each would cost a collective.
    """
    axes: list[str | None] = [None] * len(shape)
    if is_expert_path(path):
        axes[0] = "expert"
    free = [i for i in range(len(shape)) if axes[i] is None]
    fitting = [i for i in free if shape[i] % data == 0] if len(free) > 1 else []
    if data > 1 and fitting:
        axes[max(fitting, key=lambda i: shape[i])] = "data"
    while axes and axes[-1] is None:
        axes.pop()
    return PartitionSpec(*axes)


def split_over_data(gradients: Any) -> Any:
    """Gradients laid out as an optimizer state that is split along `data`; under `jax.set_mesh`.

    Summed first and then cut, which compilers join to one reduce-scatter. Asked for the parts alone, they also cut the
    network's activations in that way, and move them between devices at every BatchNorm.
    """
    data = jax.sharding.get_abstract_mesh().shape["data"]

    def split(path: tuple[Any, ...], g: jax.Array) -> jax.Array:
        whole = jax.lax.with_sharding_constraint(g, spec(path, g.shape))
        return jax.lax.with_sharding_constraint(whole, spec(path, g.shape, data))

    return jax.tree_util.tree_map_with_path(split, gradients)


def to_device(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Makes the global batch from each host's slice of it."""
    sharding = batch_sharding(mesh)
    return {key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()}
