"""AffectNet with the full 224-pixel network: eight classes, or seven without contempt.

    expressnet data prepare affectnet --from FOLDER
    expressnet train --config=affectnet --workdir DIR           our recipe, eight classes, official releases
    expressnet train --config=affectnet:seven --workdir DIR     the same without contempt
    expressnet train --config=affectnet:paper --workdir DIR     as published: Kaggle's subset, 80/20, seven classes
    expressnet train --config=affectnet:paper8 --workdir DIR    the same with eight classes
    expressnet train --config=affectnet:pod --workdir DIR --distributed     our recipe for 256 chips, 32 pictures each

Official results are on AffectNet's validation set, which is the test split here; a tenth of the training split
validates. The paper's numbers are on a fifth of Kaggle's subset, which also chose the model: they are not comparable.
Hardware: one GPU or a TPU slice; `pod`: 256 chips. Measured: not yet run, nor is `pod`.

`pod` has a batch of 8,192: 35 steps an epoch of 287,651 pictures (31.6 with a tenth held out), 2,844 in all, where
batches of 32 make 9,000 an epoch. What differs because of that, and why:
- LAMB at 0.005 x sqrt(8192 / 512) = 0.02 after five epochs of warm-up, and 90 epochs: what You et al. 2020 (arXiv
  1904.00962) took for ResNet-50 at this batch. This network is another one: try the rate first.
- BatchNorm over 32 neighbours, one chip's: the noise of small batches that Hoffer et al. 2017 (arXiv 1705.08741) and
  Goyal et al. 2017 (arXiv 1706.02677) keep, and no chip waits for another's statistics.
- Averages span as many pictures as at a batch of 128, not as many steps: decays of 0.999 and 0.99 to the power of 64
  (Busbridge et al. 2023, arXiv 2307.13813); for BatchNorm's, which see 256 groups a step, no further than 0.9.
- bfloat16; the optimizer's state whole on every chip, since Adam's moments and the averages are 431 MB of its 16 GB.
docs/large_batches.md has the whole story.
"""

from data_pipelines.labels import EMOTIONS, SEVEN
from expressnet_jax.config import of_recipe


def get_config(recipe=None):
    classes = SEVEN if recipe in ("seven", "paper") else EMOTIONS
    c = of_recipe("affectnet", recipe, classes, recipes=("seven", "paper", "paper8", "pod"))
    if recipe in ("paper", "paper8"):
        c.data.update(validation_split="", holdout="random", validation_fraction=0.2, holdout_seed=52)
        c.data.test_split = "held_out"  # the published accuracies are test-selected
        c.init.preprocess = False  # as published, also for weights that expect something else
        return c
    c.data.test_split = "validation"
    c.data.sampling = "sqrt"  # happiness has 35 times as many pictures as disgust and contempt
    if recipe == "pod":
        c.batch_size, c.total = 8192, "90epochs"
        c.model.update(dtype="bfloat16", batchnorm_group=32, batchnorm_momentum=0.9)
        c.optimizer.update(name="lamb", learning_rate=0.005, scaling="sqrt", base_batch=512)
        c.schedule.warmup = "5epochs"
        c.ema.decay = 0.94
    return c
