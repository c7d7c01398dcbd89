"""The mixture of experts against a loop over images and experts, its losses against their formulas, and its sums."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from expressnet_jax.bench import network
from expressnet_jax.config import files as config_files
from expressnet_jax.moe import dispatch, router
from expressnet_jax.moe.layer import MoE, is_expert_path
from expressnet_jax.moe.settings import MoE as Settings
from tests.conftest import TINY

LOCAL = ("dense", "capacity", "dropless")

#: Compiled whole, as in training; operation by operation, each of a hundred calls would compile thirty programs.
run = nnx.jit(lambda made, x, mask, train, rngs: made(x, mask, train=train, rngs=rngs), static_argnums=3)


def call(made: MoE, x, mask=None, *, train=False, rngs=None):
    return run(made, x, jnp.ones(len(x), bool) if mask is None else mask, train, rngs)


def layer(e: int, k: int, **settings) -> MoE:
    chosen = Settings(**{"num_experts": e, "top_k": k, "hidden": 5, "implementation": "dense", **settings})
    made = MoE(6, chosen, dtype=jnp.float32, rngs=nnx.Rngs(params=3))
    made.gate.kernel[...] = jax.random.normal(jax.random.key(1), (6, e))
    made.experts.bias[...] = jax.random.normal(jax.random.key(2), (e, 5))
    return made


def route(logits, k=2, mask=None, key=None, bias=None, **settings):
    logits = jnp.asarray(logits, jnp.float32)
    chosen = Settings(num_experts=logits.shape[1], top_k=k, **settings)
    mask = jnp.ones(len(logits), bool) if mask is None else mask
    return jax.jit(lambda *arrays: router.route(*arrays[:2], chosen, key=arrays[2], bias=arrays[3]))(
        logits, mask, key, bias
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def one_by_one(made: MoE, x: np.ndarray, k: int) -> np.ndarray:
    """The published layer, written as a person would: for each image the k likeliest experts, weighted as they are."""
    gate, bias = (np.asarray(v[...], np.float64) for v in (made.gate.kernel, made.gate.bias))
    layers = [[np.asarray(v, np.float64) for v in pair] for pair in made.experts.layers]
    rows = []
    for image in x.astype(np.float64):
        p = softmax(image @ gate + bias)
        answers = []
        for e in np.argsort(-p)[:k]:
            answer = image
            for kernel, shift in layers:
                answer = np.maximum(answer @ kernel[e] + shift[e], 0)
            answers.append(p[e] * answer)
        rows.append(sum(answers))
    return np.array(rows)


@pytest.mark.parametrize(("e", "k"), [(1, 1), (2, 1), (4, 2), (5, 5), (16, 3)])
@pytest.mark.parametrize("implementation", LOCAL)
def test_the_layer_equals_the_loop(e, k, implementation):
    made = layer(e, k, layers=1 + e % 2, implementation=implementation)
    x = np.random.default_rng(0).standard_normal((9, 6)).astype(np.float32)
    found, routing = call(made, jnp.asarray(x))
    np.testing.assert_allclose(found, one_by_one(made, x, k), atol=1e-5)
    np.testing.assert_array_equal((np.asarray(routing.weights) > 0).sum(1), k)
    assert float(routing.sums.dropped) == 0


@pytest.mark.parametrize("implementation", LOCAL)
def test_an_image_does_not_depend_on_its_batch(implementation):
    """Even where all images want the same expert and training would have no room for them."""
    made = layer(4, 2, implementation=implementation, capacity_factor=0.3)
    x = jnp.tile(jax.random.normal(jax.random.key(5), (1, 6)), (8, 1)) + 0.01 * jnp.arange(8.0)[:, None]
    whole, routing = call(made, x)
    assert float(routing.sums.load.max()) == 8
    for b in range(8):
        np.testing.assert_allclose(whole[b], call(made, x[b : b + 1])[0][0], rtol=1e-6, atol=1e-6)


def test_a_full_expert_drops_the_last_images_or_the_least_sure():
    """Four images of rising certainty want expert 0, which has room for two; padding takes none."""
    made = layer(2, 1, capacity_factor=1.0, implementation="capacity")
    made.gate.kernel[...] = jnp.zeros((6, 2)).at[0].set(jnp.asarray([1.0, -1.0]))
    x = jnp.zeros((4, 6)).at[:, 0].set(jnp.asarray([0.5, 1.0, 1.5, 2.0]))
    for by_weight, kept in ((False, [True, True, False, False]), (True, [False, False, True, True])):
        made.config = dataclasses.replace(made.config, by_weight=by_weight)
        y, routing = call(made, x, train=True)
        assert float(routing.sums.dropped) == 2
        np.testing.assert_array_equal(np.abs(np.asarray(y)).max(1) > 0, kept)
    y, routing = call(made, x, jnp.asarray([True, True, False, False]), train=True)
    assert float(routing.sums.dropped) == 0 and np.abs(np.asarray(y[:2])).max(1).min() > 0


def test_weights_are_not_renormalised():
    routing = route(np.random.default_rng(0).standard_normal((3, 4)))
    kept = np.sort(np.asarray(routing.probabilities), 1)[:, 2:].sum(1)
    np.testing.assert_allclose(routing.weights.sum(1), kept, rtol=1e-6)
    assert (kept < 0.999).all()


def test_renormalising_is_a_softmax_of_the_selected():
    logits = np.random.default_rng(1).standard_normal((7, 6))
    routing = route(logits, k=3, renormalize=True)
    np.testing.assert_allclose(routing.gates, softmax(-np.sort(-logits, 1)[:, :3]), rtol=1e-5)


def test_the_soft_router_asks_everybody():
    logits = np.random.default_rng(1).standard_normal((7, 6))
    routing = route(logits, router="soft")
    np.testing.assert_allclose(routing.weights, softmax(logits), rtol=1e-5)
    assert routing.chosen.shape == (7, 6)


def test_the_number_of_selected_experts_is_that_of_the_router_and_bench_counts_it(monkeypatch):
    assert Settings(num_experts=5, top_k=2, router="soft").selected == 5 and Settings(top_k=3).selected == 3
    for name, cases in {"_EXPERTS": (4,), "_SELECTED": (1,), "_IMAGES": (8,)}.items():
        monkeypatch.setattr(network, name, cases)
    found = network.experts(config_files.load(TINY, [("moe.router", "soft")]), repeats=1)
    assert {(row["implementation"], row["selected"]) for row in found["rows"]} == {
        ("dense", 4), ("capacity", 4), ("dropless", 4)
    }  # fmt: skip


def test_a_random_router_has_no_parameters_and_never_changes():
    made = layer(4, 2, router="random")
    assert "gate" not in nnx.to_pure_dict(nnx.state(made, nnx.Param))
    assert set(nnx.to_pure_dict(nnx.state(made, nnx.BatchStat))["gate"]) == {"kernel", "bias"}


def test_noise_moves_choices_in_training_only():
    made = layer(4, 2, noise_std=3.0)
    x = jax.random.normal(jax.random.key(5), (64, 6))
    calm, still = (call(made, x)[1].chosen for _ in range(2))
    noisy = call(made, x, train=True, rngs=nnx.Rngs(dropout=0))[1].chosen
    np.testing.assert_array_equal(calm, still)
    assert (np.asarray(noisy) != np.asarray(calm)).mean() > 0.2


def test_sums_leave_padding_out():
    logits = np.random.default_rng(0).standard_normal((10, 4))
    six, padded = (
        route(rows, mask=mask, key=None).sums for rows, mask in ((logits[:6], None), (logits, jnp.arange(10) < 6))
    )
    for name in ("images", "load", "importance", "entropy", "squared_log_z"):
        np.testing.assert_allclose(getattr(padded, name), getattr(six, name), rtol=1e-6)
    assert float(padded.load.sum()) == 12 and float(padded.images) == 6
    assert float(padded.importance.sum()) == pytest.approx(6, rel=1e-6)


def test_entropy_of_an_even_router_is_the_logarithm_of_e():
    assert float(route(np.zeros((3, 8))).sums.entropy) == pytest.approx(3 * np.log(8), rel=1e-6)


def test_losses_follow_their_formulas():
    """Written out for images one by one, in float64."""
    logits = 2 * np.random.default_rng(2).standard_normal((12, 5))
    std, key = 0.4, jax.random.key(3)
    noisy = logits + std * np.asarray(jax.random.normal(key, (12, 5)), np.float64)
    p, chosen = softmax(noisy), np.argsort(-noisy, 1)[:, :2]
    load = np.bincount(chosen.reshape(-1), minlength=5)
    likely = np.zeros(5)
    for image, row in enumerate(noisy):
        for e in range(5):
            second = np.sort(np.delete(row, e))[-2]
            likely[e] += stats.norm.cdf((logits[image, e] - second) / std)
    found = router.losses(route(logits, key=key, noise_std=std).sums)
    importance = p.sum(0)
    assert float(found["importance_loss"]) == pytest.approx(importance.var() / importance.mean() ** 2, rel=1e-4)
    assert float(found["load_loss"]) == pytest.approx(likely.var() / likely.mean() ** 2, rel=1e-4)
    assert float(found["balance_loss"]) == pytest.approx(5 * (load / 24 * p.mean(0)).sum(), rel=1e-5)
    log_z = np.log(np.exp(logits).sum(1))
    assert float(found["z_loss"]) == pytest.approx((log_z**2).mean(), rel=1e-5)


def test_losses_are_at_their_least_where_balanced():
    even = router.losses(route(np.eye(4) * 3, k=1).sums)
    assert float(even["importance_loss"]) == pytest.approx(0, abs=1e-6)
    assert float(even["balance_loss"]) == pytest.approx(1, rel=1e-6)
    assert float(router.losses(route(np.tile([9.0, 0, 0, 0], (4, 1)), k=1).sums)["balance_loss"]) > 3.9


@pytest.mark.parametrize("name", router.LOSSES)
def test_every_loss_reaches_the_router(name):
    made = layer(4, 2, noise_std=0.5, **{name: 1.0})
    graph, params = nnx.split(made)
    x = jax.random.normal(jax.random.key(5), (16, 6))

    def loss(p):
        _, routing = nnx.merge(graph, p)(x, jnp.ones(16, bool), train=True, rngs=nnx.Rngs(dropout=0))
        return router.weighted_loss(routing.sums, made.config)

    slopes = nnx.to_pure_dict(jax.jit(jax.grad(loss))(params))
    assert np.abs(slopes["gate"]["kernel"]).max() > 1e-4
    assert np.abs(slopes["experts"]["kernel"]).max() == 0


def test_the_bias_balances_by_selection_and_never_enters_a_gate():
    made = layer(4, 1, balance_bias=0.01)
    x = jax.random.normal(jax.random.key(5), (256, 6)) + 2.0
    before = call(made, x)[1]
    assert float(before.sums.load.max()) > 128
    for _ in range(200):
        call(made, x, train=True)
    after = call(made, x)[1]
    assert float(after.sums.load.max()) < 80 and float(after.sums.load.min()) > 48
    np.testing.assert_allclose(after.probabilities, before.probabilities, rtol=1e-6)
    np.testing.assert_allclose(
        after.gates[:, 0], np.take_along_axis(np.asarray(after.probabilities), np.asarray(after.chosen), 1)[:, 0]
    )


def test_the_likeliest_of_the_chosen_comes_first_whatever_bias_chose_it():
    logits = jax.random.normal(jax.random.key(0), (200, 4))
    found = route(logits, k=3, bias=jnp.array([-0.3, 0.1, 0.2, 0.1]))
    assert (np.diff(found.gates) <= 0).all()
    np.testing.assert_array_equal(found.gates, np.take_along_axis(np.asarray(found.probabilities), found.chosen, 1))
    biased = np.asarray(found.probabilities) + np.array([-0.3, 0.1, 0.2, 0.1])
    assert (np.sort(found.chosen) == np.sort(np.argsort(-biased)[:, :3])).all()
    assert (found.chosen[:, 0] != biased.argmax(1)).any()


def test_the_gradient_reaches_router_and_chosen_experts_only():
    made, x = layer(4, 1), jnp.ones((1, 6))
    graph, params = nnx.split(made)
    slopes = jax.jit(jax.grad(lambda p: (nnx.merge(graph, p)(x, jnp.ones(1, bool))[0] ** 2).sum()))(params)
    slopes = nnx.to_pure_dict(slopes)
    chosen = int(call(made, x)[1].weights.argmax())
    assert np.abs(slopes["gate"]["kernel"]).max() > 0
    moved = np.abs(slopes["experts"]["kernel"]).max((1, 2)) > 0
    assert moved[chosen] and moved.sum() == 1


def test_each_expert_starts_differently():
    made = layer(8, 2, layers=2)
    for kernel, _ in made.experts.layers:
        assert len({one.tobytes() for one in np.asarray(kernel)}) == 8


def test_only_what_is_stacked_by_expert_has_an_expert_s_path():
    params = nnx.to_pure_dict(nnx.state(layer(8, 2, layers=2), nnx.Param))
    leaves = jax.tree_util.tree_leaves_with_path({"moe_cnn": params})
    assert [is_expert_path(path) for path, _ in leaves] == [leaf.shape[0] == 8 and leaf.ndim > 1 for _, leaf in leaves]
    assert [is_expert_path([key.key for key in path]) for path, _ in leaves] == [is_expert_path(p) for p, _ in leaves]


@pytest.mark.parametrize(
    ("settings", "devices", "expected"),
    [({}, 1, "dense"), ({"num_experts": 64}, 1, "dense"), ({"implementation": "dropless"}, 1, "dropless"),
     ({"num_experts": 64}, 8, "all_gather"), ({"implementation": "capacity"}, 8, "capacity")],
)  # fmt: skip
def test_auto_never_drops_and_says_why(settings, devices, expected):
    chosen, why = dispatch.choose(Settings(**settings), devices)
    assert chosen == expected and why
