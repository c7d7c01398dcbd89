"""The layers that are written by hand for speed, against the library's own slow ones."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from expressnet_jax import target
from expressnet_jax.config import Model
from expressnet_jax.models import layers


def normal(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


@pytest.mark.parametrize("platform", ["cpu", "tpu"])  # pixels merged into one axis, or left as they are
def test_batchnorm_equals_flax_forward_backward_and_in_its_statistics(platform):
    x, g = normal((4, 5, 6, 3), (4, 5, 6, 3))
    x, scale, bias = 2 + 3 * x, jnp.asarray([0.5, 1.0, 2.0]), jnp.asarray([0.1, -0.2, 0.3])
    theirs = linen.BatchNorm(use_running_average=False, momentum=0.99, epsilon=1e-3)
    kept = {"batch_stats": {"mean": jnp.zeros(3), "var": jnp.ones(3)}}

    def wanted(x, scale, bias):
        return theirs.apply({"params": {"scale": scale, "bias": bias}, **kept}, x, mutable=["batch_stats"])

    def found(x, scale, bias):
        bn = layers.BatchNorm(Model(), 3)
        bn.scale[...], bn.bias[...] = scale, bias
        y = bn(x, train=True)
        return y, {"batch_stats": {"mean": bn.mean[...], "var": bn.var[...]}}

    with target.compiling_for(platform):
        y, pull, stats = jax.vjp(found, x, scale, bias, has_aux=True)
    y_wanted, pull_wanted, stats_wanted = jax.vjp(wanted, x, scale, bias, has_aux=True)
    np.testing.assert_allclose(y, y_wanted, atol=1e-5)
    for ours, right in zip(pull(g), pull_wanted(g), strict=True):
        np.testing.assert_allclose(ours, right, atol=2e-5)
    for key, value in stats_wanted["batch_stats"].items():
        np.testing.assert_allclose(stats["batch_stats"][key], value, rtol=1e-5)


def test_batchnorm_in_inference_uses_what_it_has_kept():
    (x,) = normal((2, 4, 4, 3))
    bn = layers.BatchNorm(Model(), 3)
    bn.mean[...], bn.var[...], bn.scale[...] = jnp.asarray([1.0, 2, 3]), jnp.asarray([4.0, 9, 16]), jnp.full(3, 2.0)
    wanted = (x - bn.mean[...]) / jnp.sqrt(bn.var[...] + 1e-3) * 2
    np.testing.assert_allclose(bn(x, train=False), wanted, atol=1e-5)


@pytest.mark.parametrize("window", [2, 3])
@pytest.mark.parametrize("sides", [(8, 8), (9, 7), (5, 12), (3, 3)])
def test_max_pool_equals_the_window_reduction_and_its_gradient(window, sides):
    (x,) = normal((2, *sides, 3))
    found, pull = jax.vjp(lambda x: layers.max_pool(x, window), x)
    wanted, pull_wanted = jax.vjp(
        lambda x: nnx.max_pool(x, window_shape=(window, window), strides=(2, 2), padding="VALID"), x
    )
    np.testing.assert_array_equal(found, wanted)
    (g,) = normal(found.shape, seed=1)
    np.testing.assert_allclose(pull(g)[0], pull_wanted(g)[0], atol=1e-6)


def test_a_compiled_program_loses_none_of_the_gradient_of_max_pool():
    """Fused with what comes before and after, where a compiler may compute a value twice and round it differently."""
    x, kernel, scale, bias = normal((2, 16, 16, 4), (3, 3, 4, 4), (4,), (4,))

    def conv(x):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def squares(x):
        return (conv(layers.max_pool(jax.nn.relu(conv(x)) * scale + bias, 2)) ** 2).sum()

    wanted = jax.grad(squares)(x)  # one operation at a time
    np.testing.assert_allclose(jax.jit(jax.grad(squares))(x), wanted, atol=1e-5 * float(np.abs(wanted).max()))


def dropped(rate, key, shape=(64, 16, 16, 8)):
    return np.asarray(layers.dropout(jnp.ones(shape), rate, nnx.Rngs(dropout=jax.random.key(key)))) == 0


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_drops_its_rate_and_keeps_the_mean(rate):
    y = np.asarray(layers.dropout(jnp.ones((64, 16, 16, 8)), rate, nnx.Rngs(dropout=jax.random.key(0))))
    assert set(np.unique(y)) == {0.0, np.float32(1 / (1 - rate))}
    deviation = np.sqrt(rate * (1 - rate) / y.size)
    assert abs((y == 0).mean() - rate) < 4 * deviation
    assert layers.dropout(jnp.ones(3), rate, None).tolist() == [1, 1, 1]


def test_dropout_is_independent_between_places_channels_images_and_keys():
    """Correlations of the masks of neighbours, and of two keys, are those of independent draws."""
    mask = dropped(0.5, 0)
    centred, n = mask - 0.5, mask.size
    pairs = [centred[:-1] * centred[1:], centred[:, 1:] * centred[:, :-1], centred[..., 1:] * centred[..., :-1]]
    pairs += [centred * (dropped(0.5, key) - 0.5) for key in range(1, 9)]
    for product in pairs:
        assert abs(product.mean() / 0.25) < 4.5 / np.sqrt(n)
    # Drops of each image, channel and column are binomial: chi-square over 64 x 16 x 8 counts of 16.
    counts = mask.sum(1)
    chi2 = ((counts - 8.0) ** 2 / 4).sum()
    assert abs(chi2 - counts.size) < 5 * np.sqrt(2 * counts.size)


def test_the_hash_is_a_bijection_whose_bits_all_depend_on_all():
    x = jnp.arange(1 << 16, dtype=jnp.uint32) * jnp.uint32(0x9E3779B1)
    assert len(np.unique(np.asarray(layers.hash32(x)))) == 1 << 16
    base = np.asarray(layers.hash32(layers.hash32(x)))
    for bit in range(32):
        flipped = np.asarray(layers.hash32(layers.hash32(x ^ jnp.uint32(1 << bit))))
        changed = np.unpackbits((base ^ flipped).view(np.uint8)).reshape(-1, 32).mean(0)
        assert np.abs(changed - 0.5).max() < 0.02


@pytest.mark.parametrize(("stride", "form"), [(1, "direct"), (1, "dft"), (2, "direct")])
def test_a_grey_picture_counts_its_equal_channels_once(stride, form):
    (x,) = normal((2, 12, 10, 1))
    conv = layers.Conv(Model(convolution=form), "cnnfe1/conv1", 3, 4, 5, stride=stride, rngs=nnx.Rngs(params=0))
    wanted = conv(jnp.repeat(x, 3, -1), train=False)
    np.testing.assert_allclose(conv(x, train=False), wanted, atol=2e-6)

    def slopes(x):
        return nnx.grad(lambda conv: (conv(x, train=True) ** 2).sum())(conv).kernel[...]

    np.testing.assert_allclose(slopes(x), slopes(jnp.repeat(x, 3, -1)), atol=1e-3)
