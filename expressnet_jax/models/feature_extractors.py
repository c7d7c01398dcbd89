"""The two multi-scale convolutional branches, CNNFE1 (large kernels, flattened) and CNNFE2 (small, averaged).

Legend: B image, H W height and width, D in, F out. Source: arXiv 2510.13493, section 3.
"""

from __future__ import annotations

import jax
from flax import nnx

from expressnet_jax.config import Extractor, Model
from expressnet_jax.models import layers


class Blocks(nnx.Module):
    """conv -> relu -> dropout -> BatchNorm -> 2x2 max pool, once per kernel; the last block has no pool."""

    def __init__(self, config: Model, extractor: Extractor, rngs: nnx.Rngs) -> None:
        self.dropout, self.count = config.conv_dropout, len(extractor.kernels)
        d = 3
        for i, (size, f) in enumerate(zip(extractor.kernels, extractor.filters, strict=True), start=1):
            setattr(self, f"conv{i}", layers.Conv(config, d, f, size, rngs=rngs))
            setattr(self, f"bn{i}", layers.BatchNorm(config, f, rngs))
            d = f

    def blocks(self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
        """(B, H, W, 3) -> (B, H / 2^(n-1), W / 2^(n-1), F)."""
        for i in range(1, self.count + 1):
            x = layers.dropout(jax.nn.relu(getattr(self, f"conv{i}")(x)), self.dropout, rngs)
            x = getattr(self, f"bn{i}")(x, train=train)
            x = x if i == self.count else layers.max_pool2(x)
        return x


class CNNFE1(Blocks):
    """Large kernels; the last map is flattened into a dense layer: (B, H, W, 3) -> (B, cnnfe1_width)."""

    def __init__(self, config: Model, rngs: nnx.Rngs) -> None:
        super().__init__(config, config.cnnfe1, rngs)
        side = config.image_size >> (self.count - 1)
        self.dense_dropout = config.dense_dropout
        self.dense = layers.dense(config, side * side * config.cnnfe1.filters[-1], config.cnnfe1_width, rngs)

    def __call__(self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
        x = self.blocks(x, train=train, rngs=rngs)
        x = jax.nn.relu(self.dense(x.reshape(x.shape[0], -1)))  # (B, h, w, F) -> (B, h*w*F) -> (B, width)
        return layers.dropout(x, self.dense_dropout, rngs)


class CNNFE2(Blocks):
    """Small kernels; the last map is averaged: (B, H, W, 3) -> (B, F)."""

    def __init__(self, config: Model, rngs: nnx.Rngs) -> None:
        super().__init__(config, config.cnnfe2, rngs)

    def __call__(self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
        return self.blocks(x, train=train, rngs=rngs).mean(axis=(1, 2))  # (B, h, w, F) -> (B, F)
