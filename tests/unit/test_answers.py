"""Answers picture by picture: the same as counted batch by batch, kept in a file that is never unpickled."""

import dataclasses
import pickle

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from sklearn import metrics as sk  # type: ignore[import-untyped]

from data_pipelines import splits
from data_pipelines.common.errors import DataError
from data_pipelines.labels import EMOTIONS
from expressnet_jax.config import Clock
from expressnet_jax.config import files as config_files
from expressnet_jax.evaluation import answers as answering
from expressnet_jax.evaluation.answers import Answers
from expressnet_jax.models import preprocess
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.runs import optimizer
from expressnet_jax.runs import state as states
from tests.conftest import TINY


def made_up(n=20, c=5, votes=True, without=()):
    rng = np.random.default_rng(0)
    logits, flipped = rng.standard_normal((2, n, c)).astype(np.float32)
    logits[:, list(without)] = flipped[:, list(without)] = -np.inf
    label = rng.choice([i for i in range(c) if i not in without], n).astype(np.int32)
    p = rng.dirichlet(np.ones(4), n).astype(np.float32)
    routing = {"moe_cnn": (p, np.argsort(-p, 1)[:, :2].astype(np.int32))}
    shares = rng.dirichlet(np.ones(c), n).astype(np.float32) if votes else None
    return Answers(tuple(EMOTIONS[:c]), np.arange(n, dtype=np.int32), label, logits, flipped, routing, shares)


def equal(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, dataclasses.asdict(a), dataclasses.asdict(b)))


@pytest.fixture(scope="module")
def network(data_dir):
    """(config, state of a network that was never trained, a split whose last batch is padded, mesh)."""
    config = config_files.load(TINY, [("batch_size", "24")])
    mesh = meshes.for_evaluation(config)
    state = states.init(config, optimizer.create(config, Clock(24, 24, 1)), mesh)
    return config, state, splits.open_split("synthetic_faces/tiny", "test", EMOTIONS, data_dir=str(data_dir)), mesh


def test_answers_are_those_that_the_loop_counts(network):
    config, state, split, mesh = network
    assert len(split) % config.batch_size
    with jax.set_mesh(mesh):
        found = answering.collect(config, answering.program(config, mesh), state, split, mesh)
        counted = answering.evaluate(config, answering.counter(config, mesh), state, split, mesh, each=list)
    summary = answering.summarize(found, config.label_smoothing)
    assert counted.pop("silent").keys() == {"cnnfe1", "cnnfe2", "resnet", "fuse", "moe_cnn", "moe_expression"}
    assert summary.pop("loss") == pytest.approx(counted.pop("loss"), rel=1e-5)
    assert counted.pop("split") == split.name and summary == counted
    assert found.index.tolist() == split.numbers.tolist() and found.label.tolist() == split.labels().tolist()


def test_outputs_that_are_the_same_for_every_picture_are_counted(network):
    config, state, split, mesh = network

    def killed(path, leaf):
        dead = jax.tree_util.keystr(path).endswith("['cnnfe1']['dense']['bias']")
        return leaf.at[:10].set(-1e6) if dead else leaf

    state = jax.tree_util.tree_map_with_path(killed, state)
    with jax.set_mesh(mesh):
        counted = answering.evaluate(config, answering.counter(config, mesh), state, split, mesh, each=list)
    images = split.load(np.arange(len(split)))["image"]
    model = nnx.merge(states.graph(config), *states.weights(state))
    features = model(preprocess.preprocess(images, config.model.image_size, config.preprocess)).features
    for part, (silent, size) in counted["silent"].items():
        values = np.asarray(features[part])
        assert (int((np.ptp(values, 0) == 0).sum()), values.shape[1]) == (silent, size), part
    assert 10 <= counted["silent"]["cnnfe1"][0] < counted["silent"]["cnnfe1"][1] == 16
    assert counted["silent"]["cnnfe2"][0] == 0


def test_the_mirrored_picture_and_the_routing_are_the_networks_own(network):
    config, state, split, mesh = network
    found = answering.collect(config, answering.program(config, mesh), state, split, mesh)
    model = nnx.merge(states.graph(config), *states.weights(state))
    images = split.load(np.arange(5))["image"]
    mirrored = model(preprocess.preprocess(np.flip(images, 2), config.model.image_size, config.preprocess))
    plain = model(preprocess.preprocess(images, config.model.image_size, config.preprocess))
    np.testing.assert_allclose(found.flipped[:5], mirrored.logits, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.logits[:5], plain.logits, rtol=1e-3, atol=1e-4)
    assert found.routing
    for layer, (probabilities, chosen) in found.routing.items():
        np.testing.assert_allclose(probabilities[:5], plain.routing[layer].probabilities, rtol=1e-3, atol=1e-5)
        assert (chosen[:5] == np.asarray(plain.routing[layer].chosen)).all()


def test_a_class_that_the_data_set_lacks_is_never_an_answer(network):
    config, state, split, mesh = network
    few = split.part(split.labels() != 2, "without one class")
    lacking = dataclasses.replace(few, label_map=np.where(few.label_map == 2, -1, few.label_map))
    found = answering.collect(config, answering.program(config, mesh), state, lacking, mesh)
    assert found.shared.tolist() == [0, 1, 3, 4, 5, 6, 7]
    for logits in (found.logits, found.flipped):
        assert logits.dtype == np.float32 and np.isneginf(logits[:, 2]).all()
    counted = answering.evaluate(config, answering.counter(config, mesh), state, lacking, mesh, each=list)
    summary = answering.summarize(found, config.label_smoothing)
    assert summary["confusion"] == counted["confusion"]
    assert summary["loss"] < counted["loss"]  # that is over all classes


