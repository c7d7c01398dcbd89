"""Drawn faces, for a machine without any data: the quick start, and a check that everything works.

    expressnet data prepare synthetic_faces
    expressnet train --config=synthetic_faces --workdir DIR
    expressnet train --config=synthetic_faces:paper --workdir DIR    the full 224-pixel network, 8 classes

Hardware: 2 CPU cores. Measured: training 4:22 on a slow machine (1:56 on a fast one), 98.92 % on the
test split (docs/benchmarks.md); `paper`: not yet run.
"""

from data_pipelines.labels import EMOTIONS
from expressnet_jax.config import of_recipe


def get_config(recipe=None):
    c = of_recipe("synthetic_faces", recipe, EMOTIONS, recipes=("paper",), preset="small")
    c.data.update(validation_split="validation", test_split="test")
    if recipe:
        return c
    # Fewer filters than the small preset has, so that a laptop learns to read the faces in two minutes.
    c.model.cnnfe1.update(kernels=(7, 5, 3, 3), filters=(16, 32, 64, 128), stride=1)
    c.model.cnnfe2.update(kernels=(5, 3, 3), filters=(16, 32, 64), stride=1)
    c.model.resnet.update(stem_filters=16, blocks=(1, 1, 1), filters=(16, 32, 64))
    c.model.update(cnnfe1_width=128, fuse_width=128, conv_dropout=0.0, dense_dropout=0.0)
    c.moe.hidden = 128
    c.total, c.batch_size = "6epochs", 32
    # Of our recipe's changes only the mirroring stays.
    c.augment.update(crop=0.0, shift=0.0, rotate=0.0, brightness=0.0, contrast=0.0, erase=0.0)
    c.optimizer.learning_rate = 2e-3
    c.schedule.warmup = "100steps"
    c.ema.decay = 0.0
    return c
