"""Learning-rate schedules and optimizers, as optax makes them from a config."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from expressnet_jax.config import Config
from expressnet_jax.duration import Clock


def schedule(config: Config, clock: Clock) -> optax.Schedule:
    """The learning rate of each step, counted from 0.

    epoch_decay is the published one: peak * decay^(epoch + 1), the factor being applied before the first epoch too
    (arXiv 2510.13493, notebooks); cosine and constant come after a linear warm-up from 0.
    """
    peak, spec = config.optimizer.learning_rate, config.schedule
    if spec.name == "epoch_decay":
        per_epoch = clock.examples / clock.batch_size
        return lambda step: peak * spec.decay ** (jnp.floor(step / per_epoch) + 1)
    warmup = min(clock.steps(spec.warmup, "schedule.warmup"), clock.total_steps)
    rest = max(clock.total_steps - warmup, 1)
    after = (
        optax.cosine_decay_schedule(peak, rest, alpha=spec.final)
        if spec.name == "cosine"
        else optax.constant_schedule(peak)
    )
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup]) if warmup else after


def create(config: Config, clock: Clock) -> optax.GradientTransformation:
    """The optimizer of a config, with clipping of the global gradient norm before it where that is on."""
    spec, rate = config.optimizer, schedule(config, clock)
    decay = {"weight_decay": spec.weight_decay, "mask": decayed}
    match spec.name:
        case "adam":
            update = optax.adam(rate, spec.b1, spec.b2, spec.eps)
        case "adamw":
            update = optax.adamw(rate, spec.b1, spec.b2, spec.eps, **decay)
        case "lamb":
            update = optax.lamb(rate, spec.b1, spec.b2, spec.eps, **decay)
        case _:
            momentum = optax.sgd(rate, momentum=spec.b1, nesterov=True)
            update = optax.chain(optax.add_decayed_weights(spec.weight_decay, decayed), momentum)
    return optax.chain(optax.clip_by_global_norm(spec.clip_norm), update) if spec.clip_norm else update


def decayed(params: Any) -> Any:
    """Which parameters weight decay touches: kernels, never biases or BatchNorm's scales."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
