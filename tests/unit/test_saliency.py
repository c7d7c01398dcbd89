"""Saliency of the branches against finite differences, the gradient of the whole network, and what must be zero."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from expressnet_jax.config import files as config_files
from expressnet_jax.evaluation import saliency
from expressnet_jax.figures.pictures import saliency_figure
from expressnet_jax.models import canonical, preprocess
from tests import networks
from tests.conftest import TINY

SMALL = {
    "model.image_size": "16", "model.resnet.stem_pool": "false", "model.resnet.blocks": "1",
    "model.resnet.filters": "4", "model.convolution": "direct", "moe.router": "soft",
}  # fmt: skip
BRANCHES = ("cnnfe1", "cnnfe2", "resnet")


@functools.cache
def made(without=""):
    """A config and a network of its; soft routing, so that nothing jumps."""
    c = config_files.load(TINY, [*SMALL.items(), ("model.without", without)])
    return c, networks.network(c)


def maps(c, model, pictures, predicted, index):
    return saliency.maps(c, networks.state(c, model), pictures, np.array(predicted), np.array(index))


def pictures(count=3, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 12, 20, channels), np.uint8)


def flat(*levels, channels=3):
    """Pictures of one grey level each: noise is a part of a picture's range, so these get none."""
    return np.broadcast_to(np.array(levels, np.uint8)[:, None, None, None], (len(levels), 12, 20, channels)).copy()


@functools.cache
def of_three():
    return maps(*made(), pictures(), [1, 4, 1], [7, 2, 100])


def test_each_branch_has_its_finite_differences(monkeypatch):
    monkeypatch.setattr(saliency, "_NOISE", 0.0)  # a difference is that of one picture
    c, model = made()
    levels, predicted = pictures(2), [3, 5]
    found = maps(c, model, levels, predicted, [0, 1])

    @jax.jit
    def logits(views):
        seen = {name: preprocess.preprocess(view, 16, c.preprocess) for name, view in views.items()}
        return model.classify(model.features(seen)).logits

    same = dict.fromkeys(BRANCHES, levels.astype(np.float32))
    for name in BRANCHES:
        for pattern in np.random.default_rng(1).standard_normal((3, 12, 20)):
            # Along the map itself, where the logit changes most, and a little aside.
            along = np.sign(found[name]) * (1 + 0.5 * pattern)
            step = 0.05 * along[..., None]
            up, down = (logits(same | {name: jnp.asarray(same[name] + s, jnp.float32)}) for s in (step, -step))
            change = (np.asarray(up) - np.asarray(down))[[0, 1], predicted] / 0.1
            np.testing.assert_allclose((found[name] * along).sum((1, 2)), change, rtol=0.01)


def test_the_branches_add_up_to_the_gradient_of_the_whole_network():
    c, model = made()
    levels, predicted = flat(30, 120, 230), np.array([0, 6, 7])
    found = maps(c, model, levels, predicted, [0, 1, 2])

    @jax.jit
    @jax.grad
    def whole(x):
        return model(preprocess.preprocess(x, 16, c.preprocess)).logits[jnp.arange(3), predicted].sum()

    wanted = np.asarray(whole(jnp.asarray(levels, jnp.float32))).sum(-1)  # one grey level in all channels
    np.testing.assert_allclose(sum(found.values()), wanted, atol=1e-5 * np.abs(wanted).max())


def test_a_picture_has_the_same_map_in_any_company_and_noise_of_its_own():
    # Again and again the second of three, more often than is computed at once; the last one with its own number.
    again = maps(*made(), np.repeat(pictures()[1:2], 10, 0), [4] * 10, [*range(10, 19), 2])
    assert set(again) == set(of_three()) == set(BRANCHES)
    for name, values in of_three().items():
        assert values.shape == (3, 12, 20) and again[name].shape == (10, 12, 20) and values.dtype == np.float32
        np.testing.assert_allclose(again[name][9], values[1], atol=1e-5 * np.abs(values[1]).max())
        differences = np.abs(again[name][:9] - values[1]).max((1, 2))
        assert (differences > 1e-2 * np.abs(values[1]).max()).all(), differences


