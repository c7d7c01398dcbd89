"""ExpressNet-MoE: three branches, two mixture-of-experts layers, one head (arXiv 2510.13493).

    picture -+- CNNFE1 ------------------ MoE --+
             +- CNNFE2 --+                      +-- head -- logits
             +- ResNet --+- fuse -------- MoE --+

Legend: B image, S picture side, E experts, D in, F out.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from expressnet_jax.config import Config
from expressnet_jax.models import layers
from expressnet_jax.models.feature_extractors import CNNFE1, CNNFE2
from expressnet_jax.models.resnet import ResNet
from expressnet_jax.moe.layer import MoE
from expressnet_jax.moe.router import Routing


class Output(NamedTuple):
    """Everything that a use of the network may need; what a compiled function does not return costs nothing."""

    logits: jax.Array  # (B, classes), float32
    features: dict[str, jax.Array]  # outputs of the parts, by the parts' names
    routing: dict[str, Routing]  # of the two layers "moe_cnn" and "moe_expression"


class Fuse(nnx.Module):
    """Joins CNNFE2 and the ResNet: (B, D2), (B, DR) -> (B, fuse_width)."""

    def __init__(self, config: Config, d: int, rngs: nnx.Rngs) -> None:
        self.dropout = config.model.dense_dropout
        self.dense = layers.dense(config.model, d, config.model.fuse_width, rngs)

    def __call__(self, a: jax.Array, b: jax.Array, *, rngs: nnx.Rngs | None) -> jax.Array:
        return layers.dropout(jax.nn.relu(self.dense(jnp.concatenate([a, b], -1))), self.dropout, rngs)


class ExpressNet(nnx.Module):
    """The whole network, for `len(config.data.classes)` classes.

    Call it with images (B, S, S, 3), already normalised; mask (B,) bool, false for padding (default: none is);
    `train` for batch statistics; `rngs` with a "dropout" stream for dropout, None for none.
    """

    def __init__(self, config: Config, rngs: nnx.Rngs) -> None:
        model, moe = config.model, config.moe
        kind = layers.param_dtype(model)
        self.dtype = jnp.dtype(model.dtype)
        self.cnnfe1, self.cnnfe2, self.resnet = CNNFE1(model, rngs), CNNFE2(model, rngs), ResNet(model, rngs)
        self.fuse = Fuse(config, model.cnnfe2.filters[-1] + 4 * model.resnet.filters[-1], rngs)

        def mixture(d: int) -> MoE:
            return MoE(d, moe, dtype=kind, rngs=rngs)

        self.moe_cnn, self.moe_expression = mixture(model.cnnfe1_width), mixture(model.fuse_width)
        self.head = nnx.Linear(
            2 * moe.hidden, len(config.data.classes), param_dtype=kind, kernel_init=layers.KERNEL_INIT, rngs=rngs
        )

    def __call__(
        self, images: jax.Array, mask: jax.Array | None = None, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> Output:
        x = images.astype(self.dtype)
        mask = jnp.ones(x.shape[0], bool) if mask is None else mask
        cnnfe1 = self.cnnfe1(x, train=train, rngs=rngs)
        cnnfe2 = self.cnnfe2(x, train=train, rngs=rngs)
        resnet = self.resnet(x, train=train, rngs=rngs)
        fuse = self.fuse(cnnfe2, resnet, rngs=rngs)
        # From here on the network is tiny, and the router is sensitive: float32 whatever the activations are.
        wide = self.head.kernel[...].dtype
        moe_cnn, cnn_routing = self.moe_cnn(cnnfe1.astype(wide), mask, train=train, rngs=rngs)
        moe_expression, expression_routing = self.moe_expression(fuse.astype(wide), mask, train=train, rngs=rngs)
        logits = self.head(jnp.concatenate([moe_cnn, moe_expression], -1))
        features = {
            "cnnfe1": cnnfe1, "cnnfe2": cnnfe2, "resnet": resnet, "fuse": fuse,
            "moe_cnn": moe_cnn, "moe_expression": moe_expression,
        }  # fmt: skip
        return Output(logits, features, {"moe_cnn": cnn_routing, "moe_expression": expression_routing})


class Backbone(nnx.Module):
    """The ResNet and a linear head, everything else equal: what the other two branches and the experts are measured
    against, in speed and in accuracy. Called like ExpressNet."""

    def __init__(self, config: Config, rngs: nnx.Rngs) -> None:
        kind = layers.param_dtype(config.model)
        self.dtype = jnp.dtype(config.model.dtype)
        self.resnet = ResNet(config.model, rngs)
        width = 4 * config.model.resnet.filters[-1]
        self.head = nnx.Linear(
            width, len(config.data.classes), param_dtype=kind, kernel_init=layers.KERNEL_INIT, rngs=rngs
        )

    def __call__(
        self, images: jax.Array, mask: jax.Array | None = None, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> Output:
        resnet = self.resnet(images.astype(self.dtype), train=train, rngs=rngs)
        return Output(self.head(resnet.astype(self.head.kernel[...].dtype)), {"resnet": resnet}, {})


def create(config: Config, seed: int = 0) -> ExpressNet | Backbone:
    """A freshly initialised network; the same seed gives the same parameters on any device and mesh."""
    network = Backbone if config.model.network == "backbone" else ExpressNet
    return network(config, nnx.Rngs(params=seed))


def routed_layers(config: Config) -> tuple[str, ...]:
    """Names of the layers that the network routes: the keys of `Output.routing`."""
    return () if config.model.network == "backbone" else ("moe_cnn", "moe_expression")
