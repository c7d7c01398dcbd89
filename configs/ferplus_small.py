"""FER+ at its own 48 pixels with the small network: eight classes, trained on the shares of people's votes.

    expressnet data prepare ferplus --from FOLDER     with fer2013new.csv beside fer2013.csv, or beside the PNG folders
    expressnet train --config=ferplus_small --workdir DIR

Official splits: PublicTest validates, PrivateTest tests. Hardware: 2 CPU cores, Python 3.12. Measured: not yet run: the
copy of FER-2013 that was at hand has neither PrivateTest nor the names that FER+ knows its pictures by.
"""

from data_pipelines.labels import EMOTIONS
from expressnet_jax.config import for_48_pixels, of_recipe


def get_config(recipe=None):
    c = for_48_pixels(of_recipe("ferplus_small", recipe, EMOTIONS, why=": the paper does not use FER+", preset="small"))
    c.data.update(name="ferplus", target="votes", validation_split="public_test", test_split="private_test")
    c.total = "60epochs"
    return c
