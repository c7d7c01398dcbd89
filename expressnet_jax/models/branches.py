"""The three branches that look at a picture: CNNFE1 (large kernels, flattened), CNNFE2 (small, averaged), a ResNet-50.

Legend: B image, H W height and width, D in, F out (of a ResNet's stage: its filters; a block gives 4 F channels), h w
height and width of the last map.

Sources: arXiv 2510.13493, section 3. The ResNet is of the original v1 form of VGGFace2's face-recognition weights (Cao
et al. 2018; He et al. 2016): the stride of stages 3 to 5 sits in the first 1x1 convolution, and stage 2's first block
projects its shortcut too.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from expressnet_jax.config import Extractor, Model
from expressnet_jax.config.settings import ResNet as Spec
from expressnet_jax.models import layers


class Blocks(nnx.Module):
    """conv -> relu -> dropout -> BatchNorm -> 2x2 max pool, once per kernel; no pool after the last one and `unpooled`.

    The last map is averaged, or flattened into a dense layer where `width` is not 0:
    (B, H, W, 3) -> (B, h, w, F) with h = H / stride / 2^pools -> (B, F) or (B, width).
    """

    dense: nnx.Linear | None
    dense_bn: layers.BatchNorm | None

    def __init__(self, config: Model, name: str, extractor: Extractor, width: int, rngs: nnx.Rngs) -> None:
        self.dropout, self.remat, self.spec = config.conv_dropout, config.remat, extractor
        d = 3
        for i, (size, f) in enumerate(zip(extractor.kernels, extractor.filters, strict=True), start=1):
            stride = extractor.stride if i == 1 else 1
            setattr(self, f"conv{i}", layers.Conv(config, f"{name}/conv{i}", d, f, size, stride=stride, rngs=rngs))
            setattr(self, f"bn{i}", layers.BatchNorm(config, f))
            d = f
        side, self.dense_dropout = extractor.side(config.image_size, len(extractor.kernels)), config.dense_dropout
        self.dense, self.dense_bn = layers.dense(config, side * side * d, width, rngs) if width else (None, None)

    def __call__(self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
        def block(conv: layers.Conv, bn: layers.BatchNorm, rngs: nnx.Rngs | None, x: jax.Array) -> jax.Array:
            return bn(layers.dropout(jax.nn.relu(conv(x, train=train)), self.dropout, rngs), train=train)

        run = nnx.remat(block) if self.remat and train else block
        for i in range(1, len(self.spec.kernels) + 1):
            x = run(getattr(self, f"conv{i}"), getattr(self, f"bn{i}"), rngs, x)
            x = layers.max_pool(x, 2) if self.spec.pooled(i) else x
        if self.dense is None:
            return x.mean(axis=(1, 2))
        x = self.dense(x.reshape(x.shape[0], -1))
        return layers.after_dense(x, self.dense_bn, self.dense_dropout, train=train, rngs=rngs)


def blocks(spec: Spec) -> Iterator[tuple[int, int, int, int]]:
    """(stage, block, D, F) of each block, in their order; stages count from 2, as the stem is the first."""
    d = spec.stem_filters
    for stage, (count, f) in enumerate(zip(spec.blocks, spec.filters, strict=True), start=2):
        for block in range(1, count + 1):
            yield stage, block, d, f
            d = 4 * f


class Bottleneck(nnx.Module):
    """1x1 reduce, 3x3, 1x1 increase, added to the input or its projection: (B, H, W, D) -> (B, H', W', 4 F)."""

    def __init__(self, config: Model, d: int, f: int, *, stride: int, project: bool, rngs: nnx.Rngs) -> None:
        def conv(d: int, f: int, size: int, stride: int = 1) -> layers.Conv:
            return layers.Conv(config, "resnet", d, f, size, stride=stride, bias=False, even=late, rngs=rngs)

        self.project, late = project, config.resnet.form == "torchvision"
        first, second = (1, stride) if late else (stride, 1)
        self.reduce, self.reduce_bn = conv(d, f, 1, first), layers.BatchNorm(config, f)
        self.conv3, self.conv3_bn = conv(f, f, 3, second), layers.BatchNorm(config, f)
        self.increase, self.increase_bn = conv(f, 4 * f, 1), layers.BatchNorm(config, 4 * f)
        if project:
            self.proj, self.proj_bn = conv(d, 4 * f, 1, stride), layers.BatchNorm(config, 4 * f)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = jax.nn.relu(self.reduce_bn(self.reduce(x, train=train), train=train))
        y = jax.nn.relu(self.conv3_bn(self.conv3(y, train=train), train=train))
        y = self.increase_bn(self.increase(y, train=train), train=train)
        shortcut = self.proj_bn(self.proj(x, train=train), train=train) if self.project else x
        return jax.nn.relu(y + shortcut)


class Stage(nnx.Module):
    """Blocks of one resolution; the first one projects and, but for stage 2, halves it."""

    def __init__(self, config: Model, d: int, f: int, *, blocks: int, stride: int, rngs: nnx.Rngs) -> None:
        self.count, self.remat = blocks, config.remat
        for i in range(1, blocks + 1):
            sizes = {"d": d, "stride": stride} if i == 1 else {"d": 4 * f, "stride": 1}
            setattr(self, f"block{i}", Bottleneck(config, f=f, project=i == 1, rngs=rngs, **sizes))

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def block(block: Bottleneck, x: jax.Array) -> jax.Array:
            return block(x, train=train)

        run = nnx.remat(block) if self.remat and train else block
        for i in range(1, self.count + 1):
            x = run(getattr(self, f"block{i}"), x)
        return x


class ResNet(nnx.Module):
    """(B, H, W, 3) -> (B, 4 x filters of the last stage), after global average pool and dropout."""

    def __init__(self, config: Model, rngs: nnx.Rngs) -> None:
        spec = config.resnet
        self.pool, self.dropout, self.count = spec.stem_pool, config.dense_dropout, len(spec.blocks)
        self.even, d, size = spec.form == "torchvision", spec.stem_filters, spec.stem_kernel
        stem: Any = {"stride": spec.stem_stride, "bias": False, "even": self.even}
        self.conv1 = layers.Conv(config, "resnet", 3, d, size, rngs=rngs, **stem)
        self.conv1_bn = layers.BatchNorm(config, d)
        for i, (blocks, f) in enumerate(zip(spec.blocks, spec.filters, strict=True), start=2):
            setattr(self, f"stage{i}", Stage(config, d, f, blocks=blocks, stride=1 if i == 2 else 2, rngs=rngs))
            d = 4 * f

    def __call__(self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
        x = jax.nn.relu(self.conv1_bn(self.conv1(x, train=train), train=train))
        if self.pool:
            # After a relu 0 is as good as torchvision's minus infinity.
            x = layers.max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))) if self.even else x, 3)
        for i in range(2, self.count + 2):
            x = getattr(self, f"stage{i}")(x, train=train)
        return layers.dropout(x.mean(axis=(1, 2)), self.dropout, rngs)  # (B, h, w, D) -> (B, D)
