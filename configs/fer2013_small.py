"""FER-2013 at its own 48 pixels with the small network, for CPUs and edge devices.

    expressnet data prepare fer2013 --from fer2013.tar.xz
    expressnet train --config=fer2013_small --workdir DIR

Hardware: 2 CPU cores; Python 3.12, whose jax uses both for convolutions. Measured: not yet run whole with these sizes;
with --config.total=8epochs (Python 3.11) 8 minutes, 56.75 % of the held-out examples. The sizes before, one run: 60
minutes, 61.55 % on PublicTest, which chose nothing (docs/benchmarks.md).
"""

from data_pipelines.labels import SEVEN
from expressnet_jax.config import of_recipe


def get_config(recipe=None):
    c = of_recipe("fer2013_small", recipe, SEVEN, why="; for the published one take fer2013:paper", preset="small")
    c.data.update(name="fer2013", test_split="public_test")
    c.total = "24epochs"
    c.preprocess.update(mean=0.507, std=0.255)  # of FER-2013's training pixels
    c.augment.update(crop=0.1, shift=0.08, erase=0.0)
    c.optimizer.learning_rate = 2e-3
    c.schedule.warmup = "1epochs"
    c.ema.decay = 0.998
    c.model.update(dense_dropout=0.3, conv_dropout=0.0)
    return c
