"""How images reach their experts and come back: movement only, no policy.

Every movement computes, for each image b, the sum over its chosen experts e of gate[b, e] * expert_e(x[b]). They differ
in what they compute for nothing, what they send between devices, and whether an expert can be full.

Legend: B image (b of them on one device), E experts (e of them on one device), K selected, C capacity, D in, F out,
N rows that an expert works on, A devices along the mesh axis `expert`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from expressnet_jax import target
from expressnet_jax.moe.router import spread
from expressnet_jax.moe.settings import Implementation, MoE

#: The stacked parameters of all experts, layer by layer: kernels (E, D, F) and biases (E, F).
Layers = tuple[tuple[jax.Array, jax.Array], ...]
#: Operations for each image, forward and backward, up to which answers from all experts are not worth avoiding: 4 % of
#: the 25 GFLOP that a step of the paper's network executes for one. The published layers need 6 million.
_NEGLIGIBLE = 1e9
#: Movements between devices, each with the one that computes the same on a single device.
ON_ONE_DEVICE: dict[Implementation, Implementation] = {"all_gather": "dense", "all_to_all": "capacity"}


class Images(NamedTuple):
    """What there is to move."""

    x: jax.Array  # (B, D)
    chosen: jax.Array  # (B, K) int32
    gates: jax.Array  # (B, K)
    mask: jax.Array  # (B,) bool, false for padding, which takes no room


def choose(config: MoE, expert_devices: int) -> tuple[Implementation, str]:
    """The movement for a config on a mesh with so many devices along `expert`, and why."""
    e, k = config.num_experts, config.selected
    if config.implementation != "auto":
        return config.implementation, "as configured"
    if expert_devices > 1:
        return "all_gather", f"{e} experts on {expert_devices} devices"
    operations, which = 6 * e * config.layers * config.hidden**2, f"{e} experts, {k} selected"
    # Elsewhere grouped products are no less work than answers from all (docs/moe.md).
    if operations < _NEGLIGIBLE or target.platform() != "tpu":
        return "dense", f"{which}: {operations / 1e6:.3g} million operations an image"
    return "dropless", f"{which}: all of them would need {operations / 1e9:.1f} GFLOP an image"


def move(images: Images, layers: Layers, config: MoE, *, train: bool) -> tuple[jax.Array, jax.Array]:
    """Moves images by the mesh in use (`jax.set_mesh`) and the config.

    Returns (B, F) in the dtype of x, and the number () of (image, expert) pairs of the whole batch that were dropped.
    Nothing is ever dropped in evaluation, so that an answer does not depend on the other images.
    """
    mesh = jax.sharding.get_abstract_mesh()
    devices = 1 if mesh.empty else mesh.shape["expert"]
    name, _ = choose(config, devices)
    name = ON_ONE_DEVICE.get(name, name) if mesh.empty else name
    movement: Callable[..., Any] = _MOVEMENTS[name]
    if name in ("capacity", "all_to_all"):
        b = images.x.shape[0] // max(1, mesh.size)
        c = room(b, config.num_experts, images.chosen.shape[1], config.capacity_factor) if train else b
        movement = functools.partial(movement, c=c, by_weight=config.by_weight)
    if mesh.empty or name == "dense":
        return movement(images, layers)

    def local(images: Images, layers: Layers) -> tuple[jax.Array, jax.Array]:
        y, dropped = movement(images, layers)
        return y, jax.lax.psum(dropped, ("data", "expert"))

    batch = PartitionSpec(("data", "expert"))
    experts = PartitionSpec("expert") if name in ON_ONE_DEVICE else PartitionSpec()
    return jax.shard_map(local, in_specs=(batch, experts), out_specs=(batch, PartitionSpec()))(images, layers)


def dense(images: Images, layers: Layers) -> tuple[jax.Array, jax.Array]:
    """Every expert answers for every image, the gates select. The published form, and the oracle of all others.

    Returns what every movement returns: (B, F) in the dtype of x, and the number () of (image, expert) pairs left out.
    """
    e = layers[0][0].shape[0]
    # One product for each expert: as a single one, XLA's CPU compiler first turns the experts' kernels about.
    answers = _answer(jnp.broadcast_to(images.x, (e, *images.x.shape)), layers)  # (E, B, F)
    weights = spread(images.chosen, images.gates, e).astype(images.x.dtype)
    return jnp.einsum("be,ebf->bf", weights, answers), jnp.zeros(())


def capacity(images: Images, layers: Layers, *, c: int, by_weight: bool = False) -> tuple[jax.Array, jax.Array]:
    """Each expert has room for C images; those beyond get nothing of it.

    First come, first served in the order of the batch, or by descending gate.
    """
    buffers = _fill(images, layers[0][0].shape[0], c, by_weight)
    answers = _answer(images.x[buffers.image], layers)  # (E, C, D) -> (E, C, F)
    return _empty(answers, buffers, images), buffers.dropped


def dropless(images: Images, layers: Layers) -> tuple[jax.Array, jax.Array]:
    """Pairs sorted by expert, then one product of groups of rows for each layer: no pair is dropped or padded."""
    (b, k), e = images.chosen.shape, layers[0][0].shape[0]
    expert = images.chosen.reshape(-1)  # (B K,)
    order = jnp.argsort(expert, stable=True)
    rows, group = images.x[order // k], jnp.bincount(expert, length=e).astype(jnp.int32)
    for kernel, bias in layers:
        rows = jax.lax.ragged_dot(rows, kernel.astype(rows.dtype), group)  # (B K, D) -> (B K, F)
        rows = jax.nn.relu(rows + bias.astype(rows.dtype)[expert[order]])
    back = jnp.zeros_like(order).at[order].set(jnp.arange(b * k))
    answers = rows[back].reshape(b, k, -1)  # (B, K, F)
    return jnp.einsum("bk,bkf->bf", images.gates.astype(images.x.dtype), answers), jnp.zeros(())


def all_gather(images: Images, layers: Layers) -> tuple[jax.Array, jax.Array]:
    """On each device of the axis `expert`, with its own e experts: they answer for the images of the whole axis.

    Receives A b D numbers and sends A b F, whatever K is; computes A b e answers, as `dense` would on one device.
    """
    of_axis = jax.tree.map(lambda a: jax.lax.all_gather(a, "expert", tiled=True), images)  # (A b, ...)
    first = layers[0][0].shape[0] * jax.lax.axis_index("expert")
    answers, dropped = dense(of_axis._replace(chosen=of_axis.chosen - first), layers)  # (A b, F), of e experts
    return jax.lax.psum_scatter(answers, "expert", tiled=True), dropped  # (b, F), of all


def all_to_all(images: Images, layers: Layers, *, c: int, by_weight: bool = False) -> tuple[jax.Array, jax.Array]:
    """On each device of the axis `expert`, with its own e experts: images travel to them in buffers, answers back.

    Every device has room for C of its own images at each of the E experts; sends E C D numbers, receives E C F.
    """
    devices, e = jax.lax.axis_size("expert"), layers[0][0].shape[0]
    buffers = _fill(images, devices * e, c, by_weight)
    exchange = functools.partial(jax.lax.all_to_all, axis_name="expert", split_axis=0, concat_axis=0)
    there = exchange(images.x[buffers.image].reshape(devices, e, c, -1))  # (A, e, C, D): by destination -> by origin
    answers = _answer(there.swapaxes(0, 1).reshape(e, devices * c, -1), layers)  # (e, A C, F)
    back = exchange(answers.reshape(e, devices, c, -1).swapaxes(0, 1))  # (A, e, C, F)
    return _empty(back.reshape(devices * e, c, -1), buffers, images), buffers.dropped


def room(b: int, e: int, k: int, factor: float) -> int:
    """C for b images: `factor` times an even share of their pairs, at least 1 and at most b, which drops nothing."""
    return max(1, min(b, math.ceil(factor * b * k / e)))


class _Buffers(NamedTuple):
    image: jax.Array  # (E, C) int32: the image in each place
    taken: jax.Array  # (E, C) bool: false for a place that stays empty
    dropped: jax.Array  # (): pairs without a place


def _fill(images: Images, e: int, c: int, by_weight: bool) -> _Buffers:
    ones = images.mask[:, None].astype(images.gates.dtype) * jnp.ones_like(images.gates)
    wanted = spread(images.chosen, ones, e)  # (B, E)
    if by_weight:
        rank = 1 + jax.lax.stop_gradient(spread(images.chosen, images.gates, e))
    else:
        rank = jnp.arange(wanted.shape[0], 0, -1, dtype=jnp.float32)[:, None]
    priority, image = jax.lax.top_k((wanted * rank).T, c)  # (E, C)
    taken = priority > 0
    return _Buffers(image, taken, wanted.sum() - taken.sum())


def _empty(answers: jax.Array, buffers: _Buffers, images: Images) -> jax.Array:
    """Answers (E, C, F) to (B, F), each times the gate of its image."""
    e = answers.shape[0]
    weights = spread(images.chosen, images.gates, e).astype(answers.dtype)  # (B, E)
    gate = jnp.take_along_axis(weights.T, buffers.image, axis=1) * buffers.taken  # (E, C)
    weighted = (answers * gate[..., None]).reshape(-1, answers.shape[-1])
    return jnp.zeros((images.x.shape[0], answers.shape[-1]), answers.dtype).at[buffers.image.reshape(-1)].add(weighted)


def _answer(rows: jax.Array, layers: Layers) -> jax.Array:
    """Each expert on rows of its own: (E, N, D) -> (E, N, F)."""
    for kernel, bias in layers:
        rows = jax.nn.relu(rows @ kernel.astype(rows.dtype) + bias.astype(rows.dtype)[:, None])
    return rows


_MOVEMENTS: dict[str, Callable[..., tuple[jax.Array, jax.Array]]] = {
    "dense": dense, "capacity": capacity, "dropless": dropless, "all_gather": all_gather, "all_to_all": all_to_all,
}  # fmt: skip
