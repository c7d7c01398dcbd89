"""The mixture-of-experts layer: a linear router and E experts of one or more dense layers each.

Legend: B image, E experts, D in, F out. Source: arXiv 2510.13493, section 3.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from expressnet_jax.moe import dispatch, router, settings

#: The attribute of `MoE` that holds the stacked parameters, and so a part of the path of each of them.
EXPERTS = "experts"


def is_expert_path(path: Iterable[Any]) -> bool:
    """Whether a path in a tree of parameters, of JAX's keys or of names, leads to one of the stacked parameters."""
    return any(getattr(key, "key", key) == EXPERTS for key in path)


class Experts(nnx.Module):
    """The stacked parameters of all experts, each drawn with its own key: kernel (E, D, F), bias (E, F).

    Further layers lie below it as layer2, layer3, ...
    """

    def __init__(self, e: int, d: int, f: int, layers: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.glorot_uniform()
        self.kernel = nnx.Param(jnp.stack([init(rngs.params(), (d, f), dtype) for _ in range(e)]))
        self.bias = nnx.Param(jnp.zeros((e, f), dtype))
        for number in range(2, layers + 1):
            setattr(self, f"layer{number}", Experts(e, f, f, 1, dtype, rngs))
        self.count = layers

    @property
    def layers(self) -> dispatch.Layers:
        """Kernel and bias of each layer."""
        further = [getattr(self, f"layer{number}") for number in range(2, self.count + 1)]
        return tuple((layer.kernel[...], layer.bias[...]) for layer in (self, *further))


class Gate(nnx.Module):
    """The router's linear layer, (B, D) -> (B, E); frozen, it has no parameters that could learn or decay."""

    def __init__(self, d: int, e: int, dtype: jnp.dtype, rngs: nnx.Rngs, *, frozen: bool) -> None:
        kind = nnx.BatchStat if frozen else nnx.Param
        self.kernel = kind(nnx.initializers.glorot_uniform()(rngs.params(), (d, e), dtype))
        self.bias = kind(jnp.zeros((e,), dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.kernel[...] + self.bias[...]


class MoE(nnx.Module):
    """(B, D) -> (B, F), and the routing that led to it."""

    def __init__(self, d: int, config: settings.MoE, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.config, e = config, config.num_experts
        self.gate = Gate(d, e, dtype, rngs, frozen=config.router == "random")
        self.experts = Experts(e, d, config.hidden, config.layers, dtype, rngs)
        self.selection_bias = nnx.BatchStat(jnp.zeros((e,), dtype)) if config.balance_bias else None

    def __call__(
        self, x: jax.Array, mask: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, router.Routing]:
        key = rngs.dropout() if rngs is not None and self.config.noise_std else None
        shift = None if self.selection_bias is None else self.selection_bias[...]
        routing = router.route(self.gate(x), mask, self.config, key=key, bias=shift)
        images = dispatch.Images(x, routing.chosen, routing.gates, mask)
        y, dropped = dispatch.move(images, self.experts.layers, self.config, train=train)
        if train and self.selection_bias is not None and shift is not None:
            self.selection_bias[...] = router.balanced(shift, routing.sums.load, self.config.balance_bias)
        return y, routing._replace(sums=routing.sums._replace(dropped=dropped))
