"""FER+, FER-2013's pictures with ten people's votes each: eight classes, trained on the shares of the votes.

    expressnet data prepare ferplus --from FOLDER     with fer2013new.csv beside fer2013.csv, or beside the PNG folders
    expressnet train --config=ferplus --workdir DIR

Official splits: PublicTest validates, PrivateTest tests. Hardware: one GPU or a TPU slice. Measured: not yet run.
"""

from data_pipelines.labels import EMOTIONS
from expressnet_jax.config import of_recipe


def get_config(recipe=None):
    c = of_recipe("ferplus", recipe, EMOTIONS, why=": the paper does not use FER+")
    c.data.update(target="votes", validation_split="public_test", test_split="private_test")
    c.preprocess.update(mean=0.507, std=0.255)  # of FER-2013's training pixels
    return c
