"""ExpressNet-MoE: three branches, two mixture-of-experts layers, one head (arXiv 2510.13493).

    picture -+- CNNFE1 ------------------ MoE --+
             +- CNNFE2 --+                      +-- head -- logits
             +- ResNet --+- fuse -------- MoE --+

`model.without` takes parts away, for ablations. Where a MoE layer is missing, the head reads what it would have read.

Legend: B image, S picture side, E experts, D in, F out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from expressnet_jax.config import BRANCHES, Config
from expressnet_jax.models import layers
from expressnet_jax.models.feature_extractors import CNNFE1, CNNFE2
from expressnet_jax.models.resnet import ResNet
from expressnet_jax.moe.layer import MoE
from expressnet_jax.moe.router import Routing

#: What each mixture of experts reads.
_READS = {"moe_cnn": "cnnfe1", "moe_expression": "fuse"}


class Output(NamedTuple):
    """Everything that a use of the network may need; what a compiled function does not return costs nothing."""

    logits: jax.Array  # (B, classes), float32
    features: dict[str, jax.Array]  # outputs of the parts, by the parts' names
    routing: dict[str, Routing]  # of the layers "moe_cnn" and "moe_expression", as far as the network has them


class Fuse(nnx.Module):
    """Joins CNNFE2 and the ResNet, or takes one of them alone: (B, D2), (B, DR) -> (B, fuse_width)."""

    def __init__(self, config: Config, d: int, rngs: nnx.Rngs) -> None:
        self.dropout = config.model.dense_dropout
        self.dense = layers.dense(config.model, d, config.model.fuse_width, rngs)

    def __call__(self, parts: Sequence[jax.Array], *, rngs: nnx.Rngs | None) -> jax.Array:
        return layers.dropout(jax.nn.relu(self.dense(jnp.concatenate(parts, -1))), self.dropout, rngs)


class Network(nnx.Module):
    """A network for `len(config.data.classes)` classes, in two halves: `features` of the picture, and `classify`.

    Call it with images (B, S, S, 3), already normalised; mask (B,) bool, false for padding (default: none is);
    `train` for batch statistics; `rngs` with a "dropout" stream for dropout, None for none.
    """

    dtype: jnp.dtype
    branches: tuple[str, ...]  # the parts that look at the picture

    def __call__(
        self, images: jax.Array, mask: jax.Array | None = None, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> Output:
        views = dict.fromkeys(self.branches, images.astype(self.dtype))
        return self.classify(self.features(views, train=train, rngs=rngs), mask, train=train, rngs=rngs)

    def features(
        self, views: Mapping[str, jax.Array], *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> dict[str, jax.Array]:
        """Outputs of the parts before the mixtures of experts, by name.

        views: the picture as each branch sees it, (B, S, S, 3) in the network's dtype.
        """
        raise NotImplementedError

    def classify(
        self, features: Mapping[str, jax.Array], mask: jax.Array | None = None, *, train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Output:  # fmt: skip
        """The rest of the network, from what `features` returned."""
        raise NotImplementedError


class ExpressNet(Network):
    """The whole network, but for what `model.without` names."""

    def __init__(self, config: Config, rngs: nnx.Rngs) -> None:
        model, parts = config.model, config.model.parts
        kind = layers.param_dtype(model)
        self.dtype = jnp.dtype(model.dtype)
        self.branches = tuple(name for name in BRANCHES if name in parts)
        self.cnnfe1 = CNNFE1(model, rngs) if "cnnfe1" in parts else None
        self.cnnfe2 = CNNFE2(model, rngs) if "cnnfe2" in parts else None
        self.resnet = ResNet(model, rngs) if "resnet" in parts else None
        fused = {"cnnfe2": model.cnnfe2.filters[-1], "resnet": 4 * model.resnet.filters[-1]}
        d = sum(width for name, width in fused.items() if name in parts)
        self.fuse = Fuse(config, d, rngs) if "fuse" in parts else None

        def mixture(name: str, d: int) -> MoE | None:
            return MoE(d, config.moe, dtype=kind, rngs=rngs) if name in parts else None

        self.moe_cnn = mixture("moe_cnn", model.cnnfe1_width)
        self.moe_expression = mixture("moe_expression", model.fuse_width)
        widths = {"cnnfe1": model.cnnfe1_width, "fuse": model.fuse_width}
        self.head = nnx.Linear(
            sum(widths.get(name, config.moe.hidden) for name in head_inputs(config)), len(config.data.classes),
            param_dtype=kind, kernel_init=layers.KERNEL_INIT, rngs=rngs,
        )  # fmt: skip

    def features(
        self, views: Mapping[str, jax.Array], *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> dict[str, jax.Array]:
        """As `Network.features`: "cnnfe1", "cnnfe2", "resnet" and "fuse"."""
        found = {name: getattr(self, name)(views[name], train=train, rngs=rngs) for name in self.branches}
        if self.fuse is not None:
            found["fuse"] = self.fuse([found[name] for name in ("cnnfe2", "resnet") if name in found], rngs=rngs)
        return found

    def classify(
        self, features: Mapping[str, jax.Array], mask: jax.Array | None = None, *, train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Output:  # fmt: skip
        """As `Network.classify`."""
        found, inputs, routing = dict(features), [], {}
        # From here on the network is tiny, and the router is sensitive: float32 whatever the activations are.
        wide = self.head.kernel[...].dtype
        for name, read in _READS.items():
            if read not in features:
                continue
            x, layer = features[read].astype(wide), getattr(self, name)
            if layer is not None:
                mask = jnp.ones(x.shape[0], bool) if mask is None else mask
                found[name], routing[name] = layer(x, mask, train=train, rngs=rngs)
                x = found[name]
            inputs.append(x)
        return Output(self.head(jnp.concatenate(inputs, -1)), found, routing)


class Backbone(Network):
    """The ResNet and a linear head, everything else equal: what the other two branches and the experts are measured
    against, in speed and in accuracy."""

    def __init__(self, config: Config, rngs: nnx.Rngs) -> None:
        kind = layers.param_dtype(config.model)
        self.dtype = jnp.dtype(config.model.dtype)
        self.branches = ("resnet",)
        self.resnet = ResNet(config.model, rngs)
        width = 4 * config.model.resnet.filters[-1]
        self.head = nnx.Linear(
            width, len(config.data.classes), param_dtype=kind, kernel_init=layers.KERNEL_INIT, rngs=rngs
        )

    def features(
        self, views: Mapping[str, jax.Array], *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> dict[str, jax.Array]:
        """As `Network.features`: "resnet"."""
        return {"resnet": self.resnet(views["resnet"], train=train, rngs=rngs)}

    def classify(
        self, features: Mapping[str, jax.Array], mask: jax.Array | None = None, *, train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Output:  # fmt: skip
        """As `Network.classify`; nothing here depends on the mask."""
        return Output(self.head(features["resnet"].astype(self.head.kernel[...].dtype)), dict(features), {})


def create(config: Config, seed: int = 0) -> ExpressNet | Backbone:
    """A freshly initialised network; the same seed gives the same parameters on any device and mesh."""
    network = Backbone if config.model.network == "backbone" else ExpressNet
    return network(config, nnx.Rngs(params=seed))


def routed_layers(config: Config) -> tuple[str, ...]:
    """Names of the layers that the network routes: the keys of `Output.routing`."""
    return tuple(name for name in _READS if name in config.model.parts)


def head_inputs(config: Config) -> tuple[str, ...]:
    """Names of the features that the head reads, side by side."""
    parts = config.model.parts
    return tuple(name if name in parts else read for name, read in _READS.items() if read in parts) or ("resnet",)
