"""RAF-DB's basic set with the full 224-pixel network: seven classes.

    expressnet data prepare rafdb --from FOLDER
    expressnet train --config=rafdb --workdir DIR          our recipe: a tenth of the training split validates
    expressnet train --config=rafdb:paper --workdir DIR    as published: validation is the test set

Hardware: one GPU or a TPU slice. Measured: not yet run.
"""

from data_pipelines.labels import SEVEN
from expressnet_jax.config import of_recipe


def get_config(recipe=None):
    c = of_recipe("rafdb", recipe, SEVEN, recipes=("paper",))
    if recipe:
        c.data.validation_split = "test"  # the published accuracies are test-selected
        c.init.preprocess = False  # as published, also for weights that expect something else
    return c
