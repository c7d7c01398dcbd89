"""Arithmetic, memory and collectives of a training step, from its trace and shapes alone: nothing is compiled.

Legend: b pictures on one device, D in, F out.

What is traced is the step of one device: the same program with the batch that one device has. So every convolution is
counted in the form that it is really executed in (models/choice.py), with the gradients that are really taken.
What is sent between devices is counted as in `hlo.py`: bytes of the whole array, on one device.
"""

import functools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.extend.core import Literal
from jax.sharding import AbstractMesh, AxisType

from expressnet_jax import target
from expressnet_jax.config import Clock, Config
from expressnet_jax.models import branches, choice, cost, expressnet, preprocess
from expressnet_jax.moe import dispatch
from expressnet_jax.moe.layer import EXPERTS, is_expert_path
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.runs import state as states
from expressnet_jax.train import step as steps

#: Fields of a training state, as parts of a device's memory.
PARTS = {
    "params": "parameters", "batch_stats": "BatchNorm statistics", "opt_state": "optimizer", "ema": "averaged weights",
}  # fmt: skip
_FLOAT, _INT = 4, 4  # bytes


def clock(config: Config) -> Clock:
    """The clock of a run whose length does not matter."""
    return Clock(config.batch_size, 100 * config.batch_size, 100)


def batch(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """A global batch of pictures in the network's own size."""
    b, side, array = config.batch_size, config.model.image_size, jax.ShapeDtypeStruct
    found = {"image": array((b, side, side, config.data.channels), np.uint8), "label": array((b,), np.int32),
             "mask": array((b,), bool), "index": array((b,), np.int32)}  # fmt: skip
    votes = {"votes": array((b, len(config.data.classes)), np.float32)}
    return found | votes if config.data.target == "votes" else found


def abstract_mesh(data: int, expert: int) -> Any:
    """A mesh of devices that are not here, to ask how arrays would lie on it (an AbstractMesh, not a Mesh)."""
    return AbstractMesh((data, expert), meshes.AXES, axis_types=(AxisType.Auto,) * 2)


def _size(array: Any) -> int:
    return math.prod(array.shape) * int(array.dtype.itemsize)


@functools.lru_cache(maxsize=8)
def shapes(config: Config) -> tuple[Any, Any]:
    """Parameters and BatchNorm statistics of the whole network, as trees of shapes."""
    params, stats = jax.eval_shape(lambda: nnx.split(expressnet.create(config), nnx.Param, nnx.BatchStat)[1:])
    return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def of_one_device(config: Config, devices: int, expert: int) -> Config:
    """The config of the work of one among `devices` devices, `expert` of which lie along that axis."""
    name, _ = dispatch.choose(config.moe, expert)
    moe = replace(config.moe, implementation=dispatch.ON_ONE_DEVICE.get(name, name))
    alone = replace(config.mesh, data=1, expert=1, shard_optimizer=False)
    b, group = config.batch_size // devices, config.model.batchnorm_group
    uneven = group and b // config.optimizer.accumulate % group
    model = replace(config.model, batchnorm_group=0) if uneven else config.model
    return replace(config, moe=moe, mesh=alone, model=model, batch_size=b)


@functools.lru_cache(maxsize=64)
def arithmetic(config: Config, platform: str) -> Counter[str]:
    """Operations of the training step of a config `of_one_device`, as `cost.count` names them, without padding's."""
    mesh = abstract_mesh(1, 1)
    made = steps.programs(config, clock(config), mesh)
    with target.compiling_for(platform):
        state = states.abstract(config, made.optimizer, mesh)
        state = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), state)  # without a sharding
        jaxpr = jax.make_jaxpr(made.step)(state, jax.eval_shape(made.zero_sums), batch(config))
        return cost.count(jaxpr.jaxpr, padding=False)


