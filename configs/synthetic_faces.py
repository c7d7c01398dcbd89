"""Drawn faces, for a machine without any data: the quick start, and a check that everything works.

    expressnet data prepare synthetic_faces
    expressnet train --config=synthetic_faces --workdir DIR
    expressnet train --config=synthetic_faces:paper --workdir DIR    the full 224-pixel network, 8 classes

Hardware: 2 CPU cores. Measured: training 2:11, 98.83 % on the test split (docs/benchmarks.md); `paper`: not yet run.
"""

from data_pipelines.labels import EMOTIONS
from expressnet_jax.config import ConfigError, default_config, our_config


def get_config(recipe=None):
    if recipe not in (None, "paper"):
        raise ConfigError(f"synthetic_faces has no recipe {recipe!r}; it has: paper")
    c = default_config("paper") if recipe else our_config("small")
    c.data.name = "synthetic_faces"
    c.data.classes = EMOTIONS
    c.data.validation_split = "validation"
    c.data.test_split = "test"
    if recipe:
        return c
    # A third of the small preset's work, so that a laptop learns to read the faces in two minutes.
    c.model.cnnfe1.kernels, c.model.cnnfe1.filters = (7, 5, 3, 3), (16, 32, 64, 128)
    c.model.cnnfe2.kernels, c.model.cnnfe2.filters = (5, 3, 3), (16, 32, 64)
    c.model.resnet.blocks, c.model.resnet.filters = (1, 1, 1), (16, 32, 64)
    c.model.cnnfe1_width = c.model.fuse_width = c.moe.hidden = 128
    c.model.conv_dropout = c.model.dense_dropout = 0.0
    c.total = "6epochs"
    c.batch_size = 32
    for name in ("crop", "shift", "rotate", "brightness", "contrast", "erase"):
        c.augment[name] = 0.0  # of our recipe's changes only the mirroring stays
    c.optimizer.learning_rate = 2e-3
    c.schedule.warmup = "100steps"
    c.ema.decay = 0.0
    return c
