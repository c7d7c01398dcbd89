"""The compiled programs of a run, made in one place for the loop, the benchmarks and the plans."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import optax

from expressnet_jax.config import Config
from expressnet_jax.config.duration import Clock
from expressnet_jax.evaluation import evaluator
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.runs import optimizer as optimizers
from expressnet_jax.runs import state as states
from expressnet_jax.train import step as steps


class Program(NamedTuple):
    """What runs on the devices; every part under `jax.set_mesh` of the mesh that it was made for."""

    optimizer: optax.GradientTransformation
    step: Any  # jitted (state, sums, batch) -> (state, sums); state and sums are donated
    zero_sums: Any  # jitted () -> the sums before an interval
    count: Any  # of `evaluator.counter`, for the validation


def create(config: Config, clock: Clock, mesh: jax.sharding.Mesh) -> Program:
    """The programs of a config on a mesh; nothing is compiled yet."""
    optimizer, graph = optimizers.create(config, clock), states.graph(config)
    everywhere = meshes.replicated(mesh)
    # Said here and not left to the compiler: what every process reads must lie whole on each of them.
    return Program(
        optimizer,
        jax.jit(
            steps.train_step(config, graph, optimizer, optimizers.schedule(config, clock)),
            donate_argnums=(0, 1),
            out_shardings=(states.shardings(config, optimizer, mesh), everywhere),
        ),
        jax.jit(lambda: steps.zero_sums(config), out_shardings=everywhere),
        evaluator.counter(config, mesh),
    )
