"""ExpressNet-MoE: three branches, two mixture-of-experts layers, one head (arXiv 2510.13493).

    picture -+- CNNFE1 ------------------ MoE --+
             +- CNNFE2 --+                      +-- head -- logits
             +- ResNet --+- fuse -------- MoE --+

`model.without` takes parts away, for ablations. Where a MoE layer is missing, the head reads what it would have read.

Legend: B image, S picture side, E experts, D in, F out.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from expressnet_jax.config import BRANCHES, Config
from expressnet_jax.models import layers
from expressnet_jax.models.branches import Blocks, ResNet
from expressnet_jax.moe.layer import MoE
from expressnet_jax.moe.router import Routing

#: What each mixture of experts reads, and what the fusion joins.
_READS = {"moe_cnn": "cnnfe1", "moe_expression": "fuse"}
_FUSED = ("cnnfe2", "resnet")


class Output(NamedTuple):
    """Everything that a use of the network may need; what a compiled function does not return costs nothing."""

    logits: jax.Array  # (B, classes), float32
    features: dict[str, jax.Array]  # outputs of the parts, by the parts' names
    routing: dict[str, Routing]  # of the layers "moe_cnn" and "moe_expression", as far as the network has them


class Fuse(nnx.Module):
    """Joins CNNFE2 and the ResNet, or takes one of them alone: (B, D2), (B, DR) -> (B, fuse_width)."""

    def __init__(self, config: Config, d: int, rngs: nnx.Rngs) -> None:
        self.dropout = config.model.dense_dropout
        self.dense, self.dense_bn = layers.dense(config.model, d, config.model.fuse_width, rngs)

    def __call__(self, parts: Sequence[jax.Array], *, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
        x = self.dense(jnp.concatenate(parts, -1))
        return layers.after_dense(x, self.dense_bn, self.dropout, train=train, rngs=rngs)


class ExpressNet(nnx.Module):
    """A network for `len(config.data.classes)` classes, in two halves: `features` of the picture, and `classify`.

    It has the parts that `config.model.parts` names. `network=backbone` is the ResNet and a linear head, everything
    else equal: what the other two branches and the experts are measured against, in speed and in accuracy.

    Call it with images (B, S, S, 3), already normalised; mask (B,) bool, false for padding (default: none is);
    `train` for batch statistics; `rngs` with a "dropout" stream for dropout, None for none.
    """

    def __init__(self, config: Config, rngs: nnx.Rngs) -> None:
        model, parts = config.model, config.model.parts
        kind = layers.param_dtype(model)
        self.dtype = jnp.dtype(model.dtype)
        self.branches = tuple(name for name in BRANCHES if name in parts)  # the parts that look at the picture
        self.cnnfe1 = Blocks(model, "cnnfe1", model.cnnfe1, model.cnnfe1_width, rngs) if "cnnfe1" in parts else None
        self.cnnfe2 = Blocks(model, "cnnfe2", model.cnnfe2, 0, rngs) if "cnnfe2" in parts else None
        self.resnet = ResNet(model, rngs) if "resnet" in parts else None
        widths = {
            "cnnfe1": model.cnnfe1_width, "cnnfe2": model.cnnfe2.filters[-1], "resnet": 4 * model.resnet.filters[-1],
            "fuse": model.fuse_width, **dict.fromkeys(_READS, config.moe.hidden),
        }  # fmt: skip
        d = sum(widths[name] for name in _FUSED if name in parts)
        self.fuse = Fuse(config, d, rngs) if "fuse" in parts else None
        self.moe_cnn, self.moe_expression = (
            MoE(widths[read], config.moe, dtype=kind, rngs=rngs) if name in parts else None
            for name, read in _READS.items()
        )
        self.inputs = head_inputs(config)
        self.head = nnx.Linear(
            sum(widths[name] for name in self.inputs), len(config.data.classes),
            param_dtype=kind, kernel_init=layers.KERNEL_INIT, rngs=rngs,
        )  # fmt: skip

    def __call__(
        self, images: jax.Array, mask: jax.Array | None = None, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> Output:
        views = dict.fromkeys(self.branches, images.astype(self.dtype))
        return self.classify(self.features(views, train=train, rngs=rngs), mask, train=train, rngs=rngs)

    def features(
        self, views: Mapping[str, jax.Array], *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> dict[str, jax.Array]:
        """Outputs of the parts before the mixtures of experts, by name: "cnnfe1", "cnnfe2", "resnet" and "fuse".

        views: the picture as each branch sees it, (B, S, S, 3) in the network's dtype.
        """
        found = {name: getattr(self, name)(views[name], train=train, rngs=rngs) for name in self.branches}
        if self.fuse is not None:
            found["fuse"] = self.fuse([found[name] for name in _FUSED if name in found], train=train, rngs=rngs)
        return found

    def classify(
        self, features: Mapping[str, jax.Array], mask: jax.Array | None = None, *, train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Output:  # fmt: skip
        """The rest of the network, from what `features` returned."""
        found, routing = dict(features), {}
        # From here on the network is tiny, and the router is sensitive: float32 whatever the activations are.
        wide = self.head.kernel[...].dtype
        for name, read in _READS.items():
            if (layer := getattr(self, name)) is not None:
                x = features[read].astype(wide)
                known = jnp.ones(x.shape[0], bool) if mask is None else mask
                found[name], routing[name] = layer(x, known, train=train, rngs=rngs)
        x = jnp.concatenate([found[name].astype(wide) for name in self.inputs], -1)
        return Output(self.head(x), found, routing)


def create(config: Config, seed: int = 0) -> ExpressNet:
    """A freshly initialised network; the same seed gives the same parameters on any device and mesh."""
    return ExpressNet(config, nnx.Rngs(params=seed))


def routed_layers(config: Config) -> tuple[str, ...]:
    """Names of the layers that the network routes: the keys of `Output.routing`."""
    return tuple(name for name in _READS if name in config.model.parts)


def head_inputs(config: Config) -> tuple[str, ...]:
    """Names of the features that the head reads, side by side."""
    parts = config.model.parts
    return tuple(name if name in parts else read for name, read in _READS.items() if read in parts) or ("resnet",)
