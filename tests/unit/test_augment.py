"""Augmentation against SciPy and NumPy: geometry, colour, erasing, mixup, and what the random numbers depend on."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from expressnet_jax.config import Augment
from expressnet_jax.train.augment import affine_matrices, augment, warp

GEOMETRY = Augment(flip=True, crop=0.2, shift=0.15, rotate=25.0)
ALL_BUT_MIXUP = dataclasses.replace(GEOMETRY, brightness=0.4, contrast=0.4, saturation=0.5, erase=0.5)
SIDE = 24

run = jax.jit(augment, static_argnames="config")


def pictures(b: int, c: int, low: float = 0, high: float = 255, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(c + b).uniform(low, high, (b, side, side, c)).astype(np.float32)


def augmented(x: np.ndarray, config: Augment, indices: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    indices = np.arange(len(x), dtype=np.int32) if indices is None else indices
    return np.asarray(run(x, jnp.zeros((len(x), 2)), indices, jax.random.key(seed), config=config)[0])


def draws_at(**values: float | np.ndarray) -> dict[str, jax.Array]:
    """Geometry's draws: in the middle of every range, unmirrored, but for the named ones."""
    names = ("scale", "crop_y", "crop_x", "shift_y", "shift_x", "angle")
    return {k: jnp.atleast_1d(v) for k, v in ({"flip": 0.9} | dict.fromkeys(names, 0.5) | values).items()}


