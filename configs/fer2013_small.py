"""FER-2013 at its own 48 pixels with the small network, for CPUs and edge devices.

    expressnet data prepare fer2013 --from fer2013.tar.xz
    expressnet train --config=fer2013_small --workdir DIR

Hardware: 2 CPU cores. Measured: 60 minutes; 61.55 % on PublicTest, which chose nothing (one run, docs/benchmarks.md).
"""

from data_pipelines.labels import SEVEN
from expressnet_jax.config import ConfigError, our_config


def get_config(recipe=None):
    if recipe:
        raise ConfigError(f"fer2013_small has no recipe {recipe!r}; for the published one take fer2013:paper")
    c = our_config("small")
    c.data.name = "fer2013"
    c.data.classes = SEVEN
    c.data.test_split = "public_test"
    c.total = "24epochs"
    c.preprocess.mean, c.preprocess.std = 0.507, 0.255  # of FER-2013's training pixels
    c.augment.crop, c.augment.shift, c.augment.erase = 0.1, 0.08, 0.0
    c.optimizer.learning_rate = 2e-3
    c.schedule.warmup = "1epochs"
    c.ema.decay = 0.998
    c.model.dense_dropout, c.model.conv_dropout = 0.3, 0.0
    return c
