"""The two multi-scale convolutional branches, CNNFE1 (large kernels, flattened) and CNNFE2 (small, averaged).

Legend: B image, H W height and width, D in, F out, h w those of the last map. Source: arXiv 2510.13493, section 3.
"""

from __future__ import annotations

import jax
from flax import nnx

from expressnet_jax.config import Extractor, Model
from expressnet_jax.models import layers


class Blocks(nnx.Module):
    """conv -> relu -> dropout -> BatchNorm -> 2x2 max pool, once per kernel; the last block has no pool.

    The last map is averaged, or flattened into a dense layer where `width` is not 0:
    (B, H, W, 3) -> (B, h, w, F) with h = H / 2^(n-1) -> (B, F) or (B, width).
    """

    def __init__(self, config: Model, name: str, extractor: Extractor, width: int, rngs: nnx.Rngs) -> None:
        self.dropout, self.remat, self.count = config.conv_dropout, config.remat, len(extractor.kernels)
        d = 3
        for i, (size, f) in enumerate(zip(extractor.kernels, extractor.filters, strict=True), start=1):
            setattr(self, f"conv{i}", layers.Conv(config, f"{name}/conv{i}", d, f, size, rngs=rngs))
            setattr(self, f"bn{i}", layers.BatchNorm(config, f))
            d = f
        side = config.image_size >> (self.count - 1)
        self.dense_dropout = config.dense_dropout
        self.dense = layers.dense(config, side * side * d, width, rngs) if width else None

    def __call__(self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
        def block(conv: layers.Conv, bn: layers.BatchNorm, rngs: nnx.Rngs | None, x: jax.Array) -> jax.Array:
            return bn(layers.dropout(jax.nn.relu(conv(x, train=train)), self.dropout, rngs), train=train)

        run = nnx.remat(block) if self.remat and train else block
        for i in range(1, self.count + 1):
            x = run(getattr(self, f"conv{i}"), getattr(self, f"bn{i}"), rngs, x)
            x = x if i == self.count else layers.max_pool(x, 2)
        if self.dense is None:
            return x.mean(axis=(1, 2))
        return layers.dropout(jax.nn.relu(self.dense(x.reshape(x.shape[0], -1))), self.dense_dropout, rngs)
