"""The mixture of experts against a loop over images and experts, and what the router counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from expressnet_jax.moe import router
from expressnet_jax.moe.layer import MoE


def layer(e: int, k: int) -> MoE:
    made = MoE(6, 5, num_experts=e, top_k=k, dtype=jnp.float32, rngs=nnx.Rngs(params=3))
    made.gate.kernel[...] = jax.random.normal(jax.random.key(1), (6, e))
    made.experts.bias[...] = jax.random.normal(jax.random.key(2), (e, 5))
    return made


def one_by_one(made: MoE, x: np.ndarray, k: int) -> np.ndarray:
    """The published layer, written as a person would: for each image the k likeliest experts, weighted as they are."""
    gate, bias = (np.asarray(v[...], np.float64) for v in (made.gate.kernel, made.gate.bias))
    kernel, shift = (np.asarray(v[...], np.float64) for v in (made.experts.kernel, made.experts.bias))
    rows = []
    for image in x.astype(np.float64):
        logits = image @ gate + bias
        p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        best = np.argsort(-p)[:k]
        rows.append(sum(p[e] * np.maximum(image @ kernel[e] + shift[e], 0) for e in best))
    return np.array(rows)


@pytest.mark.parametrize(("e", "k"), [(1, 1), (2, 1), (4, 2), (5, 5), (16, 3)])
def test_the_layer_equals_the_loop(e, k):
    made, x = layer(e, k), np.random.default_rng(0).standard_normal((9, 6)).astype(np.float32)
    found, routing = made(jnp.asarray(x), jnp.ones(9, bool))
    np.testing.assert_allclose(found, one_by_one(made, x, k), atol=1e-5)
    np.testing.assert_array_equal((np.asarray(routing.weights) > 0).sum(1), k)


def test_weights_are_not_renormalised():
    _, routing = layer(4, 2)(jnp.ones((3, 6)), jnp.ones(3, bool))
    kept = np.sort(np.asarray(routing.probabilities), 1)[:, 2:].sum(1)
    np.testing.assert_allclose(routing.weights.sum(1), kept, rtol=1e-6)
    assert (kept < 0.999).all()


def test_an_image_does_not_depend_on_its_batch():
    made, x = layer(4, 2), jax.random.normal(jax.random.key(5), (8, 6))
    whole, _ = made(x, jnp.ones(8, bool))
    np.testing.assert_allclose(whole[3:5], made(x[3:5], jnp.ones(2, bool))[0], rtol=1e-6, atol=1e-7)


def test_sums_leave_padding_out():
    logits = jax.random.normal(jax.random.key(0), (10, 4))
    mask = jnp.arange(10) < 6
    all_of_six = router.softmax_top_k(logits[:6], 2, jnp.ones(6, bool))
    padded = router.softmax_top_k(logits, 2, mask)
    for name in ("load", "importance", "entropy"):
        np.testing.assert_allclose(getattr(padded, name), getattr(all_of_six, name), rtol=1e-6)
    assert float(padded.load.sum()) == 12
    assert float(padded.importance.sum()) == pytest.approx(6, rel=1e-6)


def test_entropy_of_an_even_router_is_the_logarithm_of_e():
    routing = router.softmax_top_k(jnp.zeros((3, 8)), 2, jnp.ones(3, bool))
    assert float(routing.entropy) == pytest.approx(3 * np.log(8), rel=1e-6)


def test_the_gradient_reaches_router_and_chosen_experts_only():
    made, x = layer(4, 1), jnp.ones((1, 6))
    graph, params = nnx.split(made)
    slopes = jax.grad(lambda p: (nnx.merge(graph, p)(x, jnp.ones(1, bool))[0] ** 2).sum())(params)
    slopes = nnx.to_pure_dict(slopes)
    chosen = int(made(x, jnp.ones(1, bool))[1].weights.argmax())
    assert np.abs(slopes["gate"]["kernel"]).max() > 0
    moved = np.abs(slopes["experts"]["kernel"]).max((1, 2)) > 0
    assert moved[chosen] and moved.sum() == 1


def test_each_expert_starts_differently():
    kernels = np.asarray(layer(8, 2).experts.kernel[...])
    assert len({kernel.tobytes() for kernel in kernels}) == 8
