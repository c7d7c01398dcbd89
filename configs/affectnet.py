"""AffectNet with the full 224-pixel network: eight classes, or seven without contempt.

    expressnet data prepare affectnet --from FOLDER
    expressnet train --config=affectnet --workdir DIR           our recipe, eight classes, official releases
    expressnet train --config=affectnet:seven --workdir DIR     the same without contempt
    expressnet train --config=affectnet:paper --workdir DIR     as published: Kaggle's subset, 80/20, seven classes
    expressnet train --config=affectnet:paper8 --workdir DIR    the same with eight classes

Official results are on AffectNet's validation set, which here tests: a tenth of the training split validates. The
paper's numbers are on a fifth of Kaggle's subset, which also chose the model; the two do not compare.
Hardware: one GPU or a TPU slice. Measured: not yet run.
"""

from data_pipelines.labels import EMOTIONS, SEVEN
from expressnet_jax.config import ConfigError, default_config, our_config

_CLASSES = {None: EMOTIONS, "seven": SEVEN, "paper": SEVEN, "paper8": EMOTIONS}


def get_config(recipe=None):
    if recipe not in _CLASSES:
        raise ConfigError(f"affectnet has no recipe {recipe!r}; it has: seven, paper, paper8")
    published = recipe in ("paper", "paper8")
    c = default_config("paper") if published else our_config()
    c.data.name = "affectnet"
    c.data.classes = _CLASSES[recipe]
    if published:
        c.data.holdout, c.data.validation_fraction, c.data.holdout_seed = "random", 0.2, 52
        c.data.test_split = "held_out"  # the published accuracies are test-selected
        c.init.preprocess = False  # as published, also for weights that expect something else
        return c
    c.data.test_split = "validation"
    c.data.sampling = "sqrt"  # happiness has 35 times as many pictures as disgust and contempt
    return c
