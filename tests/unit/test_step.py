"""One training step: what it counts, averages, skips, and what its randomness depends on."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from expressnet_jax.config import Clock
from expressnet_jax.config import files as config_files
from expressnet_jax.evaluation import answers as answering
from expressnet_jax.models import expressnet
from expressnet_jax.moe.layer import MoE
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.runs import optimizer as optimizers
from expressnet_jax.runs import state as states
from expressnet_jax.train import step as steps
from tests.conftest import TINY

PLAIN = [(f"augment.{key}", value) for key, value in
         {"flip": "false", "crop": "0", "shift": "0", "rotate": "0", "brightness": "0", "erase": "0",
          "mixup": "0"}.items()] + [("model.conv_dropout", "0"), ("model.dense_dropout", "0")]  # fmt: skip


def config(*changes):
    return config_files.load(TINY, changes)


@functools.cache  # several tests take the same step, and compiling it takes longer than they do
def setup(c):
    clock = Clock(c.batch_size, 160, 24)
    optimizer = optimizers.create(c, clock)
    step = jax.jit(steps.train_step(c, states.graph(c), optimizer, optimizers.schedule(c, clock)))
    return step, states.init(c, optimizer, meshes.create(c))


def batch(seed=0, count=16):
    rng = np.random.default_rng(seed)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (count, 48, 48, 3)), jnp.uint8),
        "label": jnp.asarray(rng.integers(0, 8, count), jnp.int32),
        "mask": jnp.ones(count, bool),
        "index": jnp.arange(count, dtype=jnp.int32),
    }


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.fixture(scope="module")
def random_run():
    c = config()
    return c, *setup(c)


def test_a_step_counts_its_examples_and_moves_everything(random_run):
    c, step, state = random_run
    after, sums = step(state, steps.zero_sums(c), batch())
    after, sums = step(after, sums, batch(1))
    assert int(after.step) == 2 and float(sums["count"]) == 32 and float(sums["steps"]) == 2
    assert float(sums["moe_cnn/load"].sum()) == 64  # two experts for each image
    assert 0 <= float(sums["correct"]) <= 32 and float(sums["gradient_norm"]) > 0
    for part in ("params", "batch_stats", "ema", "opt_state"):
        assert not equal(getattr(after, part), getattr(state, part))


def test_randomness_depends_on_seed_and_step_only(random_run):
    c, step, state = random_run
    one, two = step(state, steps.zero_sums(c), batch()), step(state, steps.zero_sums(c), batch())
    assert equal(one, two)
    later = step(state._replace(step=state.step + 1), steps.zero_sums(c), batch())
    reseeded = step(state._replace(key=state.key + 1), steps.zero_sums(c), batch())
    assert not equal(one[0].params, later[0].params) and not equal(one[0].params, reseeded[0].params)


def test_the_loss_is_the_smoothed_cross_entropy():
    c = config(*PLAIN)
    step, state = setup(c)
    _, sums = step(state, steps.zero_sums(c), batch())
    from flax import nnx

    from expressnet_jax.models.preprocess import preprocess

    model = nnx.merge(states.graph(c), state.params, state.batch_stats)
    logits = model(preprocess(batch()["image"], 32, c.preprocess), train=True).logits
    log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)
    targets = 0.9 * np.eye(8)[np.asarray(batch()["label"])] + 0.1 / 8
    assert float(sums["loss"]) == pytest.approx(float(-(targets * log_p).sum()), rel=1e-5)


def test_a_gradient_that_is_not_finite_changes_nothing_but_the_counts(random_run):
    c, step, state = random_run
    broken = jax.tree.map(lambda x: x, state)
    broken.params["head"]["bias"] = broken.params["head"]["bias"] * jnp.nan
    after, sums = step(broken, steps.zero_sums(c), batch())
    assert equal(after._replace(step=broken.step, nonfinite=broken.nonfinite).batch_stats, broken.batch_stats)
    assert equal(after.opt_state, broken.opt_state)
    assert after.nonfinite.tolist() == [1, 1] and int(after.step) == 1
    assert float(sums["count"]) == 0 and np.isfinite(float(sums["loss"]))
    again, _ = step(after, sums, batch())
    assert again.nonfinite.tolist() == [2, 2]
    healed, _ = step(again._replace(params=state.params), sums, batch())
    assert healed.nonfinite.tolist() == [0, 2]


def test_accumulation_averages_the_micro_batches():
    """With every example there twice, in both micro-batches, accumulation gives the gradient of the half batch."""
    whole, half = config(*PLAIN, ("optimizer.accumulate", "2")), config(*PLAIN, ("batch_size", "8"))
    part = batch(count=8)
    twice = {key: jnp.repeat(value, 2, axis=0) for key, value in part.items()}
    step, state = setup(whole)
    accumulated, sums = step(state, steps.zero_sums(whole), twice)
    step, state = setup(half)
    alone, half_sums = step(state, steps.zero_sums(half), part)
    assert float(sums["gradient_norm"]) == pytest.approx(float(half_sums["gradient_norm"]), rel=1e-4)
    assert float(sums["loss"]) == pytest.approx(2 * float(half_sums["loss"]), rel=1e-5)
    for a, b in zip(jax.tree.leaves(accumulated.params), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_allclose(a, b, atol=3e-5)


def test_the_average_follows_parameters_and_statistics(random_run):
    c, step, state = random_run
    after, _ = step(state._replace(step=jnp.asarray(1000, jnp.int32)), steps.zero_sums(c), batch())
    for part in ("params", "batch_stats"):
        wanted = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, getattr(state, part), getattr(after, part))
        for a, b in zip(jax.tree.leaves(after.ema[part]), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert states.weights(after)[0] is after.ema["params"]


def test_bfloat16_stays_close_and_keeps_float32_parameters():
    settings = [config(*PLAIN, ("model.dtype", dtype)) for dtype in ("float32", "bfloat16")]
    losses = []
    for c in settings:
        step, state = setup(c)
        after, sums = step(state, steps.zero_sums(c), batch())
        assert {leaf.dtype for leaf in jax.tree.leaves((after.params, after.batch_stats))} == {jnp.dtype("float32")}
        losses.append(float(sums["loss"]))
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=2e-2)


def test_evaluation_counts_no_padding_and_does_not_depend_on_the_batch():
    c = config()
    c = dataclasses.replace(c, ema=dataclasses.replace(c.ema, decay=0.0))
    state = setup(c)[1]
    answer, count = jax.jit(answering.step(c)), answering.counter(c, meshes.create(c))
    full, every = batch(), np.ones(8, bool)
    padded, few = {**full, "mask": jnp.arange(16) < 5}, {key: value[:5] for key, value in full.items()}
    confusion, loss, ranges = count(state, padded, every)
    alone = count(state, few, every)
    assert int(confusion.sum()) == 5
    np.testing.assert_array_equal(confusion, alone[0])
    np.testing.assert_allclose(loss, alone[1], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ranges, alone[2])
    logits = answer(state, few)["logits"]
    np.testing.assert_allclose(answer(state, padded)["logits"][:5], logits, atol=1e-6)
    np.testing.assert_array_equal(confusion.sum(1), np.bincount(np.asarray(full["label"][:5]), minlength=8))
    targets = optax.smooth_labels(jax.nn.one_hot(few["label"], 8), c.label_smoothing)
    np.testing.assert_allclose(loss, optax.softmax_cross_entropy(logits, targets).sum(), rtol=1e-5)


def test_a_class_that_the_data_set_lacks_is_never_predicted():
    c = config()
    state = setup(c)[1]
    count = answering.counter(c, meshes.create(c))
    free, loss, _ = count(state, batch(), np.ones(8, bool))
    known = np.ones(8, bool)
    known[np.argmax(np.asarray(free).sum(0))] = False  # the class that it predicts most
    confusion, same, _ = count(state, batch(), known)
    assert int(np.asarray(confusion)[:, ~known].sum()) == 0 and int(confusion.sum()) == 16
    expected = np.where(known, jax.jit(answering.step(c))(state, batch())["logits"], -np.inf).argmax(1)
    np.testing.assert_array_equal(confusion.sum(0), np.bincount(expected, minlength=8))
    assert loss == same  # it is over all classes, as in training


class Routed(nnx.Module):
    """Two routed layers and a head without BatchNorm, whose statistics would depend on the size of a micro-batch."""

    def __init__(self, c, rngs):
        self.moe_cnn, self.moe_expression = (MoE(48, c.moe, dtype=jnp.float32, rngs=rngs) for _ in range(2))
        self.head = nnx.Linear(2 * c.moe.hidden, len(c.data.classes), rngs=rngs)

    def __call__(self, images, mask, *, train, rngs=None):
        x = images.reshape(len(images), 8, 4, 8, 4, 3).mean((2, 4))[:, ::2, ::2].reshape(len(images), -1)
        answers, routing = {}, {}
        for name in ("moe_cnn", "moe_expression"):
            answers[name], routing[name] = getattr(self, name)(x, mask, train=train, rngs=rngs)
        return expressnet.Output(self.head(jnp.concatenate(list(answers.values()), -1)), answers, routing)


def test_auxiliary_losses_and_their_gradients_do_not_depend_on_accumulation():
    """They are of the whole batch: four micro-batches of four, very different in load, act as one of sixteen."""
    pairs = [(f"moe.{name}", "0.5") for name in ("importance_loss", "balance_loss", "z_loss")]
    found = {}
    for name, changes in {"off": (), "1": pairs, "4": [*pairs, ("optimizer.accumulate", "4")]}.items():
        c = config(*PLAIN, ("ema.decay", "0"), *changes)
        graph, params, stats = nnx.split(Routed(c, nnx.Rngs(0)), nnx.Param, nnx.BatchStat)
        optimizer = optax.sgd(1.0)
        params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
        state = states.init(c, optimizer, meshes.create(c))
        state = state._replace(params=params, batch_stats=stats, opt_state=optimizer.init(params))
        some = batch()
        some["image"] = (some["image"] * (jnp.arange(16) % 4 / 4)[:, None, None, None]).astype(jnp.uint8)
        step = jax.jit(steps.train_step(c, graph, optimizer, optax.constant_schedule(1.0)))
        after, sums = step(state, steps.zero_sums(c), some)
        gradients = jax.tree.map(lambda a, b: np.asarray(a - b), state.params, after.params)
        found[name] = gradients, float(sums["auxiliary"])
    assert found["1"][1] == pytest.approx(found["4"][1], rel=1e-5) and found["off"][1] == 0
    for one, four in zip(jax.tree.leaves(found["1"][0]), jax.tree.leaves(found["4"][0]), strict=True):
        np.testing.assert_allclose(four, one, rtol=1e-4, atol=1e-6)
    gates = [found[name][0]["moe_cnn"]["gate"]["kernel"] for name in ("off", "1")]
    assert np.abs(gates[1] - gates[0]).max() > 0.1 * np.abs(gates[0]).max()
