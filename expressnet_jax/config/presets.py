"""Ready-made networks, and the recipes that config files start from."""

from __future__ import annotations

import dataclasses

import ml_collections

from expressnet_jax.config.settings import Config, Extractor, Model, ResNet
from expressnet_jax.moe.settings import MoE

_SMALL = Model(
    preset="small",
    image_size=48,
    cnnfe1=Extractor(kernels=(15, 11, 5, 3, 3), filters=(8, 16, 32, 64, 128)),
    cnnfe1_width=256,
    cnnfe2=Extractor(kernels=(5, 3, 3, 3), filters=(16, 32, 64, 128)),
    resnet=ResNet(stem_kernel=3, stem_stride=2, stem_filters=16, blocks=(1, 2, 2, 2), filters=(16, 48, 96, 192)),
    fuse_width=256,
    batchnorm_momentum=0.9,
)
#: The sizes of the three branches, and of the experts.
PRESETS: dict[str, tuple[Model, MoE]] = {"paper": (Model(), MoE()), "small": (_SMALL, MoE(hidden=256))}


def default_config(preset: str = "paper") -> ml_collections.ConfigDict:
    """The published recipe (arXiv 2510.13493) with the sizes of a preset, as an editable ConfigDict."""
    model, moe = PRESETS[preset]
    return ml_collections.ConfigDict(dataclasses.asdict(dataclasses.replace(Config(), model=model, moe=moe)))


def our_config(preset: str = "paper") -> ml_collections.ConfigDict:
    """Our recipe: RGB, augmentation, AdamW with a cosine schedule, averaged weights. A config changes what it must.

    With the published network it has not yet been run to its end on any data set (docs/benchmarks.md).
    """
    c = default_config(preset)
    c.total = "60epochs"
    c.batch_size = 128
    c.preprocess.color_order = "rgb"
    c.preprocess.normalize = "standard"
    c.preprocess.mean, c.preprocess.std = 0.5, 0.25
    c.augment.flip = True
    c.augment.crop = 0.2
    c.augment.shift = 0.1
    c.augment.rotate = 10.0
    c.augment.brightness = c.augment.contrast = 0.2
    c.augment.erase = 0.3
    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 1e-3
    c.optimizer.weight_decay = 0.05
    c.optimizer.clip_norm = 1.0
    c.schedule.name = "cosine"
    c.schedule.warmup = "2epochs"
    c.ema.decay = 0.999
    c.early_stop.patience = 0
    return c
