"""Trains a few steps with each form of convolution and prints each step's loss, a list a form, as JSON.

A process of its own: in float64 (JAX_ENABLE_X64=1), where two forms can be compared over many steps. In float32 any
difference in rounding, of forms or of device counts, doubles with every few steps while a network is young.

    JAX_ENABLE_X64=1 python -m tests.golden.curves float64 direct,dft 50 CONFIG [--config.KEY=VALUE ...] [DATA_DIR]
"""

import dataclasses
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from expressnet_jax.config import Clock, Config
from expressnet_jax.config import files as config_files
from expressnet_jax.runs import data, optimizer
from expressnet_jax.runs import state as states
from expressnet_jax.train import loop
from expressnet_jax.train import step as steps


def main() -> None:
    dtype, forms, count, name, *rest = sys.argv[1:]
    changes = [tuple(a.removeprefix("--config.").split("=", 1)) for a in rest if a.startswith("--")]
    data_dir = next((a for a in rest if not a.startswith("--")), None)
    config = config_files.load(name, changes)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype=dtype))
    opened = data.open_data(config, data_dir)
    clock = loop.clock_of(config, opened.examples)
    start = jax.jit(lambda: states._create(config, optimizer.create(config, clock)))()
    start = jax.tree.map(lambda a: a.astype(dtype) if a.dtype == np.float32 else a, start)
    print(json.dumps([losses(config, form, start, opened, clock, int(count)) for form in forms.split(",")]))


def losses(config: Config, form: str, state: states.State, opened: Any, clock: Clock, count: int) -> list[float]:
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, convolution=form))
    made, rate = optimizer.create(config, clock), optimizer.schedule(config, clock)
    step = jax.jit(steps.train_step(config, states.graph(config), made, rate))
    batches, found = data.batches(config, opened), []
    for _ in range(count):
        state, sums = step(state, steps.zero_sums(config), {k: jnp.asarray(v) for k, v in next(batches).items()})
        found.append(float(np.asarray(sums["loss"], np.float64) / np.asarray(sums["count"])))
    return found


if __name__ == "__main__":
    main()
