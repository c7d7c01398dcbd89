"""What a step sends between devices, predicted from shapes: no program is compiled for it.

Legend: b pictures on one device, D data and A expert devices of the mesh, E experts, K selected, C capacity.

Bytes are counted as in `hlo.py`: of the whole array, on one device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from expressnet_jax.config import Config
from expressnet_jax.models import choice, expressnet, resnet, target
from expressnet_jax.moe import dispatch
from expressnet_jax.moe.layer import EXPERTS, is_expert_path
from expressnet_jax.parallel import mesh as meshes

_FLOAT, _INT = 4, 4  # bytes


class Traffic(NamedTuple):
    """One kind of collective for one purpose."""

    what: str
    kind: str
    axis: str  # as in hlo.Collective
    devices: int
    bytes: int  # a step, on one device
    arrays: int


def predict(config: Config, params: Any, stats: Any, data: int, expert: int, platform: str) -> list[Traffic]:
    """All that the training step sends on a mesh of data x expert devices; nothing on one device.

    `params` and `stats` are trees of shapes: of the whole network, not of a device's part.
    """
    mesh = {"data": data, "expert": expert}
    found = [
        *_gradients(config, params, mesh, platform),
        *_statistics(config, stats, mesh),
        *_experts(config, params, mesh, platform),
        *_metrics(config, mesh),
        *_mixup(config, mesh),
    ]
    return [row for row in found if row.devices > 1 and row.bytes]


def _row(what: str, kind: str, mesh: dict[str, int], axes: tuple[str, ...], size: float, arrays: int = 1) -> Traffic:
    axes = tuple(name for name in axes if mesh[name] > 1)
    return Traffic(what, kind, "+".join(axes), math.prod(mesh[name] for name in axes), int(size), arrays)


def _gradients(config: Config, params: Any, mesh: dict[str, int], platform: str) -> list[Traffic]:
    """Summed over the devices that have a copy; with a split optimizer, its results are then gathered.

    For a batch in several parts, a CPU program sums after each of them. Other compilers sum once, except BatchNorm's
    gradients: the layers before it need their sums at once.
    """
    shared, own, split, norms = [], [], [], 0
    turns = config.optimizer.accumulate
    wide = _transformed(config, platform)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        size = math.prod(leaf.shape) * leaf.dtype.itemsize
        if is_expert_path(path):
            size, norms = size // mesh["expert"], norms + 1
            own += [size] * (turns if platform == "cpu" else 1)
        else:
            names = tuple(key.key for key in path)
            summed = size if names in wide else size * _narrowed(config, names, platform)
            shared += [summed] * (turns if platform == "cpu" or "bn" in names[-2] else 1)
        if config.mesh.shard_optimizer and "data" in meshes.spec(path, leaf.shape, mesh["data"]):
            split.append(size)
    return [
        _row("gradients", "all-reduce", mesh, meshes.AXES, sum(shared), len(shared)),
        _row("experts' gradients", "all-reduce", mesh, ("data",), sum(own), len(own)),
        _row("norm of the experts' gradients", "all-reduce", mesh, ("expert",), norms * _FLOAT, norms),
        _row("parameters after the update", "all-gather", mesh, ("data",), sum(split), len(split)),
    ]


def _transformed(config: Config, platform: str) -> set[tuple[str, ...]]:
    """Paths of transformed kernels, whose gradients are summed in float32 whatever their layer computes in."""
    found = set()
    with target.compiling_for(platform):
        for layer, side, shape in [*choice.layers(config.model), *_resnet_kernels(config)]:
            name = layer if not layer.startswith("resnet") else "resnet"
            if choice.form(config.model, name, side, shape, train=True) != "direct":
                found.add((*layer.split("/"), "kernel"))
    return found


def _narrowed(config: Config, path: tuple[str, ...], platform: str) -> float:
    """The part of a gradient's float32 bytes that is summed: half where the layer computes in 16 bits, since compilers
    sum before they widen it. (A CPU widens first.)"""
    of_layer = path[0] in ("cnnfe1", "cnnfe2", "resnet", "fuse") and "bn" not in path[-2]
    narrow = jax.numpy.dtype(config.model.dtype).itemsize / _FLOAT
    return narrow if of_layer and platform != "cpu" else 1.0


def _resnet_kernels(config: Config) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """The ResNet's 3x3 convolutions of stride 1, as `choice.layers` gives the extractors'."""
    spec = config.model.resnet
    late = spec.form == "torchvision"
    side = -(-config.model.image_size // spec.stem_stride)
    side = (side + 2 * late - 3) // 2 + 1 if spec.stem_pool else side
    for stage, block, _, f in resnet.blocks(spec):
        halved = stage > 2 and block == 1
        side = -(-side // 2) if halved else side
        if not (late and halved):
            yield f"resnet/stage{stage}/block{block}/conv3", side, (3, 3, f, f)


def _statistics(config: Config, stats: Any, mesh: dict[str, int]) -> list[Traffic]:
    """Mean and mean square of every BatchNorm, forward. Backward, its sums are the gradients of scale and bias."""
    named = jax.tree_util.tree_leaves_with_path(stats)
    leaves = [leaf for path, leaf in named if path[-1].key in ("mean", "var")]  # not a router's
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
    turns = config.optimizer.accumulate
    return [_row("BatchNorm statistics", "all-reduce", mesh, meshes.AXES, turns * size, turns * len(leaves))]


def _experts(config: Config, params: Any, mesh: dict[str, int], platform: str) -> list[Traffic]:
    """Pictures to their experts and back, and the same with their gradients (moe/dispatch.py)."""
    moe, layers = config.moe, expressnet.routed_layers(config)
    name, _ = dispatch.choose(moe, mesh["expert"])
    b = config.batch_size // math.prod(mesh.values()) // config.optimizer.accumulate
    turns = config.optimizer.accumulate
    rows = []
    for layer in layers:
        d, f = params[layer][EXPERTS]["kernel"].shape[1], moe.hidden
        if name == "all_gather":
            of_axis = mesh["expert"] * b
            there, back = of_axis * d * _FLOAT, of_axis * f * _FLOAT
            chosen, gates = of_axis * moe.selected * _INT, of_axis * moe.selected * _FLOAT
            rows += [
                _row("pictures to experts", "all-gather", mesh, ("expert",), turns * (there + chosen + gates), 3),
                _row("answers back", "reduce-scatter", mesh, ("expert",), turns * back),
                _row("answers' gradients", "all-gather", mesh, ("expert",), turns * back),
                _row("pictures' gradients", "reduce-scatter", mesh, ("expert",), turns * (there + gates), 2),
            ]
        elif name == "all_to_all":
            room = moe.num_experts * dispatch.room(b, moe.num_experts, moe.selected, moe.capacity_factor)
            size = room * (d + f) * _FLOAT
            rows += [
                _row("pictures to experts and back", "all-to-all", mesh, ("expert",), turns * size, 2),
                _row("their gradients", "all-to-all", mesh, ("expert",), turns * size, 2),
            ]
        if platform != "tpu" and moe.router != "soft":  # there every device looks for the K largest
            size = b * math.prod(mesh.values()) * moe.num_experts * _FLOAT
            rows.append(_row("probabilities", "all-gather", mesh, meshes.AXES, turns * size))
    return rows


def _metrics(config: Config, mesh: dict[str, int]) -> list[Traffic]:
    """The sums that a run records."""
    e, classes = config.moe.num_experts, len(config.data.classes)
    layers = len(expressnet.routed_layers(config))
    numbers = 2 + layers * (2 * e + 1 + e * classes)
    turns = config.optimizer.accumulate
    return [_row("metrics", "all-reduce", mesh, meshes.AXES, turns * numbers * _FLOAT, turns * (2 + 4 * layers))]


def _mixup(config: Config, mesh: dict[str, int]) -> list[Traffic]:
    """The last picture and target of a device go to the next one."""
    if not config.augment.mixup:
        return []
    numbers = 3 * config.model.image_size**2 + len(config.data.classes)
    return [_row("mixup", "collective-permute", mesh, meshes.AXES, numbers * _FLOAT, 2)]
