"""Ready-made networks, and the recipes that config files start from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import ml_collections

from expressnet_jax.config.settings import Config, ConfigError, Extractor, Model, ResNet
from expressnet_jax.moe.settings import MoE

_SMALL = Model(
    preset="small", image_size=48, cnnfe1_width=256, fuse_width=256, batchnorm_momentum=0.9,
    cnnfe1=Extractor(kernels=(15, 11, 5, 3, 3), filters=(8, 16, 32, 64, 128)),
    cnnfe2=Extractor(kernels=(5, 3, 3, 3), filters=(16, 32, 64, 128)),
    resnet=ResNet(stem_kernel=3, stem_stride=2, stem_filters=16, blocks=(1, 2, 2, 2), filters=(16, 48, 96, 192)),
)  # fmt: skip
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
    c.total, c.batch_size = "60epochs", 128
    c.preprocess.update(color_order="rgb", normalize="standard", mean=0.5, std=0.25)
    c.augment.update(flip=True, crop=0.2, shift=0.1, rotate=10.0, brightness=0.2, contrast=0.2, erase=0.3)
    c.optimizer.update(name="adamw", learning_rate=1e-3, weight_decay=0.05, clip_norm=1.0)
    c.schedule.update(name="cosine", warmup="2epochs")
    c.ema.decay = 0.999
    c.early_stop.patience = 0
    return c


def of_recipe(
    config: str, recipe: str | None, classes: Sequence[str], *, recipes: Sequence[str] = (), why: str = "",
    preset: str = "paper",
) -> ml_collections.ConfigDict:  # fmt: skip
    """What a config file starts from: the published recipe where `recipe` is called paper..., else ours with `preset`.

    `config` is the file's name, and the data set's. Raises ConfigError for a recipe that is none of `recipes`; `why`
    ends its message, which otherwise lists them.
    """
    if recipe and recipe not in recipes:
        raise ConfigError(f"{config} has no recipe {recipe!r}{why or '; it has: ' + ', '.join(recipes)}")
    c = default_config() if recipe and recipe.startswith("paper") else our_config(preset)
    c.data.name, c.data.classes = config, tuple(classes)
    return c
