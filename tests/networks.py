"""Networks with weights made from their names: drawing weights with JAX takes longer to compile than most tests run."""

import jax
import numpy as np
from flax import nnx

from expressnet_jax.config import Clock
from expressnet_jax.export.artifact import filled
from expressnet_jax.models import canonical, expressnet
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.runs import optimizer as optimizers
from expressnet_jax.runs import state as states
from tests.golden import inputs


def network(config):
    """The network of a config; statistics, scales and biases are none of those that a new one has."""
    graph, state = nnx.split(nnx.eval_shape(lambda: expressnet.create(config)))
    empty = canonical.to_canonical(nnx.merge(graph, jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), state)))
    return filled(config, {name: inputs.weight(name, value.shape) for name, value in empty.items()})


def state(config, model):
    """A training state with a network's weights, on one device."""
    mesh = meshes.create(config, jax.devices()[:1])
    optimizer = optimizers.create(config, Clock(config.batch_size, 160, 24))
    empty = states.abstract(config, optimizer, mesh)
    params, stats = (nnx.to_pure_dict(nnx.state(model, kind)) for kind in (nnx.Param, nnx.BatchStat))
    full = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), empty)._replace(params=params, batch_stats=stats)
    full = full._replace(ema={"params": params, "batch_stats": stats} if full.ema else {})
    return jax.tree.map(lambda value, like: jax.device_put(value, like.sharding), full, empty)
