"""Arithmetic and kept activations of a training step, from its trace alone: nothing is compiled.

Legend: b pictures on one device, D in, F out.

What is traced is the step of one device: the same program with the batch that one device has. So every convolution is
counted in the form that it is really executed in (models/choice.py), with the gradients that are really taken.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.extend.core import Literal
from jax.sharding import AbstractMesh, AxisType

from expressnet_jax.config import Config
from expressnet_jax.config.duration import Clock
from expressnet_jax.models import cost, expressnet, target
from expressnet_jax.moe import dispatch
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.runs import optimizer as optimizers
from expressnet_jax.runs import state as states
from expressnet_jax.train import step as steps


def clock(config: Config) -> Clock:
    """The clock of a run whose length does not matter."""
    return Clock(config.batch_size, 100 * config.batch_size, 100)


def batch(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """A global batch of pictures in the network's own size."""
    b, side = config.batch_size, config.model.image_size
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "image": ((b, side, side, 3), np.uint8), "label": ((b,), np.int32), "mask": ((b,), bool),
        "index": ((b,), np.int32),
    }  # fmt: skip
    if config.data.target == "votes":
        shapes["votes"] = ((b, len(config.data.classes)), np.float32)
    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in shapes.items()}


def abstract_mesh(data: int, expert: int) -> Any:
    """A mesh of devices that are not here, to ask how arrays would lie on it (an AbstractMesh, not a Mesh)."""
    return AbstractMesh((data, expert), meshes.AXES, axis_types=(AxisType.Auto,) * 2)


def _bare(array: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


@functools.lru_cache(maxsize=8)
def shapes(config: Config) -> tuple[Any, Any]:
    """Parameters and BatchNorm statistics of the whole network, as trees of shapes."""
    params, stats = jax.eval_shape(lambda: nnx.split(expressnet.create(config), nnx.Param, nnx.BatchStat)[1:])
    return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def of_one_device(config: Config, devices: int, expert: int) -> Config:
    """The config of the work of one among `devices` devices, `expert` of which lie along that axis."""
    name, _ = dispatch.choose(config.moe, expert)
    moe = dataclasses.replace(config.moe, implementation=dispatch.ON_ONE_DEVICE.get(name, name))
    alone = dataclasses.replace(config.mesh, data=1, expert=1, shard_optimizer=False)
    b = config.batch_size // devices
    group = config.model.batchnorm_group
    parts = b // config.optimizer.accumulate
    model = dataclasses.replace(config.model, batchnorm_group=0 if group and parts % group else group)
    return dataclasses.replace(config, moe=moe, mesh=alone, model=model, batch_size=b)


def arithmetic(config: Config, platform: str) -> Counter[str]:
    """Operations of the training step of a config `of_one_device`, as `cost.count` names them, without padding's."""
    length = clock(config)
    optimizer = optimizers.create(config, length)
    step = steps.train_step(config, states.graph(config), optimizer, optimizers.schedule(config, length))
    with target.compiling_for(platform):
        state = jax.tree.map(_bare, states.abstract(config, optimizer, abstract_mesh(1, 1)))
        jaxpr = jax.make_jaxpr(step)(state, jax.eval_shape(lambda: steps.zero_sums(config)), batch(config))
    return cost.count(jaxpr.jaxpr, padding=False)


def kept(config: Config, platform: str) -> int:
    """Bytes that the forward pass of a config `of_one_device` keeps for its gradient, its parameters left out.

    That is all that reverse mode asks for, each array once. A compiler computes some of it again, and needs room for
    gradients and for intermediate results, so its own figure differs.
    """
    b, graph = config.batch_size // config.optimizer.accumulate, states.graph(config)
    side, classes = config.model.image_size, len(config.data.classes)

    def loss(params: Any, stats: Any, images: jax.Array, targets: jax.Array) -> jax.Array:
        network = nnx.merge(graph, params, stats)
        rngs = nnx.Rngs(dropout=0)
        logits = network(images, jnp.ones(b, bool), train=True, rngs=rngs).logits
        return optax.softmax_cross_entropy(logits, targets).mean()

    def pull(params: Any, stats: Any, images: jax.Array, targets: jax.Array) -> Any:
        return jax.vjp(lambda p: loss(p, stats, images, targets), params)[1]

    with target.compiling_for(platform):
        images = jax.ShapeDtypeStruct((b, side, side, 3), jnp.float32)
        targets = jax.ShapeDtypeStruct((b, classes), jnp.float32)
        jaxpr = jax.make_jaxpr(pull)(*shapes(config), images, targets).jaxpr
    given = {*map(id, jaxpr.invars), *map(id, jaxpr.constvars)}
    arrays = {id(var): var.aval for var in jaxpr.outvars if not isinstance(var, Literal) and id(var) not in given}
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays.values() if hasattr(a.dtype, "itemsize"))
