"""Preprocessing against a bilinear resize written here, Pillow, and numbers worked out by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from expressnet_jax.config import ConfigError, Preprocess
from expressnet_jax.models.preprocess import normalize, preprocess, resize

RGB_PIXEL = np.array([200.0, 100.0, 50.0], np.float32).reshape(1, 1, 1, 3)


def pictures(b: int, h: int, w: int, c: int) -> np.ndarray:
    return np.random.default_rng(h * 1000 + w + c).integers(0, 256, (b, h, w, c), np.uint8)


def bilinear_axis(x: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Half-pixel centres, edges replicated, two taps: OpenCV's INTER_LINEAR along one axis, in float64."""
    n = x.shape[axis]
    at = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, n - 1)
    shape = [1] * x.ndim
    shape[axis] = size
    part = (at - low).reshape(shape)
    return np.take(x, low, axis) * (1 - part) + np.take(x, high, axis) * part


@pytest.mark.parametrize(
    ("h", "w", "c", "size"), [(48, 48, 1, 224), (48, 48, 3, 31), (100, 100, 3, 48), (13, 29, 1, 20), (20, 48, 3, 48)]
)
def test_resize_is_bilinear_with_half_pixel_centres(h: int, w: int, c: int, size: int) -> None:
    x = pictures(2, h, w, c)
    expected = bilinear_axis(bilinear_axis(x.astype(np.float64), size, 1), size, 2)
    out = resize(jnp.asarray(x), size, antialias=False)
    assert out.shape == (2, size, size, c) and out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected, atol=2e-3)
    np.testing.assert_allclose(resize(jnp.asarray(x, jnp.float32), size, antialias=False), expected, atol=2e-3)


def test_two_pixels_become_four() -> None:
    x = jnp.asarray([[0, 100], [0, 100]], jnp.uint8).reshape(1, 2, 2, 1)
    np.testing.assert_allclose(resize(x, 4, antialias=False)[0, :, :, 0], [[0, 25, 75, 100]] * 4, atol=1e-4)


@pytest.mark.parametrize("size", [17, 40])
def test_antialiased_resize_is_pillows(size: int) -> None:
    x = pictures(1, 96, 64, 3)
    # One float picture a channel: Pillow rounds neither the result nor the pass in between.
    planes = [Image.fromarray(x[0, :, :, c].astype(np.float32), mode="F") for c in range(3)]
    expected = np.stack([np.asarray(p.resize((size, size), Image.Resampling.BILINEAR)) for p in planes], -1)
    out = resize(jnp.asarray(x), size, antialias=True)[0]
    np.testing.assert_allclose(out, expected, atol=0.01)
    assert np.abs(np.asarray(resize(jnp.asarray(x), size, antialias=False)[0]) - expected).max() > 10


def test_picture_of_the_right_size_is_only_cast() -> None:
    x = pictures(2, 48, 48, 1)
    out = resize(jnp.asarray(x), 48, antialias=True)
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out, x)
    steps = jax.make_jaxpr(lambda v: resize(v, 48, antialias=True))(x).eqns
    assert [step.primitive.name for step in steps] == ["convert_element_type"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Preprocess("rgb", "unit"), [200 / 255, 100 / 255, 50 / 255]),
        (Preprocess("bgr", "unit"), [50 / 255, 100 / 255, 200 / 255]),
        (Preprocess("rgb", "standard", mean=0.5, std=0.25), [1.1372549, -0.4313725, -1.2156863]),
        (Preprocess("bgr", "vggface2"), [-41.4953, -3.8827, 68.9088]),
        (Preprocess("rgb", "vggface2"), [68.9088, -3.8827, -41.4953]),
    ],
)
def test_colour_order_and_scale(config: Preprocess, expected: list[float]) -> None:
    out = normalize(jnp.asarray(RGB_PIXEL), config)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out[0, 0, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("c", [1, 3])
def test_per_image_is_of_each_picture_alone(c: int) -> None:
    x = pictures(3, 9, 7, c).astype(np.float64) * np.array([1, 0.2, 0]).reshape(3, 1, 1, 1)  # bright, dim, blank
    out = normalize(jnp.asarray(x.astype(np.float32)), Preprocess("rgb", "per_image"))
    for picture, found in zip(x, out, strict=True):
        np.testing.assert_allclose(found, (picture - picture.mean()) / (picture.std() + 8), atol=1e-5)
    np.testing.assert_array_equal(out[2], 0)


def test_per_image_keeps_no_brightness_and_little_contrast() -> None:
    x = pictures(1, 30, 30, 1).astype(np.float32)  # deviation 74
    plain, darker, dimmer = (
        normalize(jnp.asarray(made), Preprocess("rgb", "per_image")) for made in (x, x - 40, x / 2)
    )
    np.testing.assert_allclose(darker, plain, atol=1e-5)
    np.testing.assert_allclose(dimmer, plain * (x.std() + 8) / (x.std() + 16), atol=1e-5)


def test_red_is_the_last_channel_in_bgr() -> None:
    red = jnp.zeros((1, 2, 2, 3), jnp.uint8).at[..., 0].set(255)
    np.testing.assert_array_equal(normalize(red, Preprocess("bgr", "unit"))[0, 0, 0], [0, 0, 1])
    np.testing.assert_array_equal(normalize(red, Preprocess("rgb", "unit"))[0, 0, 0], [1, 0, 0])


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_grey_is_repeated_where_channels_differ(order: str) -> None:
    x = pictures(2, 6, 6, 1)
    np.testing.assert_allclose(normalize(jnp.asarray(x), Preprocess(order, "unit")), x / 255, rtol=1e-6)
    # Equal channels differ after VGGFace2's means, by exactly the means' differences.
    blue, _, red = np.moveaxis(np.asarray(normalize(jnp.asarray(x), Preprocess("bgr", "vggface2"))), -1, 0)
    np.testing.assert_allclose(blue - red, 131.0912 - 91.4953, rtol=1e-5)


@pytest.mark.parametrize("c", [1, 3])
def test_preprocess_is_resize_then_normalize(c: int) -> None:
    x = pictures(2, 20, 12, c)
    resized = bilinear_axis(bilinear_axis(x.astype(np.float64), 32, 1), 32, 2)
    expected = resized[..., ::-1] / 255
    out = preprocess(jnp.asarray(x), 32, Preprocess())
    assert out.shape == (2, 32, 32, c) and out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_preprocess_passes_antialias_on() -> None:
    x = jnp.asarray(pictures(1, 90, 90, 3))
    smooth, sharp = (preprocess(x, 30, Preprocess(antialias=on)) for on in (True, False))
    np.testing.assert_allclose(sharp[..., ::-1], x[:, 1::3, 1::3] / 255, atol=1e-5)  # the centre pixel of each 3x3
    assert float(smooth.std()) < 0.6 * float(sharp.std())


@pytest.mark.parametrize("config", [Preprocess(color_order="brg"), Preprocess(normalize="imagenette")])
def test_unknown_settings_are_named(config: Preprocess) -> None:
    with pytest.raises(ConfigError, match=r"brg|imagenette"):
        normalize(jnp.asarray(RGB_PIXEL), config)
