"""A config for tests: every part of the network, every random part of training, seconds on a CPU."""

from data_pipelines.labels import EMOTIONS
from expressnet_jax.config import default_config


def get_config(recipe=None):
    c = default_config("small")
    c.data.name = "synthetic_faces/tiny"
    c.data.classes = EMOTIONS
    c.data.validation_split = "validation"
    c.model.image_size = 32
    c.model.cnnfe1.update(kernels=(5, 3), filters=(4, 8), stride=1)
    c.model.cnnfe2.update(kernels=(3, 3), filters=(4, 8), stride=1)
    c.model.resnet.stem_filters, c.model.resnet.blocks, c.model.resnet.filters = 4, (1, 1), (4, 8)
    c.model.cnnfe1_width = c.model.fuse_width = c.moe.hidden = 16
    c.model.conv_dropout, c.model.dense_dropout, c.model.dense_batchnorm = 0.1, 0.2, False  # as the paper has it
    c.batch_size, c.total, c.eval_every, c.save_every, c.log_every = 16, "24steps", "8steps", "4steps", "2steps"
    c.augment.flip, c.augment.crop, c.augment.shift, c.augment.rotate = True, 0.1, 0.1, 10.0
    c.augment.brightness, c.augment.erase, c.augment.mixup = 0.2, 0.5, 0.2
    c.optimizer.learning_rate = 1e-3
    c.ema.decay = 0.9
    c.early_stop.patience = 0
    return c