def test_answers_that_are_not_finite_are_refused(network):
    config, state, split, mesh = network
    broken = state._replace(params=jax.tree.map(lambda p: p * np.nan, state.params), ema={})
    with pytest.raises(DataError, match=f"to {len(split)} of {len(split)} examples"):
        answering.collect(config, answering.program(config, mesh), broken, split, mesh)

    def mirrored(*batch):
        rows = answering.program(config, mesh)(*batch)
        return rows | {"flipped": rows["flipped"].at[0].set(np.nan)}

    with pytest.raises(DataError, match="are not finite"):
        answering.collect(config, mirrored, state, split, mesh)


def test_the_summary_is_scikit_learns_and_the_loss_optaxs():
    found = made_up(without=(2,))
    summary = answering.summarize(found, 0.1)
    shared = [0, 1, 3, 4]
    assert summary["classes"] == [EMOTIONS[i] for i in shared]
    assert summary["confusion"] == sk.confusion_matrix(found.label, found.predicted, labels=shared).tolist()
    places = np.searchsorted(shared, found.label)
    targets = optax.smooth_labels(jax.nn.one_hot(places, 4), 0.1)
    losses = optax.softmax_cross_entropy(found.logits[:, shared], targets)
    assert summary["loss"] == pytest.approx(float(losses.mean()), rel=1e-5)


@pytest.mark.parametrize("votes", [True, False])
def test_a_file_holds_what_was_saved(tmp_path, votes):
    found = made_up(votes=votes, without=(1,))
    answering.save(found, tmp_path / "answers.npz")
    assert equal(answering.load(tmp_path / "answers.npz"), found)
    assert [path.name for path in tmp_path.iterdir()] == ["answers.npz"]


class Unpickled:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_files_that_are_no_answers_are_one_line_and_nothing_is_unpickled(tmp_path):
    path, trace = tmp_path / "answers.npz", tmp_path / "unpickled"
    answering.save(made_up(), path)
    whole = path.read_bytes()
    fields = {f.name: getattr(made_up(), f.name) for f in dataclasses.fields(Answers) if f.name != "routing"}
    objects = np.empty(1, object)
    objects[0] = Unpickled(trace)
    bad = {
        "empty": b"", "cut": whole[: len(whole) // 2], "text": b"hello", "pickle": pickle.dumps(Unpickled(trace)),
    }  # fmt: skip
    for name, data in bad.items():
        path.write_bytes(data)
        with pytest.raises(DataError) as raised:
            answering.load(path)
        assert "\n" not in str(raised.value), name
    label, logits, (p, chosen) = fields["label"], fields["logits"], made_up().routing["moe_cnn"]
    fields |= {"moe_cnn/probabilities": p, "moe_cnn/chosen": chosen}
    with path.open("wb") as file:
        np.savez(file, **fields)
    assert equal(answering.load(path), made_up())
    lacking = np.where(np.arange(logits.shape[1]) == label[0], np.float32(-np.inf), logits)
    for changes in (
        {"label": objects}, {"label": label[:-1]}, {"logits": np.zeros(3)}, {"label": -label - 1}, {"more": label},
        {"label": label.astype(str)}, {"label": label * 1.0}, {"label": label[0]}, {"logits": logits.astype(str)},
        {"logits": logits * np.nan}, {"logits": logits - np.inf}, {"flipped": logits * np.nan}, {"votes": p[:3]},
        {"moe_cnn/chosen": chosen[:5]}, {"moe_cnn/chosen": chosen[:, 0]}, {"moe_cnn/chosen": chosen + 4},
        {"moe_cnn/chosen": chosen - 4}, {"logits": lacking},
        {"moe_cnn/chosen": chosen[:, :0]}, {"moe_cnn/probabilities": p * np.nan}, {"moe_cnn/probabilities": p[0]},
    ):  # fmt: skip
        with path.open("wb") as file:
            np.savez(file, **(fields | changes))
        with pytest.raises(DataError):
            answering.load(path)
    with pytest.raises(DataError):
        answering.load(tmp_path / "missing.npz")
    assert not trace.exists()


def test_mutated_files_never_give_anything_but_answers_or_one_line(tmp_path):
    path, rng = tmp_path / "answers.npz", np.random.default_rng(1)
    answering.save(made_up(), path)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(300):
        changed = whole.copy()
        changed[rng.integers(len(whole), size=3)] = rng.integers(256, size=3)
        path.write_bytes(changed[: rng.integers(1, len(whole) + 1)].tobytes())
        try:
            answering.load(path)
        except DataError as error:
            assert "\n" not in str(error)


def test_a_picture_that_is_in_another_split_too_is_found_whatever_its_file(data_dir):
    test, train = (
        splits.open_split("synthetic_faces/tiny", s, EMOTIONS, data_dir=str(data_dir)) for s in ("test", "train")
    )
    assert not splits.repeated(test, [train]).any()
    both = dataclasses.replace(train, records=_Joined([train.records, test.records]))
    both = dataclasses.replace(both, numbers=np.array([0, 1, len(train) + 3, len(train) + 5]))
    assert np.flatnonzero(splits.repeated(test, [both])).tolist() == [3, 5]


class _Joined:
    def __init__(self, parts):
        self.rows = [part[i] for part in parts for i in range(len(part))]

    def __getitems__(self, numbers):
        return [self.rows[i] for i in numbers]