def random_draws(count: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    return {name: jnp.asarray(rng.uniform(size=count), jnp.float32) for name in draws_at()}


# Nothing on ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [1, 3])
def test_all_off_changes_and_compiles_nothing(c: int) -> None:
    x, targets = jnp.asarray(pictures(4, c)), jnp.eye(4)
    out = augment(x, targets, jnp.arange(4), jax.random.key(0), Augment())
    assert out[0] is x and out[1] is targets
    call = functools.partial(augment, config=Augment())
    assert not jax.make_jaxpr(call)(x, targets, jnp.arange(4), jax.random.key(0)).eqns


# Geometry --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [1, 3])
def test_warp_is_scipys(c: int) -> None:
    x, matrices = pictures(8, c), np.asarray(affine_matrices(random_draws(8), SIDE, GEOMETRY))
    out = np.asarray(jax.jit(warp)(x, matrices))
    for image, matrix, result in zip(x, matrices, out, strict=True):
        expected = [
            ndimage.affine_transform(plane, matrix[:, :2], matrix[:, 2], order=1, mode="nearest")
            for plane in np.moveaxis(image, -1, 0)
        ]
        np.testing.assert_allclose(result, np.stack(expected, -1), atol=0.02)
        assert np.abs(result - image).max() > 50  # the matrix did move the picture


def test_matrix_is_the_stated_composition() -> None:
    """Homogeneous matrices multiplied one by one: mirror, turn, scale, move, all about the centre."""
    draws = random_draws(16)
    out = np.asarray(affine_matrices(draws, SIDE, GEOMETRY))
    for i, matrix in enumerate(out):
        u = {name: float(values[i]) for name, values in draws.items()}
        scale, angle = 1 + 0.2 * (2 * u["scale"] - 1), np.deg2rad(25 * (2 * u["angle"] - 1))
        move = [SIDE * (abs(1 - scale) / 2 * (2 * u[f"crop_{a}"] - 1) + 0.15 * (2 * u[f"shift_{a}"] - 1)) for a in "yx"]
        mirror = np.diag([1, -1 if u["flip"] < 0.5 else 1, 1])
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        grow = np.diag([scale, scale, 1])

        def moved(y: float, x: float) -> np.ndarray:
            return np.array([[1, 0, y], [0, 1, x], [0, 0, 1]])

        c = (SIDE - 1) / 2
        expected = moved(c, c) @ moved(*move) @ grow @ turn @ mirror @ moved(-c, -c)
        np.testing.assert_allclose(matrix, expected[:2], atol=1e-4)


def test_matrix_in_the_middle_of_all_ranges_is_the_identity() -> None:
    x = pictures(1, 3)
    matrix = affine_matrices(draws_at(), SIDE, GEOMETRY)
    np.testing.assert_allclose(matrix[0], [[1, 0, 0], [0, 1, 0]], atol=1e-6)
    np.testing.assert_allclose(warp(jnp.asarray(x), matrix), x, atol=1e-3)
    mirrored = warp(jnp.asarray(x), affine_matrices(draws_at(flip=0.1), SIDE, GEOMETRY))
    np.testing.assert_allclose(mirrored, x[:, :, ::-1], atol=1e-3)


@pytest.mark.parametrize("u", [0.0, 0.2, 0.8, 1.0])
def test_crop_keeps_window_and_picture_inside_each_other(u: float) -> None:
    corners = np.array([[-0.5, -0.5, 1], [-0.5, SIDE - 0.5, 1], [SIDE - 0.5, -0.5, 1], [SIDE - 0.5, SIDE - 0.5, 1]])
    seen = []
    for at_y in (0.0, 0.5, 1.0):
        matrix = np.asarray(affine_matrices(draws_at(scale=u, crop_y=at_y, crop_x=1.0), SIDE, Augment(crop=0.3)))[0]
        window = corners @ matrix.T
        low, high = window.min(0) + 0.5, window.max(0) + 0.5
        assert np.allclose(high - low, SIDE * (1 + 0.3 * (2 * u - 1)), atol=1e-3)  # the side's range
        inside = (low >= -1e-3).all() and (high <= SIDE + 1e-3).all()
        around = (low <= 1e-3).all() and (high >= SIDE - 1e-3).all()
        assert inside if u < 0.5 else around
        seen.append(low[0])
    assert np.ptp(seen) > SIDE * 0.15  # and it reaches both ends


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_shift_and_rotation_reach_their_limits(end: float) -> None:
    shift = np.asarray(affine_matrices(draws_at(shift_y=end), SIDE, Augment(shift=0.25)))[0]
    np.testing.assert_allclose(shift, np.array([[1, 0, (2 * end - 1) * 6], [0, 1, 0]]), atol=1e-5)
    turn = np.asarray(affine_matrices(draws_at(angle=end), SIDE, Augment(rotate=30)))[0]
    assert np.rad2deg(np.arctan2(turn[1, 0], turn[0, 0])) == pytest.approx((2 * end - 1) * 30, abs=1e-3)
    np.testing.assert_allclose(turn @ np.array([11.5, 11.5, 1]), np.full(2, 11.5), atol=1e-4)  # about the centre


@pytest.mark.parametrize("c", [1, 3])
def test_flip_mirrors_half_of_the_pictures(c: int) -> None:
    x = pictures(400, c, side=6)
    out = augmented(x, Augment(flip=True))
    mirrored = (out == x[:, :, ::-1]).all((1, 2, 3))
    assert (mirrored | (out == x).all((1, 2, 3))).all()
    assert 160 <= mirrored.sum() <= 240  # four standard deviations


@pytest.mark.parametrize("config", [Augment(crop=0.3), Augment(shift=0.2), Augment(rotate=20.0)])
def test_each_geometric_change_moves_almost_every_picture(config: Augment) -> None:
    x = pictures(32, 1)
    out = augmented(x, config)
    assert (np.abs(out - x).max((1, 2, 3)) > 5).sum() >= 30
    assert len({image.tobytes() for image in out - x}) == 32


# Colour ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [1, 3])
def test_brightness_is_one_factor_a_picture(c: int) -> None:
    x = pictures(64, c, 50, 150)
    ratio = augmented(x, Augment(brightness=0.3)) / x
    factor = ratio.mean((1, 2, 3))
    np.testing.assert_allclose(ratio, np.broadcast_to(factor[:, None, None, None], x.shape), rtol=1e-4)
    assert 0.7 <= factor.min() < 0.75 and 1.25 < factor.max() <= 1.3


@pytest.mark.parametrize("c", [1, 3])
def test_contrast_keeps_the_mean(c: int) -> None:
    x = pictures(64, c, 60, 190)
    mean = x.mean((1, 2, 3), keepdims=True, dtype=np.float64)
    out = augmented(x, Augment(contrast=0.3))
    np.testing.assert_allclose(out.mean((1, 2, 3), keepdims=True), mean, rtol=1e-4)
    factor = out.std((1, 2, 3)) / x.std((1, 2, 3))
    np.testing.assert_allclose(out, mean + (x - mean) * factor[:, None, None, None], atol=0.01)
    assert 0.7 <= factor.min() < 0.75 and 1.25 < factor.max() <= 1.3


def test_saturation_keeps_the_grey() -> None:
    x = pictures(64, 3, 90, 160)
    out = augmented(x, Augment(saturation=0.5))
    grey, grey_out = (v @ np.array([0.299, 0.587, 0.114]) for v in (x, out))
    np.testing.assert_allclose(grey_out, grey, atol=0.01)
    factor = (out - grey[..., None]).std((1, 2, 3)) / (x - grey[..., None]).std((1, 2, 3))
    np.testing.assert_allclose(out, grey[..., None] + (x - grey[..., None]) * factor[:, None, None, None], atol=0.02)
    assert 0.5 <= factor.min() < 0.6 and 1.4 < factor.max() <= 1.5


def test_saturation_leaves_grey_pictures_alone() -> None:
    x = jnp.asarray(pictures(8, 1))
    out, _ = augment(x, jnp.eye(8), jnp.arange(8), jax.random.key(0), Augment(saturation=0.5))
    assert out is x
    colour = np.repeat(x, 3, -1)
    np.testing.assert_allclose(augmented(colour, Augment(saturation=0.5)), colour, atol=1e-3)


@pytest.mark.parametrize("c", [1, 3])
def test_pictures_stay_in_range(c: int) -> None:
    config = dataclasses.replace(ALL_BUT_MIXUP, brightness=0.9, contrast=0.9, mixup=0.4)
    out = augmented(pictures(64, c), config)
    assert out.dtype == np.float32 and np.isfinite(out).all()
    assert out.min() >= 0 and out.max() <= 255 + 1e-3
    # Without the clip some would leave the range; where it works, the limits themselves occur.
    clipped = augmented(pictures(64, c), Augment(brightness=0.9, contrast=0.9))
    assert clipped.min() == 0 and clipped.max() == 255


# Erasing ---------------------------------------------------------------------------------------------------------


def boxes(mask: np.ndarray) -> np.ndarray:
    """(B, S, S) bool, each one filled rectangle -> (B, 4): top, left, height, width."""
    rows, columns = mask.any(2), mask.any(1)
    out = np.stack([rows.argmax(1), columns.argmax(1), rows.sum(1), columns.sum(1)], 1)
    assert (mask.sum((1, 2)) == out[:, 2] * out[:, 3]).all(), "not one filled rectangle"
    return out


@pytest.mark.parametrize("c", [1, 3])
def test_erased_rectangles(c: int) -> None:
    side, count = 64, 1000
    out = augmented(np.full((count, side, side, c), -1, np.float32), Augment(erase=0.3))
    mask = (out != -1).all(-1)
    np.testing.assert_array_equal(mask, (out != -1).any(-1))  # all channels together
    hit = mask.any((1, 2))
    assert 242 <= hit.sum() <= 358  # four standard deviations
    top, left, height, width = boxes(mask[hit]).T
    area, aspect = height * width / side**2, np.log(height / width)
    assert area.min() > 0.02 * 0.85 and area.max() < 0.2 * 1.1  # sides are rounded to pixels
    assert area.mean() == pytest.approx(0.11, abs=0.015) and area.min() < 0.03 and area.max() > 0.19
    assert aspect.min() > np.log(0.3) - 0.2 and aspect.max() < np.log(3.3) + 0.2
    assert aspect.mean() == pytest.approx(0, abs=0.17) and aspect.std() == pytest.approx(0.69, abs=0.1)
    for start, length in ((top, height), (left, width)):  # anywhere, up to the last row and column
        assert start.min() == 0 and (start + length).max() == side
        assert (start + length / 2).mean() == pytest.approx(side / 2, abs=4)
    noise = out[np.broadcast_to(mask[..., None], out.shape)]
    assert stats.kstest(noise[:5000] / 255, "uniform").pvalue > 1e-3


def test_erase_probability_one_hits_every_picture_and_keeps_the_rest() -> None:
    x = pictures(64, 3)
    out = augmented(x, Augment(erase=1.0))
    changed = (out != x).any(-1)
    assert changed.any((1, 2)).all()
    boxes(changed)
    assert not np.array_equal(out[0][changed[0]][:10], out[1][changed[1]][:10])


# Mixup -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [1, 3])
def test_mixup_mixes_picture_and_target_alike(c: int) -> None:
    x, b = pictures(16, c), 16
    images, targets = map(np.asarray, run(x, jnp.eye(b), jnp.arange(b), jax.random.key(1), config=Augment(mixup=1.0)))
    own, other = targets[np.arange(b), np.arange(b)], targets[np.arange(b), np.arange(b) - 1]
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(own + other, 1, atol=1e-6)
    assert ((own > 0) & (own < 1)).all() and len(set(own.tolist())) == b
    expected = own[:, None, None, None] * x + other[:, None, None, None] * x[np.arange(b) - 1]
    np.testing.assert_allclose(images, expected, atol=1e-3)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_shares_follow_the_beta_distribution(alpha: float) -> None:
    b = 2000
    labels = jnp.eye(2)[jnp.arange(b) % 2]
    _, targets = run(jnp.zeros((b, 2, 2, 1)), labels, jnp.arange(b), jax.random.key(2), config=Augment(mixup=alpha))
    own = np.asarray(targets)[np.arange(b), np.arange(b) % 2]
    assert stats.kstest(own, stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_only_mixup_changes_targets() -> None:
    x, labels = pictures(8, 3), jnp.eye(8) * 0.9 + 0.0125
    _, targets = run(x, labels, jnp.arange(8), jax.random.key(0), config=ALL_BUT_MIXUP)
    np.testing.assert_array_equal(targets, labels)


# What the random numbers depend on -------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [1, 3])
def test_place_and_company_in_the_batch_do_not_matter(c: int) -> None:
    x, indices = pictures(12, c), np.arange(100, 112, dtype=np.int32)
    out = augmented(x, ALL_BUT_MIXUP, indices)
    order = np.random.default_rng(0).permutation(12)
    np.testing.assert_allclose(augmented(x[order], ALL_BUT_MIXUP, indices[order]), out[order], atol=1e-3)
    np.testing.assert_allclose(augmented(x[4:7], ALL_BUT_MIXUP, indices[4:7]), out[4:7], atol=1e-3)


def test_mixup_share_belongs_to_the_example() -> None:
    order = np.random.default_rng(0).permutation(8)

    def shares(indices: np.ndarray) -> np.ndarray:
        targets = run(jnp.zeros((8, 2, 2, 1)), jnp.eye(8), indices, jax.random.key(0), config=Augment(mixup=1.0))[1]
        return np.diagonal(np.asarray(targets))

    np.testing.assert_allclose(shares(order), shares(np.arange(8))[order], atol=1e-6)


def test_same_key_and_index_same_result_and_otherwise_not() -> None:
    x = np.repeat(pictures(1, 3), 4, 0)
    indices = np.array([5, 5, 6, 7], np.int32)
    first, again, next_step = (augmented(x, ALL_BUT_MIXUP, indices, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(first[0], first[1], atol=1e-3)
    assert np.abs(first[0] - first[2]).max() > 5 and np.abs(first[2] - first[3]).max() > 5
    assert (np.abs(first - next_step).max((1, 2, 3)) > 5).all()


def test_turning_a_change_on_leaves_the_others_numbers() -> None:
    x = pictures(16, 3, 60, 160)
    alone = augmented(x, Augment(brightness=0.2))
    with_flip = augmented(x, Augment(brightness=0.2, flip=True))
    mirrored = np.abs(with_flip - alone[:, :, ::-1]).max((1, 2, 3)) < 1e-3
    assert (mirrored | (np.abs(with_flip - alone).max((1, 2, 3)) < 1e-3)).all()
    assert 0 < mirrored.sum() < 16
