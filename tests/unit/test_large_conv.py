"""The convolution's forms against SciPy, against TensorFlow's padding rule, and against each other with gradients."""

import os
import re
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from expressnet_jax.models import large_conv
from expressnet_jax.models.large_conv import conv2d

FORMS = large_conv.FORMS


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


def normal(*shapes: tuple[int, ...], dtype=np.float32) -> list[jax.Array]:
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


whole = partial(jax.jit, static_argnums=2)(conv2d)  # one compilation: operation by operation there would be forty


@partial(jax.jit, static_argnums=0)
def forward_and_gradients(form: str, x: jax.Array, kernel: jax.Array, g: jax.Array) -> list[jax.Array]:
    value, pull = jax.vjp(partial(conv2d, form=form), x, kernel)
    return [value, *pull(g)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1, 2, 3, 8, 11, 16, 30])
def test_every_form_equals_scipy(form, size):
    x, kernel = normal((2, 20, 17, 2), (size, size, 2, 3))
    found = whole(x, kernel, form)
    wanted = oracle(np.asarray(x), np.asarray(kernel))
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=2e-6 * np.abs(wanted).max())


_SHAPES = (st.integers(1, 3), *[st.integers(1, 24)] * 2, *[st.integers(1, 30)] * 2, *[st.integers(1, 5)] * 2)


@pytest.mark.parametrize("form", ["fft", "dft"])
@settings(max_examples=8, deadline=None)
@given(*_SHAPES)
def test_forms_agree_forward_and_gradient_in_float32(form, b, h, w, p, q, d, f):
    arrays = normal((b, h, w, d), (p, q, d, f), (b, h, w, f))
    wanted = forward_and_gradients("direct", *arrays)
    for found, right in zip(forward_and_gradients(form, *arrays), wanted, strict=True):
        np.testing.assert_allclose(found, right, atol=1e-5 * float(jnp.abs(right).max() + 1))


def test_forms_agree_forward_and_gradient_in_float64():
    """To 1e-10, over random shapes, in a process of its own since float64 is a setting of the whole process."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.float64_forms"],
        env={**os.environ, "JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    worst = {form: float(error) for form, error in re.findall(r"(\w+) ([-+.e0-9]+)", done.stdout)}
    assert set(worst) == {"fft", "dft"}
    assert max(worst.values()) < 1e-10, worst


@pytest.mark.parametrize("form", ["fft", "dft"])
def test_a_batch_worked_through_in_parts_gives_the_same(form, monkeypatch):
    arrays = normal((8, 20, 20, 5), (9, 9, 5, 3), (8, 20, 20, 3))
    at_once = forward_and_gradients(form, *arrays)
    for limit in (300_000, 1):  # a few parts one after the other, and a loop
        monkeypatch.setitem(large_conv._MAX_BYTES, jax.default_backend(), limit)
        loops = "while" in str(jax.make_jaxpr(partial(conv2d, form=form))(*arrays[:2])) or "scan" in str(
            jax.make_jaxpr(partial(conv2d, form=form))(*arrays[:2])
        )
        assert loops == (limit == 1)
        jax.clear_caches()  # the limit is read when a program is traced
        for found, wanted in zip(forward_and_gradients(form, *arrays), at_once, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-6 * float(jnp.abs(wanted).max()))


@pytest.mark.parametrize("form", ["fft", "dft"])
def test_a_spectrum_can_be_computed_once(form):
    x, kernel = normal((2, 33, 20, 3), (5, 8, 3, 4))
    spectrum = jax.jit(lambda kernel: large_conv.kernel_spectrum(kernel, (33, 20), form))(kernel)
    found = jax.jit(lambda x, spectrum: large_conv.multiply_spectra(x, spectrum, (5, 8), form))(x, spectrum)
    np.testing.assert_allclose(found, whole(x, kernel, form), atol=1e-5)


def test_a_gradient_reuses_the_spectra_of_the_forward_pass():
    """Three transforms forward (picture, kernel, result); the gradient adds those of its cotangent and its results."""
    x, kernel, g = normal((2, 30, 30, 3), (15, 15, 3, 4), (2, 30, 30, 4))

    def transforms(function, *arrays):
        return len(re.findall(r"\bfft\[", str(jax.make_jaxpr(function)(*arrays))))

    forward = partial(conv2d, form="fft")
    assert transforms(forward, x, kernel) == 3
    both = transforms(lambda x, k, g: jax.vjp(forward, x, k)[1](g), x, kernel, g)
    kernel_only = transforms(lambda x, k, g: jax.vjp(lambda k: forward(x, k), k)[1](g), x, kernel, g)
    assert (both, kernel_only) == (6, 5)


@pytest.mark.parametrize("form", ["fft", "dft"])
def test_bfloat16_input_is_transformed_in_float32(form):
    x, kernel = normal((1, 24, 24, 2), (15, 15, 2, 2), dtype=jnp.bfloat16)
    found = whole(x, kernel, form)
    wanted = oracle(np.asarray(x, np.float64), np.asarray(kernel, np.float64))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float64), wanted, atol=2**-8 * np.abs(wanted).max())


@pytest.mark.parametrize("bits", [10, 16])
def test_passes_of_a_matrix_unit_keep_a_bfloat16_convolution_exact_enough(bits, monkeypatch):
    """`_dft` asks for Precision.HIGH where activations are bfloat16: TF32 (10 bits of mantissa) on a GPU, three
    bfloat16 passes (about 16) on a TPU. With every operand rounded so, the result stays within what bfloat16's own 8
    bits can say."""
    rng = np.random.default_rng(2)
    # A face-like picture: bright, with small detail; and a kernel that looks for detail alone, the hard case.
    x = jnp.asarray(0.6 + 0.1 * rng.standard_normal((1, 40, 40, 3)), jnp.bfloat16)
    kernel = jnp.asarray(rng.standard_normal((25, 25, 3, 2)), jnp.float32)
    kernel = kernel - kernel.mean((0, 1), keepdims=True)

    def rounded(a):
        def part(v):
            mantissa, exponent = jnp.frexp(v)
            return jnp.ldexp(jnp.round(mantissa * 2.0 ** (bits + 1)) / 2.0 ** (bits + 1), exponent)

        return jax.lax.complex(part(a.real), part(a.imag)) if jnp.iscomplexobj(a) else part(a)

    einsum = jnp.einsum
    monkeypatch.setattr(jnp, "einsum", lambda s, a, b, precision=None: einsum(s, rounded(a), rounded(b)))
    found = np.asarray(jax.jit(lambda x, kernel: conv2d(x, kernel, "dft"))(x, kernel), np.float64)
    wanted = oracle(np.asarray(x, np.float64), np.asarray(kernel, np.float64))
    assert np.abs(found - wanted).max() < 2**-8 * np.abs(wanted).max()


def test_precision_follows_the_activations():
    x, kernel = normal((1, 12, 12, 8), (7, 7, 8, 2))
    program = {
        dtype: str(jax.make_jaxpr(partial(conv2d, form="dft"))(x.astype(dtype), kernel))
        for dtype in (jnp.float32, jnp.bfloat16)
    }
    lowered = {dtype: len(re.findall(r"Precision\.HIGH\b", text)) for dtype, text in program.items()}
    assert lowered[jnp.float32] == 0
    assert lowered[jnp.bfloat16] >= 10  # both operands of five products
