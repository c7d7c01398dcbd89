"""Schedules by their formulas, optimizers by a few lines of NumPy."""

import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from expressnet_jax import config_files
from expressnet_jax.duration import Clock
from expressnet_jax.train import optimizer

CLOCK = Clock(batch_size=10, examples=100, total_steps=100)


def config(**changes):
    pairs = [(key.replace("__", "."), str(value)) for key, value in changes.items()]
    return config_files.load("fer2013:paper", [("batch_size", "10"), *pairs])


def test_the_published_rate_is_decayed_before_every_epoch_the_first_included():
    rate = optimizer.schedule(config(), CLOCK)
    found = [float(rate(step)) for step in (0, 9, 10, 25, 99)]
    np.testing.assert_allclose(found, [1e-4 * 0.95**n for n in (1, 1, 2, 3, 10)], rtol=1e-6)
    assert found[0] == pytest.approx(9.5e-5)


def test_cosine_after_a_linear_warmup():
    rate = optimizer.schedule(config(schedule__name="cosine", schedule__warmup="20%", schedule__final=0.1), CLOCK)
    warmup = [s / 20 for s in range(20)]
    wanted = 1e-4 * np.array(warmup + [0.1 + 0.45 * (1 + math.cos(math.pi * s / 80)) for s in range(81)])
    np.testing.assert_allclose([float(rate(s)) for s in range(101)], wanted, rtol=1e-5, atol=1e-12)


def test_constant():
    rate = optimizer.schedule(config(schedule__name="constant"), CLOCK)
    np.testing.assert_allclose([float(rate(s)) for s in (0, 50, 100)], 1e-4, rtol=1e-6)


PARAMS = {"dense": {"kernel": jnp.array([2.0, -1.0]), "bias": jnp.array([3.0])}, "bn": {"scale": jnp.array([1.0])}}
SLOPES = {"dense": {"kernel": jnp.array([0.5, 0.1]), "bias": jnp.array([-1.0])}, "bn": {"scale": jnp.array([0.0])}}


def step(settings, steps=1):
    made = optimizer.create(settings, CLOCK)
    params, state = PARAMS, made.init(PARAMS)
    for _ in range(steps):
        updates, state = made.update(SLOPES, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_adam_with_keras_epsilon():
    found = step(config(schedule__name="constant"), steps=3)["dense"]["kernel"]
    g, m, v, w = np.array([0.5, 0.1]), 0.0, 0.0, np.array([2.0, -1.0])
    for t in (1, 2, 3):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w = w - 1e-4 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-7)
    np.testing.assert_allclose(found, w, rtol=1e-6)


def test_sgd_with_nesterov_momentum():
    settings = config(optimizer__name="sgd", schedule__name="constant", optimizer__learning_rate=0.1)
    g, v, w = np.array([0.5, 0.1]), 0.0, np.array([2.0, -1.0])
    for _ in range(3):
        v = 0.9 * v + g
        w = w - 0.1 * (g + 0.9 * v)
    np.testing.assert_allclose(step(settings, 3)["dense"]["kernel"], w, rtol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb"])
def test_weight_decay_shrinks_kernels_and_nothing_else(name):
    common = {"optimizer__name": name, "schedule__name": "constant", "optimizer__learning_rate": 0.1}
    plain, decayed = step(config(**common)), step(config(**common, optimizer__weight_decay=0.1))
    assert (np.abs(decayed["dense"]["kernel"] - plain["dense"]["kernel"]) > 1e-4).any()
    np.testing.assert_array_equal(decayed["dense"]["bias"], plain["dense"]["bias"])
    np.testing.assert_array_equal(decayed["bn"]["scale"], PARAMS["bn"]["scale"])


def test_adamw_decays_by_rate_times_weight():
    settings = config(optimizer__name="adamw", schedule__name="constant", optimizer__learning_rate=0.1)
    decayed = config(
        optimizer__name="adamw", schedule__name="constant", optimizer__learning_rate=0.1, optimizer__weight_decay=0.5
    )
    moved = step(settings)["dense"]["kernel"] - step(decayed)["dense"]["kernel"]
    np.testing.assert_allclose(moved, 0.1 * 0.5 * np.array([2.0, -1.0]), rtol=1e-5)


def test_clipping_bounds_the_global_norm():
    settings = config(
        optimizer__name="sgd", schedule__name="constant", optimizer__learning_rate=1, optimizer__clip_norm=0.1,
        optimizer__b1=0,
    )  # fmt: skip
    moved = [np.asarray(PARAMS["dense"][k] - step(settings)["dense"][k]) for k in ("kernel", "bias")]
    assert np.sqrt(sum((m**2).sum() for m in moved)) == pytest.approx(0.1, rel=1e-4)
    np.testing.assert_allclose(moved[0] / moved[1], np.array([0.5, 0.1]) / -1.0, rtol=1e-4)
