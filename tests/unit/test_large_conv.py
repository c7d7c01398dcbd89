"""The convolution's forms against SciPy, against TensorFlow's padding rule, and against each other with gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from expressnet_jax.models import large_conv

FORMS = [large_conv.direct_conv2d, large_conv.fft_conv2d, large_conv.conv2d]


def oracle(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """SAME correlation by SciPy, in float64: for an even kernel one more row of zeros at the bottom and right."""
    p, q, d, f = kernel.shape
    pad = ((0, 0), ((p - 1) // 2, p // 2), ((q - 1) // 2, q // 2), (0, 0))
    x = np.pad(x.astype(np.float64), pad)
    out = [
        [sum(scipy.signal.correlate2d(image[..., i], kernel[..., i, o], "valid") for i in range(d)) for o in range(f)]
        for image in x
    ]
    return np.moveaxis(np.array(out), 1, -1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1, 2, 3, 8, 11, 16, 30])
def test_every_form_equals_scipy(form, size):
    rng = np.random.default_rng(size)
    x, kernel = rng.standard_normal((2, 20, 17, 2)), rng.standard_normal((size, size, 2, 3))
    found = form(jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32))
    wanted = oracle(x, kernel)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=2e-6 * np.abs(wanted).max())


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 24), st.integers(1, 24), st.integers(1, 30), st.integers(1, 30),
    st.integers(1, 3), st.integers(1, 3),
)  # fmt: skip
def test_fft_equals_direct_forward_and_gradient(b, h, w, p, q, d, f):
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((b, h, w, d), (p, q, d, f), (b, h, w, f))]

    def results(form):
        value, pull = jax.vjp(form, *arrays[:2])
        return [value, *pull(arrays[2])]

    for found, wanted in zip(results(large_conv.fft_conv2d), results(large_conv.direct_conv2d), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5 * float(jnp.abs(wanted).max() + 1))


def test_the_choice_is_by_taps_for_each_input_channel_and_can_be_forced():
    chosen = {(75, 3): True, (50, 8): True, (25, 16): True, (15, 3): True, (15, 32): False, (9, 64): False}
    assert {key: large_conv.prefers_fft((key[0], key[0], key[1], 8)) for key in chosen} == chosen

    def transforms(size, form):
        shapes = (jax.ShapeDtypeStruct((1, 32, 32, 3), "float32"), jax.ShapeDtypeStruct((size, size, 3, 2), "float32"))
        return "fft" in str(jax.make_jaxpr(lambda x, k: large_conv.conv2d(x, k, form))(*shapes))

    assert [transforms(15, form) for form in ("auto", "direct", "fft")] == [True, False, True]
    assert [transforms(3, form) for form in ("auto", "direct", "fft")] == [False, False, True]


def test_bfloat16_input_is_transformed_in_float32():
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.standard_normal((1, 24, 24, 2)), jnp.bfloat16)
    kernel = jnp.asarray(rng.standard_normal((15, 15, 2, 2)), jnp.bfloat16)
    found = large_conv.fft_conv2d(x, kernel)
    wanted = oracle(np.asarray(x, np.float64), np.asarray(kernel, np.float64))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float64), wanted, atol=2**-8 * np.abs(wanted).max())
