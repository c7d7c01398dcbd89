"""FER+, FER-2013's pictures with ten people's votes each: eight classes, trained on the shares of the votes.

    expressnet data prepare ferplus --from FOLDER     with fer2013new.csv beside fer2013.csv, or beside the PNG folders
    expressnet train --config=ferplus --workdir DIR

Official splits: PublicTest validates, PrivateTest tests. Hardware: one GPU or a TPU slice. Measured: not yet run.
"""

from data_pipelines.labels import EMOTIONS
from expressnet_jax.config import ConfigError, our_config


def get_config(recipe=None):
    if recipe:
        raise ConfigError(f"ferplus has no recipe {recipe!r}: the paper does not use FER+")
    c = our_config()
    c.data.name = "ferplus"
    c.data.classes = EMOTIONS
    c.data.target = "votes"
    c.data.validation_split = "public_test"
    c.data.test_split = "private_test"
    c.preprocess.mean, c.preprocess.std = 0.507, 0.255  # of FER-2013's training pixels
    return c
