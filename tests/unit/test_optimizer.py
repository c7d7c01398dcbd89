"""Schedules by their formulas, optimizers by a few lines of NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from expressnet_jax.config import Clock
from expressnet_jax.config import files as config_files
from expressnet_jax.runs import optimizer

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


def test_warmup_multiplies_the_published_decay():
    """Ten steps an epoch; warmed up over two of them, its epochs counted from the start."""
    rate = optimizer.schedule(config(schedule__warmup="2epochs"), CLOCK)
    found = [float(rate(s)) for s in (0, 1, 9, 10, 19, 20, 25, 99)]
    shares, epochs = [0, 0.05, 0.45, 0.5, 0.95, 1, 1, 1], [1, 1, 1, 2, 2, 3, 3, 10]
    wanted = [1e-4 * share * 0.95**n for share, n in zip(shares, epochs, strict=True)]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-15)


@pytest.mark.parametrize(("scaling", "factor"), [("none", 1), ("linear", 256), ("sqrt", 16)])
@pytest.mark.parametrize("name", ["epoch_decay", "cosine", "constant"])
def test_the_peak_grows_with_the_batch(name, scaling, factor):
    """8192 pictures are 256 batches of 32: the rate of every step times 256, or 16."""
    clock = Clock(batch_size=8192, examples=81920, total_steps=100)
    common = {"batch_size": 8192, "schedule__name": name, "optimizer__learning_rate": 3e-4}
    scaled = {"optimizer__scaling": scaling, "optimizer__base_batch": 32}
    found, plain = (optimizer.schedule(config(**common, **more), clock) for more in (scaled, {}))
    for step in (0, 15, 60):
        assert float(found(step)) == pytest.approx(factor * float(plain(step)), rel=1e-6)
    assert float(plain(0)) == pytest.approx(3e-4 * (0.95 if name == "epoch_decay" else 1), rel=1e-6)


def test_linear_scaling_and_warmup_give_the_rates_of_goyal_and_others():
    """Their ImageNet recipe: 0.1 at 256 becomes 3.2 at 8,192, reached after five epochs (arXiv 1706.02677)."""
    clock = Clock(batch_size=8192, examples=1_281_167, total_steps=14076)  # 156.4 steps an epoch, 90 epochs
    rate = optimizer.schedule(
        config(
            batch_size=8192, optimizer__name="sgd", optimizer__learning_rate=0.1, optimizer__scaling="linear",
            optimizer__base_batch=256, schedule__name="constant", schedule__warmup="5epochs",
        ),
        clock,
    )  # fmt: skip
    found = [float(rate(s)) for s in (0, 78, 391, 782, 14000)]  # 782 = 5 x 156.4
    np.testing.assert_allclose(found, [0, 0.319182, 1.6, 3.2, 3.2], rtol=1e-5)


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


def test_lamb_is_that_of_its_paper_with_biases_and_scales_left_to_adam():
    """You et al. 2020, algorithm 2, by NumPy, over six steps of a warm-up from a rate of 0 and slopes that change."""
    settings = config(
        optimizer__name="lamb", optimizer__learning_rate=0.05, optimizer__weight_decay=0.3, optimizer__eps=1e-6,
        schedule__name="constant", schedule__warmup="4steps",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    params = {
        "dense": {"kernel": rng.normal(size=(3, 4)), "bias": np.zeros(4)}, "bn": {"scale": np.ones(4)},
        "experts": {"kernel": rng.normal(size=(2, 4, 3)), "bias": rng.normal(size=(2, 3))},
        "unused": {"kernel": np.zeros((2, 2))},
    }  # fmt: skip
    slopes = [jax.tree.map(lambda w: rng.normal(size=w.shape), params) for _ in range(6)]
    for g in slopes:
        g["unused"]["kernel"] *= 0
    found, made = jax.tree.map(jnp.float32, params), optimizer.create(settings, CLOCK)
    state = made.init(found)
    for g in slopes:
        updates, state = made.update(jax.tree.map(jnp.float32, g), state, found)
        found = optax.apply_updates(found, updates)

    def by_hand(w, gradients, kernel):
        m = v = np.zeros_like(w)
        for t, g in enumerate(gradients, start=1):
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            direction = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-6) + (0.3 * w if kernel else 0)
            sizes = np.sqrt((w * w).sum()), np.sqrt((direction * direction).sum())
            ratio = sizes[0] / sizes[1] if kernel and min(sizes) > 0 else 1
            w = w - 0.05 * min((t - 1) / 4, 1) * ratio * direction
        return w

    for name, part in params.items():
        for key, w in part.items():
            wanted = by_hand(w, [g[name][key] for g in slopes], key == "kernel")
            np.testing.assert_allclose(found[name][key], wanted, rtol=2e-5, atol=1e-7, err_msg=f"{name} {key}")
    assert np.abs(found["dense"]["bias"]).min() > 0.02  # begun at 0, as the rate


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
