"""FER-2013 at its own 48 pixels with the small network, for CPUs and edge devices.

    expressnet data prepare fer2013 --from fer2013.tar.xz
    expressnet train --config=fer2013_small --workdir DIR

Hardware: 2 CPU cores. Measured: 60 minutes; 61.55 % on PublicTest, which chose nothing (one run, docs/benchmarks.md).
"""

from data_pipelines.labels import SEVEN
from expressnet_jax.config import ConfigError, default_config


def get_config(recipe=None):
    if recipe:
        raise ConfigError(f"fer2013_small has no recipe {recipe!r}; for the published one take fer2013:paper")
    c = default_config("small")
    c.data.name = "fer2013"
    c.data.classes = SEVEN
    c.data.test_split = "public_test"
    c.total = "24epochs"
    c.batch_size = 128
    c.preprocess.color_order = "rgb"
    c.preprocess.normalize = "standard"
    c.preprocess.mean, c.preprocess.std = 0.507, 0.255  # of FER-2013's training pixels
    c.augment.flip = True
    c.augment.crop = 0.1
    c.augment.shift = 0.08
    c.augment.rotate = 10.0
    c.augment.brightness = c.augment.contrast = 0.2
    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 2e-3
    c.optimizer.weight_decay = 0.05
    c.optimizer.clip_norm = 1.0
    c.schedule.name = "cosine"
    c.schedule.warmup = "1epochs"
    c.ema.decay = 0.998
    c.early_stop.patience = 0
    c.model.dense_dropout = 0.3
    c.model.conv_dropout = 0.0
    return c