def test_the_mean_over_noise_is_that_of_noise_a_tenth_as_wide_as_the_picture():
    """Against the mean over other noise, drawn by NumPy: nearer to it than to means over wider and no noise."""
    c, model = made()
    picture = pictures(1)
    found = maps(c, model, np.repeat(picture, 24, 0), [4] * 24, range(24))
    mine = sum(found.values()).mean(0)  # over 24 x 16 noisy copies

    @jax.jit
    @jax.grad
    def whole(x):
        return model(preprocess.preprocess(x, 16, c.preprocess)).logits[:, 4].mean()

    drawn = np.random.default_rng(2).standard_normal((384, 12, 20, 3), np.float32)
    spread = float(picture.max()) - float(picture.min())
    others = {
        part: np.asarray(whole(jnp.asarray(picture + part * spread * drawn))).sum((0, 3)) for part in (0.0, 0.1, 0.3)
    }
    distances = {part: float(np.linalg.norm(mine - other)) for part, other in others.items()}
    assert min(distances, key=distances.get) == 0.1
    assert distances[0.1] < 0.5 * min(distances[0.0], distances[0.3]), distances


def test_a_branch_that_the_head_does_not_read_has_no_saliency():
    c, model = made()
    weights = canonical.to_canonical(model)
    weights["head/kernel"] = np.concatenate([np.zeros((16, 8), np.float32), weights["head/kernel"][16:]])  # of moe_cnn
    weights["fuse/dense/kernel"] = np.concatenate([np.zeros((8, 16), np.float32), weights["fuse/dense/kernel"][8:]])
    found = maps(c, networks.filled(c, weights), pictures(), [1, 4, 1], [7, 2, 100])
    assert not found["cnnfe1"].any() and not found["cnnfe2"].any() and found["resnet"].any()
    assert saliency.shares(found) == {"cnnfe1": 0, "cnnfe2": 0, "resnet": 1}
    assert all(values.any() for values in of_three().values())


@pytest.mark.parametrize(
    ("without", "left"), [("cnnfe1", {"cnnfe2", "resnet"}), ("cnnfe2,resnet", {"cnnfe1"}), ("backbone", {"resnet"})]
)
def test_a_branch_that_is_not_there_has_no_map(without, left):
    change = ("model.network", "backbone") if without == "backbone" else ("model.without", without)
    c = config_files.load(TINY, [*SMALL.items(), change])
    found = maps(c, networks.network(c), pictures(1, channels=1), [0], [0])
    assert set(found) == left and all(values.any() for values in found.values())
    assert sum(saliency.shares(found).values()) == pytest.approx(1)


def test_shares_by_hand():
    found = {"a": np.array([[[1.0, -2.0]], [[0, 0]], [[0, 0]]]), "b": np.array([[[0.5, 0.5]], [[4, -4]], [[0, 0]]])}
    assert saliency.shares(found) == pytest.approx({"a": 3 / 8, "b": 5 / 8})  # (3/4 + 0) / 2, (1/4 + 1) / 2
    assert saliency.shares({"a": np.zeros((2, 3, 3)), "b": np.zeros((2, 3, 3))}) == {"a": 0.0, "b": 0.0}


def draw(images, found, names, path):
    saliency_figure(images, found, saliency.parts(found), saliency.shares(found), names, path)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_figure_has_a_row_a_picture_and_shows_where_a_map_is_large(channels, tmp_path):
    here = np.zeros((2, 12, 20), np.float32)
    here[1, 8:, :6] = -3
    found = {"cnnfe1": np.zeros_like(here), "resnet": here}
    draw(flat(0, 0, channels=channels), found, ["happiness", "fear $x"], tmp_path / "a" / "maps.png")
    drawn = np.asarray(Image.open(tmp_path / "a" / "maps.png").convert("RGB")).astype(int)
    height, width, _ = drawn.shape
    yellow = (drawn[..., 0] > 240) & (drawn[..., 1] > 240) & (drawn[..., 2] < 200)  # inferno's last colour
    rows, columns = np.nonzero(yellow)
    assert len(rows) and rows.min() > 0.55 * height and columns.min() > 0.66 * width  # last row, last column
    assert columns.max() < 0.66 * width + 0.34 * width * 0.4  # its left part


def test_what_does_not_fit_is_refused(tmp_path):
    c, model = made()
    with pytest.raises(ValueError, match=r"uint8 \(N, H, W, 1 or 3\), got float32"):
        maps(c, model, pictures().astype(np.float32), [0, 0, 0], [0, 1, 2])
    with pytest.raises(ValueError, match=r"3 pictures, predicted of shape \(2,\)"):
        maps(c, model, pictures(), [0, 0], [0, 1, 2])
    with pytest.raises(ValueError, match=r"3 pictures, 2 names, maps of \[3\]"):
        draw(pictures(), {"cnnfe1": np.zeros((3, 12, 20))}, ["a", "b"], tmp_path / "x.png")
