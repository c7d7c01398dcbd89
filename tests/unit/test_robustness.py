"""Accuracy on corrupted pictures against scikit-learn's, from pictures that are corrupted and answered one by one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from sklearn import metrics as sk

from data_pipelines import splits
from data_pipelines.labels import EMOTIONS
from expressnet_jax.config import Clock
from expressnet_jax.config import files as config_files
from expressnet_jax.evaluation import robustness
from expressnet_jax.evaluation.of_run import text_of
from expressnet_jax.figures import pictures, plots
from expressnet_jax.models.preprocess import preprocess
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.runs import optimizer as optimizers
from expressnet_jax.runs import state as states
from tests.conftest import TINY

MISSING = 7  # a class that the data set is made to lack


def random_state(config, mesh):
    """Drawn by NumPy, which is sooner done than compiling the state's own start."""
    rng = np.random.default_rng(0)

    def drawn(leaf):
        fan_in = np.prod(leaf.shape[:-1])
        return rng.uniform(0.5, 1.5, leaf.shape) if leaf.ndim < 2 else rng.normal(0, fan_in**-0.5, leaf.shape)

    shapes = states.abstract(config, optimizers.create(config, Clock(16, 160, 24)), mesh)
    return jax.tree.map(lambda leaf: jax.device_put(drawn(leaf).astype(leaf.dtype), leaf.sharding), shapes)


@pytest.fixture(scope="module")
def setting(data_dir):
    """A random network with lively answers, its mesh, and 20 examples of 7 of its 8 classes."""
    config = config_files.load(TINY, [("model.network", "backbone"), ("ema.decay", "0")])
    mesh = meshes.for_evaluation(config)
    state = random_state(config, mesh)
    split = splits.open_split("synthetic_faces/tiny", "test", EMOTIONS, data_dir=str(data_dir))
    few = split.part(split.labels() != MISSING, "seven classes")
    few = dataclasses.replace(
        few,
        label_map=np.where(few.label_map == MISSING, -1, few.label_map),
        numbers=few.numbers[np.linspace(0, len(few) - 1, 20).astype(int)],
    )
    # Logits about their mean: a network that is not trained would give one answer to everything.
    head = state.params["head"]
    head["bias"] = head["bias"] - logits(config, state, few.load(np.arange(20))["image"]).mean(0)
    return config, state, few, mesh


@pytest.fixture(scope="module")
def measured(setting):
    config, state, split, mesh = setting
    with jax.set_mesh(mesh):
        return robustness.measure(config, state, split, mesh)


def logits(config, state, images):
    return _logits(config)(state.params, state.batch_stats, images)


@functools.cache
def _logits(config):
    graph = states.graph(config)

    def answer(params, stats, images):
        return nnx.merge(graph, params, stats)(preprocess(images, config.model.image_size, config.preprocess)).logits

    return jax.jit(answer)


def test_accuracy_and_f1_are_those_of_scikit_learn(setting, measured):
    config, state, split, _ = setting
    batch = split.load(np.arange(20))
    corrupt = jax.jit(robustness.stored, static_argnums=0)
    expected = []
    for name in ("occlusion", "light", "jpeg"):
        for strength in range(6):
            images = [corrupt(name, batch["image"][i : i + 1], batch["index"][i : i + 1], strength) for i in range(20)]
            guess = np.asarray(logits(config, state, jnp.concatenate(images)).at[:, MISSING].set(-jnp.inf)).argmax(1)
            f1 = sk.f1_score(batch["label"], guess, average="macro", zero_division=0)
            expected.append((sk.accuracy_score(batch["label"], guess), f1))
            row = measured["corruptions"][name]
            assert (row["accuracy"][strength], row["macro_f1"][strength]) == pytest.approx(expected[-1]), name
    assert len(set(expected)) > 5


def test_the_means_are_over_what_is_corrupted(measured):
    assert measured["strengths"] == [0, 1, 2, 3, 4, 5] and measured["examples"] == 20
    rows = [row["accuracy"] for row in measured["corruptions"].values()]
    assert [len(row) for row in rows] == [6] * len(robustness.CORRUPTIONS)
    mean = np.mean([row[1:] for row in rows])
    assert measured["mean_accuracy"] == pytest.approx(mean)
    assert measured["relative"] == pytest.approx(mean / rows[0][0])


def made_up(accuracies):
    rows = {n: {"accuracy": a, "macro_f1": a} for n, a in zip(robustness.CORRUPTIONS, accuracies, strict=True)}
    return {"strengths": list(range(6)), "examples": 1234, "corruptions": rows, "mean_accuracy": 0.5, "relative": 0.625}


def test_the_text_has_a_line_for_each_corruption():
    lines = text_of("robustness", made_up([[0.8, 0.7, 0.6, 0.5, 0.4, 0.3]] * 7)).splitlines()
    assert "1,234 examples" in lines[0] and lines[1].split()[:6] == list("012345")
    for name, corruption in robustness.CORRUPTIONS.items():
        assert f"{name} 80.0 70.0 60.0 50.0 40.0 30.0 50.0 {corruption.description}".split() in [
            line.split() for line in lines
        ]
    assert lines[-1] == "mean 50.0 %, 0.625 of the accuracy at strength 0"


# Figures


def pixels(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def test_the_grid_shows_the_corrupted_pictures(tmp_path):
    picture = np.full((16, 16, 1), 255, np.uint8)
    pictures.corruptions_figure(robustness.examples(picture), robustness.STRENGTHS, tmp_path / "a.png")
    values = pixels(tmp_path / "a.png")
    assert 400 < values.shape[0] < 3000 and 400 < values.shape[1] < 3000
    light = np.asarray(robustness.stored("light", jnp.asarray(picture[None]), jnp.array([1]), 5))[0]
    for level in (light.min(), light.max()):
        assert (np.abs(values - level).max(-1) == 0).sum() > 20
    pictures.corruptions_figure(robustness.examples(picture // 2), robustness.STRENGTHS, tmp_path / "b.png")
    assert (pixels(tmp_path / "b.png") != values).any()


def test_only_pictures_are_corrupted():
    for wrong in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 2), np.uint8), np.zeros((8, 8, 3))):
        with pytest.raises(ValueError, match="must be uint8"):
            robustness.examples(wrong)


@pytest.mark.parametrize("end", [0.0, 0.4, 0.8])
def test_each_curve_keeps_a_label_of_its_own_where_all_are_equal(tmp_path, end):
    """The curves hide each other, but the lines to their labels part."""
    plots.robustness_figure(made_up([list(np.linspace(0.8, end, 6))] * 7), tmp_path / "a.png")
    values = pixels(tmp_path / "a.png")
    for colour in ("0072B2", "D55E00", "009E73", "CC79A7", "E69F00", "56B4E9"):
        rgb = [int(colour[i : i + 2], 16) for i in (0, 2, 4)]
        assert (np.abs(values - rgb).sum(-1) < 60).any(), colour
    plots.robustness_figure(made_up([list(np.linspace(0.8, 0.3, 6))] * 7), tmp_path / "b.png")
    assert (pixels(tmp_path / "b.png") != values).any()
