"""Learning-rate schedules and optimizers, as optax makes them from a config."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from expressnet_jax.config import Clock, Config


def schedule(config: Config, clock: Clock) -> optax.Schedule:
    """The learning rate of each step, counted from 0.

    epoch_decay is the published one: peak * decay^(epoch + 1), the factor being applied before the first epoch too
    (arXiv 2510.13493, notebooks). cosine and constant begin after a linear warm-up from 0; epoch_decay, which counts
    its epochs from step 0, is multiplied by that warm-up.
    """
    top, spec = peak(config), config.schedule
    warmup = min(clock.steps(spec.warmup, "schedule.warmup"), clock.total_steps)
    if spec.name == "epoch_decay":
        per_epoch = clock.examples / clock.batch_size

        def decayed_rate(step: Any) -> Any:
            return top * spec.decay ** (jnp.floor(step / per_epoch) + 1)

        return (lambda step: jnp.minimum(step / warmup, 1.0) * decayed_rate(step)) if warmup else decayed_rate
    cosine = optax.cosine_decay_schedule(top, max(clock.total_steps - warmup, 1), alpha=spec.final)
    after = cosine if spec.name == "cosine" else optax.constant_schedule(top)
    return optax.join_schedules([optax.linear_schedule(0.0, top, warmup), after], [warmup]) if warmup else after


def peak(config: Config) -> float:
    """The learning rate that schedules start from, after `optimizer.scaling` to the batch size.

    linear: batch_size / base_batch times as large (for SGD: Goyal et al. 2017); sqrt: its root (Hoffer et al. 2017 for
    SGD; for Adam, Malladi et al. 2022; for LAMB, You et al. 2020).
    """
    spec = config.optimizer
    ratio = config.batch_size / spec.base_batch
    return spec.learning_rate * {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[spec.scaling]


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
            # You et al. 2020, algorithm 2: Adam's step plus decay, scaled to its array's norm times the rate.
            # For kernels only, as in the authors' own code; optax.lamb gives biases the ratio too, and those that
            # begin at 0, and a rate that does, then stay near 0. The stacked kernels of a layer are one array.
            update = optax.chain(
                optax.scale_by_adam(spec.b1, spec.b2, spec.eps),
                optax.add_decayed_weights(spec.weight_decay, decayed),
                optax.masked(optax.scale_by_trust_ratio(), decayed),
                optax.scale_by_learning_rate(rate),
            )
        case _:
            momentum = optax.sgd(rate, momentum=spec.b1, nesterov=True)
            update = optax.chain(optax.add_decayed_weights(spec.weight_decay, decayed), momentum)
    return optax.chain(optax.clip_by_global_norm(spec.clip_norm), update) if spec.clip_norm else update


def decayed(params: Any) -> Any:
    """Which parameters weight decay and LAMB's ratio touch: kernels, never biases or BatchNorm's scales."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
