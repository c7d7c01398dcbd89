"""BatchNorm over groups of a batch, against the formula written out group by group and differentiated by JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expressnet_jax import target
from expressnet_jax.config import Model
from expressnet_jax.config import files as config_files
from expressnet_jax.models import layers
from expressnet_jax.train import step as steps
from tests.conftest import TINY
from tests.unit.test_step import PLAIN, batch, setup


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def ours(x, scale, bias, group):
    """The layer's answer, and its moving mean and variance afterwards."""
    bn = layers.BatchNorm(Model(dtype=str(x.dtype), batchnorm_group=group), x.shape[-1])
    bn.scale[...], bn.bias[...] = scale, bias
    y = bn(x, train=True)
    return y, (bn.mean[...], bn.var[...])


def by_formula(x, scale, bias, group):
    parts = []
    for part in jnp.split(x, len(x) // group):
        mean = part.mean((0, 1, 2))
        var = ((part - mean) ** 2).mean((0, 1, 2))
        parts.append((part - mean) / jnp.sqrt(var + 1e-3) * scale + bias)
    return jnp.concatenate(parts)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])  # pixels merged into one axis, or left as they are
@pytest.mark.parametrize("group", [1, 2, 4, 6])
def test_values_gradients_and_moving_statistics_are_those_of_the_formula(platform, group):
    with jax.enable_x64(True), target.compiling_for(platform):
        x, g = 2 + 3 * normal(12, 5, 4, 3), normal(12, 5, 4, 3, seed=1)
        x += jnp.arange(12.0)[:, None, None, None]  # groups that differ
        scale, bias = jnp.asarray([0.5, 1.0, 2.0]), jnp.asarray([0.1, -0.2, 0.3])
        y, pull, (mean, var) = jax.vjp(lambda *a: ours(*a, group), x, scale, bias, has_aux=True)
        right, pull_right = jax.vjp(lambda *a: by_formula(*a, group), x, scale, bias)
        assert y.dtype == jnp.float64
        np.testing.assert_allclose(y, right, rtol=0, atol=1e-12)
        for a, b in zip(pull(g), pull_right(g), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)
    parts = np.asarray(x).reshape(12 // group, -1, 3)  # (groups, pixels, channels)
    np.testing.assert_allclose(mean, 0.01 * parts.mean(1).mean(0), rtol=1e-12)
    np.testing.assert_allclose(var, 0.99 + 0.01 * parts.var(1).mean(0), rtol=1e-12)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_one_group_is_the_whole_batch_bit_for_bit(platform):
    x, g = (normal(8, 5, 4, 3, seed=seed).astype(jnp.float32) for seed in (0, 1))

    def everything(x, g, group):
        y, pull, stats = jax.vjp(lambda *a: ours(*a, group), x, jnp.full(3, 1.5), jnp.ones(3), has_aux=True)
        return y, pull(g), stats

    with target.compiling_for(platform):
        whole, one = (jax.jit(everything, static_argnums=2)(x, g, group) for group in (0, 8))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(one), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_batch_of_8192_in_groups_of_32_is_256_batches_of_32():
    """The noise of the statistics is that of 32 pictures, and no picture feels those of another group."""
    x = normal(8192, 2, 2, 3).astype(jnp.float32)
    scale, bias = jnp.ones(3), jnp.zeros(3)
    y, whole = (np.asarray(ours(x, scale, bias, group)[0]) for group in (32, 0))
    for start in (0, 32, 4096, 8160):
        alone = ours(x[start : start + 32], scale, bias, 0)[0]
        np.testing.assert_allclose(y[start : start + 32], alone, atol=2e-6)
    others = ours(x.at[32:].multiply(7.0), scale, bias, 32)[0]
    np.testing.assert_array_equal(others[:32], y[:32])
    # By the whole batch, the mean of a group's 32 x 4 pixels is off by 1 / sqrt(128); by the group, it is 0.
    means, of_whole = (a.reshape(256, 128, 3).mean(1) for a in (y, whole))
    assert np.abs(means).max() < 1e-6
    assert of_whole.std() == pytest.approx(128**-0.5, rel=0.1)


def test_bfloat16_keeps_float32_statistics():
    x = (5 + normal(8, 6, 6, 2)).astype(jnp.bfloat16)
    y, (mean, var) = ours(x, jnp.ones(2), jnp.zeros(2), 4)
    assert y.dtype == jnp.bfloat16 and mean.dtype == var.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(y, np.float32), by_formula(x.astype(jnp.float32), 1.0, 0.0, 4), atol=0.02)


def a_step(*changes):
    c = config_files.load(TINY, [*PLAIN, ("model.batchnorm_group", "4"), *changes])
    step, state = setup(c)
    return lambda some: step(state, steps.zero_sums(c), some)


def test_groups_are_neighbours_within_a_micro_batch():
    """Two micro-batches of 8 take every second picture; in their order, one batch of 16 has the same groups of 4.

    The latter computes each block again for its gradient.
    """
    order = np.r_[0:16:2, 1:16:2]
    whole = a_step(("model.remat", "true"))
    found, found_sums = a_step(("optimizer.accumulate", "2"))(batch())
    right, right_sums = whole({key: value[order] for key, value in batch().items()})
    assert float(found_sums["loss"]) == pytest.approx(float(right_sums["loss"]), rel=1e-5)
    assert float(found_sums["gradient_norm"]) == pytest.approx(float(right_sums["gradient_norm"]), rel=1e-4)
    for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(right.params), strict=True):
        np.testing.assert_allclose(a, b, atol=3e-5)
    assert float(whole(batch())[1]["loss"]) != pytest.approx(float(right_sums["loss"]), rel=1e-3)
