"""Drawn faces, for a machine without any data: the quick start, and a check that everything works.

    expressnet data prepare synthetic_faces
    expressnet train --config=synthetic_faces --workdir DIR
    expressnet train --config=synthetic_faces:paper --workdir DIR    the full 224-pixel network, 8 classes

Hardware: 2 CPU cores. Time and result: see docs/benchmarks.md; the `paper` recipe: not yet run.
"""

from data_pipelines.labels import EMOTIONS
from expressnet_jax.config import ConfigError, default_config


def get_config(recipe=None):
    if recipe not in (None, "paper"):
        raise ConfigError(f"synthetic_faces has no recipe {recipe!r}; it has: paper")
    c = default_config(recipe or "small")
    c.data.name = "synthetic_faces"
    c.data.classes = EMOTIONS
    c.data.validation_split = "validation"
    c.data.test_split = "test"
    if recipe == "paper":
        return c
    c.total = "8epochs"
    c.batch_size = 64
    c.preprocess.color_order = "rgb"
    c.preprocess.normalize = "standard"
    c.preprocess.mean, c.preprocess.std = 0.5, 0.25
    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 2e-3
    c.optimizer.weight_decay = 0.05
    c.optimizer.clip_norm = 1.0
    c.schedule.name = "cosine"
    c.schedule.warmup = "5%"
    c.model.dense_dropout = 0.2
    c.model.conv_dropout = 0.0
    c.early_stop.patience = 0
    return c
