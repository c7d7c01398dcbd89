"""The mixture-of-experts layer: a linear router and E experts of one dense layer each.

Legend: B image, E experts, D in, F out. Source: arXiv 2510.13493, section 3.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from expressnet_jax.moe import dispatch, router


class Experts(nnx.Module):
    """The stacked parameters of all experts, each drawn with its own key: kernel (E, D, F), bias (E, F)."""

    def __init__(self, e: int, d: int, f: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.glorot_uniform()
        self.kernel = nnx.Param(jnp.stack([init(rngs.params(), (d, f), dtype) for _ in range(e)]))
        self.bias = nnx.Param(jnp.zeros((e, f), dtype))


class MoE(nnx.Module):
    """(B, D) -> (B, F), and the routing that led to it."""

    def __init__(self, d: int, f: int, *, num_experts: int, top_k: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.k = top_k
        self.gate = nnx.Linear(
            d, num_experts, dtype=dtype, param_dtype=dtype, kernel_init=nnx.initializers.glorot_uniform(), rngs=rngs
        )
        self.experts = Experts(num_experts, d, f, dtype, rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, router.Routing]:
        routing = router.softmax_top_k(self.gate(x), self.k, mask)
        return dispatch.dense(x, routing.weights, self.experts.kernel[...], self.experts.bias[...]), routing