@functools.lru_cache(maxsize=64)
def kept(config: Config, platform: str) -> int:
    """Bytes that the forward pass of a config `of_one_device` keeps for its gradient, its parameters left out.

    That is all that reverse mode asks for, each array once. A compiler computes some of it again, and needs room for
    gradients and for intermediate results, so its own figure differs.
    """
    b, graph = config.batch_size // config.optimizer.accumulate, states.graph(config)
    side, classes = config.model.image_size, len(config.data.classes)

    def pull(params: Any, stats: Any, images: jax.Array, targets: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            network = nnx.merge(graph, params, stats)
            logits = network(images, jnp.ones(b, bool), train=True, rngs=nnx.Rngs(dropout=0)).logits
            return optax.softmax_cross_entropy(logits, targets).mean()

        return jax.vjp(loss, params)[1]

    with target.compiling_for(platform):
        channels = preprocess.channels(config.data.channels, config.preprocess)
        images = jax.ShapeDtypeStruct((b, side, side, channels), jnp.float32)
        targets = jax.ShapeDtypeStruct((b, classes), jnp.float32)
        jaxpr = jax.make_jaxpr(pull)(*shapes(config), images, targets).jaxpr
    given = {*map(id, jaxpr.invars), *map(id, jaxpr.constvars)}
    arrays: dict[int, Any] = {
        id(var): var.aval for var in jaxpr.outvars if not isinstance(var, Literal) and id(var) not in given
    }
    return sum(_size(a) for a in arrays.values() if hasattr(a.dtype, "itemsize"))


def held(config: Config, data: int, expert: int) -> dict[str, int]:
    """Bytes on one device of all that a step is given, by part: from shapes and shardings, without any layout."""
    mesh = abstract_mesh(data, expert)
    made = steps.programs(config, clock(config), mesh)
    state = states.abstract(config, made.optimizer, mesh)

    def on_one(leaf: Any) -> int:
        return math.prod(leaf.sharding.shard_shape(leaf.shape)) * int(leaf.dtype.itemsize)

    parts = {name: sum(map(on_one, jax.tree.leaves(getattr(state, field)))) for field, name in PARTS.items()}
    parts["batch"] = sum(map(_size, batch(config).values())) // (data * expert)
    others = [state.step, state.key, state.nonfinite, *jax.tree.leaves(jax.eval_shape(made.zero_sums))]
    return parts | {"counters and sums": sum(map(_size, others))}


def traffic(config: Config, data: int, expert: int, platform: str) -> list[dict[str, Any]]:
    """All that the training step sends on a mesh of data x expert devices, the largest first; nothing on one device.

    One row for each purpose, of all layers: `what`, `kind`, `axis` and `devices` as in hlo.Collective; `bytes` a step,
    on one device; `arrays`.
    """
    (params, stats), mesh = shapes(config), {"data": data, "expert": expert}
    with target.compiling_for(platform):
        gradients, experts = (list(part(config, params, mesh, platform)) for part in (_gradients, _experts))
    rows: dict[str, dict[str, Any]] = {}
    for what, kind, among, size, arrays in (*gradients, *experts, *_whole_batch(config, stats)):
        axes = [name for name in among if mesh[name] > 1]
        if axes and size >= 1:
            new = {"kind": kind, "axis": "+".join(axes), "devices": math.prod(mesh[name] for name in axes)}
            row = rows.setdefault(what, {"what": what, **new, "bytes": 0, "arrays": 0})
            row |= {"bytes": row["bytes"] + int(size), "arrays": row["arrays"] + arrays}
    return sorted(rows.values(), key=lambda row: -row["bytes"])


#: Purpose, kind, axes that it may go along, bytes a step on one device, arrays.
_Row = tuple[str, str, tuple[str, ...], float, int]


def _gradients(config: Config, params: Any, mesh: dict[str, int], platform: str) -> Iterator[_Row]:
    """Summed over the devices that have a copy; with a split optimizer, its results are then gathered.

    For a batch in several parts, a CPU program sums after each of them. Other compilers sum once, except BatchNorm's
    gradients: the layers before it need their sums at once. And they sum in a layer's own 16 bits before they widen
    the result, except for transformed kernels, whose gradients are float32 whatever their layer computes in.
    """
    shared, own, split, norms = [], [], [], 0
    turns, on_cpu = config.optimizer.accumulate, platform == "cpu"
    narrow = 1.0 if on_cpu else jnp.dtype(config.model.dtype).itemsize / _FLOAT
    wide = _transformed(config, platform)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        size = _size(leaf)
        if is_expert_path(path):
            size, norms = size // mesh["expert"], norms + 1
            own += [size] * (turns if on_cpu else 1)
        else:
            names = tuple(key.key for key in path)
            batch_norm = "bn" in names[-2]
            of_layer = names[0] in ("cnnfe1", "cnnfe2", "resnet", "fuse") and not batch_norm and names not in wide
            shared += [size * narrow if of_layer else size] * (turns if on_cpu or batch_norm else 1)
        if config.mesh.shard_optimizer and "data" in meshes.spec(path, leaf.shape, mesh["data"]):
            split.append(size)
    yield "gradients", "all-reduce", meshes.AXES, sum(shared), len(shared)
    yield "experts' gradients", "all-reduce", ("data",), sum(own), len(own)
    yield "norm of the experts' gradients", "all-reduce", ("expert",), norms * _FLOAT, norms
    yield "parameters after the update", "all-gather", ("data",), sum(split), len(split)


def _transformed(config: Config, platform: str) -> set[tuple[str, ...]]:
    """Paths of the kernels of transformed convolutions."""
    found = set()
    with target.compiling_for(platform):
        for layer, side, shape in [*choice.layers(config.model), *_resnet_kernels(config)]:
            names = layer.split("/")
            name = "resnet" if names[0] == "resnet" else layer
            if choice.form(config.model, name, side, shape, train=True) != "direct":
                found.add((*names, "kernel"))
    return found


def _resnet_kernels(config: Config) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """The ResNet's 3x3 convolutions of stride 1, as `choice.layers` gives the extractors'."""
    spec = config.model.resnet
    late = spec.form == "torchvision"
    side = -(-config.model.image_size // spec.stem_stride)
    side = (side + 2 * late - 3) // 2 + 1 if spec.stem_pool else side
    for stage, block, _, f in branches.blocks(spec):
        halved = stage > 2 and block == 1
        side = -(-side // 2) if halved else side
        if not (late and halved):
            yield f"resnet/stage{stage}/block{block}/conv3", side, (3, 3, f, f)


def _experts(config: Config, params: Any, mesh: dict[str, int], platform: str) -> Iterator[_Row]:
    """Pictures to their experts and back, and the same with their gradients (moe/dispatch.py)."""
    moe, turns, devices = config.moe, config.optimizer.accumulate, math.prod(mesh.values())
    name, _ = dispatch.choose(moe, mesh["expert"])
    b, f = config.batch_size // devices // turns, moe.hidden
    for layer in expressnet.routed_layers(config):
        d = params[layer][EXPERTS]["kernel"].shape[1]
        if name == "all_gather":
            of_axis = turns * mesh["expert"] * b  # pictures
            there, back = of_axis * d * _FLOAT, of_axis * f * _FLOAT
            narrow = jnp.dtype(config.model.dtype).itemsize / _FLOAT if platform == "gpu" else 1  # widened only there
            chosen, gates = of_axis * moe.selected * _INT, of_axis * moe.selected * _FLOAT
            yield "pictures to experts", "all-gather", ("expert",), narrow * there + chosen + gates, 3
            yield "answers back", "reduce-scatter", ("expert",), back, 1
            yield "answers' gradients", "all-gather", ("expert",), back, 1
            yield "pictures' gradients", "reduce-scatter", ("expert",), there + gates, 2
        elif name == "all_to_all":
            room = moe.num_experts * dispatch.room(b, moe.num_experts, moe.selected, moe.capacity_factor)
            for what in ("pictures to experts and back", "their gradients"):
                yield what, "all-to-all", ("expert",), turns * room * (d + f) * _FLOAT, 2
        if platform == "cpu" and moe.router != "soft":  # there every device looks for the K largest
            yield "probabilities", "all-gather", meshes.AXES, turns * b * devices * moe.num_experts * _FLOAT, 1


def _whole_batch(config: Config, stats: Any) -> Iterator[_Row]:
    """What is said of the whole batch: mean and mean square of every BatchNorm, forward (backward, its sums are the
    gradients of scale and bias), and the sums that a run records; and mixup's neighbours, the last picture and target
    of a device that go to the next one."""
    turns, e, classes = config.optimizer.accumulate, config.moe.num_experts, len(config.data.classes)
    named = jax.tree_util.tree_leaves_with_path(stats)
    sizes = [_size(leaf) for path, leaf in named if path[-1].key in ("mean", "var")]  # not a router's
    yield "BatchNorm statistics", "all-reduce", meshes.AXES, turns * sum(sizes), turns * len(sizes)
    layers = len(expressnet.routed_layers(config))
    numbers = 2 + layers * (3 * e + 1 + e * classes)
    yield "metrics", "all-reduce", meshes.AXES, turns * numbers * _FLOAT, turns * (2 + 5 * layers)
    if config.augment.mixup:
        numbers = config.data.channels * config.model.image_size**2 + classes
        yield "mixup", "collective-permute", meshes.AXES, numbers * _FLOAT, 2
