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

    def __init__(self, config: Model, name: str, extractor: Extractor, rngs: nnx.Rngs) -> None:
        self.dropout, self.remat, self.count = config.conv_dropout, config.remat, len(extractor.kernels)
        d = 3
        for i, (size, f) in enumerate(zip(extractor.kernels, extractor.filters, strict=True), start=1):
            setattr(self, f"conv{i}", layers.Conv(config, f"{name}/conv{i}", d, f, size, rngs=rngs))
            setattr(self, f"bn{i}", layers.BatchNorm(config, f, rngs))
            d = f

    def blocks(self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
        """(B, H, W, 3) -> (B, H / 2^(n-1), W / 2^(n-1), F)."""

        def block(conv: layers.Conv, bn: layers.BatchNorm, rngs: nnx.Rngs | None, x: jax.Array) -> jax.Array:
            return bn(layers.dropout(jax.nn.relu(conv(x, train=train)), self.dropout, rngs), train=train)

        run = nnx.remat(block) if self.remat and train else block
        for i in range(1, self.count + 1):
            x = run(getattr(self, f"conv{i}"), getattr(self, f"bn{i}"), rngs, x)
            x = x if i == self.count else layers.max_pool(x, 2)
        return x


class CNNFE1(Blocks):
    """Large kernels; the last map is flattened into a dense layer: (B, H, W, 3) -> (B, cnnfe1_width)."""

    def __init__(self, config: Model, rngs: nnx.Rngs) -> None:
        super().__init__(config, "cnnfe1", config.cnnfe1, rngs)
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
        super().__init__(config, "cnnfe2", config.cnnfe2, rngs)

    def __call__(self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
        return self.blocks(x, train=train, rngs=rngs).mean(axis=(1, 2))  # (B, h, w, F) -> (B, F)
