"""FER-2013 at its own 48 pixels with a network of four times the small one's work, for patient CPUs or one GPU.

    expressnet data prepare fer2013 --from fer2013.tar.xz
    expressnet train --config=fer2013_medium --workdir DIR

6.6 million parameters, 376 MFLOP a picture. Hardware: 2 CPU cores, or one GPU. Measured: not yet run.
"""

from data_pipelines.labels import SEVEN
from expressnet_jax.config import for_48_pixels, of_recipe


def get_config(recipe=None):
    c = for_48_pixels(
        of_recipe(
            "fer2013_medium", recipe, SEVEN, why="; for the published one take fer2013_small:published", preset="small"
        )
    )
    c.data.update(name="fer2013", test_split="public_test")
    c.model.cnnfe1.filters, c.model.cnnfe2.filters = (32, 64, 128, 256), (64, 128, 256, 512, 512)
    c.model.resnet.update(stem_filters=32, blocks=(2, 2, 2), filters=(32, 64, 128))
    c.total = "40epochs"
    return c
