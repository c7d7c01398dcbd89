"""All that a training run changes, as one tree of arrays. The step is also the data position: enough to resume."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from expressnet_jax.config import Config
from expressnet_jax.models import expressnet
from expressnet_jax.parallel import mesh as meshes

Tree = dict[str, Any]


class State(NamedTuple):
    """The state before step number `step`."""

    step: jax.Array  # () int32
    params: Tree
    batch_stats: Tree
    opt_state: Any
    ema: Tree  # {"params", "batch_stats"} averaged over steps, or {} where averaging is off
    key: jax.Array  # (2,) uint32: all randomness is drawn from it, the step and the example
    nonfinite: jax.Array  # (2,) int32: updates skipped for a non-finite gradient, in a row and in all


def weights(state: State) -> tuple[Tree, Tree]:
    """(parameters, BatchNorm statistics) to evaluate and to export: the averaged ones where averaging is on."""
    return (state.ema["params"], state.ema["batch_stats"]) if state.ema else (state.params, state.batch_stats)


def graph(config: Config) -> Any:
    """The network without its arrays: `nnx.merge(graph, params, batch_stats)` is the network."""
    return nnx.split(nnx.eval_shape(lambda: expressnet.create(config)), nnx.Param, nnx.BatchStat)[0]


def init(config: Config, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh) -> State:
    """A new state, each array made where it will lie; the same values on every mesh."""
    create = jax.jit(lambda: _create(config, optimizer))
    return jax.jit(create, out_shardings=shardings(config, optimizer, mesh))()


def abstract(config: Config, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh) -> State:
    """Shapes, dtypes and shardings of the state on this mesh: what a checkpoint is restored into."""
    shapes = _shapes(config, optimizer)
    lie = meshes.state_sharding(mesh, shapes, shard_optimizer=config.mesh.shard_optimizer)
    return jax.tree.map(lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes, lie)


@functools.lru_cache(maxsize=4)  # a run asks three times, and tracing the network takes seconds
def _shapes(config: Config, optimizer: optax.GradientTransformation) -> State:
    return jax.eval_shape(lambda: _create(config, optimizer))


def shardings(config: Config, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh) -> State:
    """How each array of the state lies on this mesh."""
    return jax.tree.map(lambda leaf: leaf.sharding, abstract(config, optimizer, mesh))


def _create(config: Config, optimizer: optax.GradientTransformation) -> State:
    model = expressnet.create(config, config.seed)
    params, stats = (nnx.to_pure_dict(nnx.state(model, kind)) for kind in (nnx.Param, nnx.BatchStat))
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=stats,
        opt_state=optimizer.init(params),
        ema={"params": params, "batch_stats": stats} if config.ema.decay else {},
        key=jax.random.key_data(jax.random.key(config.seed)),
        nonfinite=jnp.zeros((2,), jnp.int32),
    )
