"""What a run is made of: frozen dataclasses, checked as a whole (checks.py) before a device is touched.

A config file holds one function, `get_config(recipe) -> ConfigDict`. It starts from `default_config()`, the published
recipe, and changes what differs. Every field below can be set on the command line as `--config.section.field=value`.
"""

import math
import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

from data_pipelines.common.errors import Failure
from data_pipelines.common.ranges import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Range
from data_pipelines.labels import GREY
from expressnet_jax.moe.settings import MoE

#: The value of data.validation_split that leaves the choice to the data set.
AUTO = "auto"
#: The parts of the network that look at the picture, and its mixtures of experts: what `model.without` can name.
BRANCHES = ("cnnfe1", "cnnfe2", "resnet")
MIXTURES = ("moe_cnn", "moe_expression")
_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*(steps?|epochs?|examples?|%)")  # of a duration


class ConfigError(Failure):
    """A wrong config or command line. The message is one line: what is wrong, with the numbers, and the way out."""

    exit_code = 2


@dataclass(frozen=True)
class Mesh:
    # Devices along the batch; -1: all that `expert` leaves.
    data: Annotated[int, Range("must be above 0, or -1 for all devices", lambda n: n > 0 or n == -1)] = -1
    expert: PositiveInt = 1  # devices that the experts of a layer are spread over
    # Optimizer state and averaged weights, and so gradients, split along `data` instead of kept on every device.
    shard_optimizer: bool = False


@dataclass(frozen=True)
class Data:
    name: str = "synthetic_faces"  # a prepared data set: see `expressnet data prepare`
    classes: tuple[str, ...] = ()  # the network's outputs, in order; mapped to the data set's own order by name
    train_split: str = "train"
    # AUTO: the data set's own split `validation`, where it has one that is not the test split, or else, as for "", hold
    # out `validation_fraction` of the training split
    validation_split: str = AUTO
    validation_fraction: Fraction = 0.1  # per class
    # clean: equal pictures stay on one side; random: scikit-learn's stratified train_test_split
    holdout: Literal["clean", "random"] = "clean"
    holdout_seed: NonNegativeInt = 0  # the held-out examples are the same for every seed of a run
    test_split: str = "test"  # "test": every test part that this copy of the data set has
    # sqrt, balanced: rarer classes more often, by the root of their number or until all are equally frequent
    sampling: Literal["uniform", "sqrt", "balanced"] = "uniform"
    also: str = ""  # further training data: "rafdb=0.5,ferplus=1", how often their examples come against this set's
    target: Literal["label", "votes"] = "label"  # votes: the shares of people's votes, where there are any (ferplus)
    workers: NonNegativeInt = 0  # decoding processes a host; 0: threads

    @property
    def channels(self) -> int:
        """Of the pictures as they are stored, where the data set is known to be grey or coloured."""
        return 1 if self.name.partition("/")[0] in GREY else 3

    @property
    def further(self) -> list[tuple[str, float]]:
        """`also` as pairs of a data set and its rate. Raises ConfigError where it is not of that form."""
        pairs = []
        for part in self.also.split(",") if self.also else ():
            name, _, text = part.partition("=")
            try:
                rate = float(text)
            except ValueError:
                rate = math.nan
            if not name.strip() or not 0 < rate < math.inf:
                raise ConfigError(f"data.also={self.also!r}: {part!r} is not NAME=RATE with a rate above 0")
            pairs.append((name.strip(), rate))
        return pairs


@dataclass(frozen=True)
class Extractor:
    """One convolutional branch: blocks of conv, relu, dropout, BatchNorm and, but for some, a 2x2 max pool."""

    kernels: tuple[PositiveInt, ...] = (75, 50, 25, 15, 9, 3)
    filters: tuple[PositiveInt, ...] = (8, 16, 32, 64, 128, 256)
    stride: PositiveInt = 1  # of the first convolution
    # Blocks, counted from 1, that no pool follows, beside the last: 1,3 makes of five blocks two, two and one of one
    # resolution, as in VGG. The paper's branches have none.
    unpooled: tuple[PositiveInt, ...] = ()

    def pooled(self, block: int) -> bool:
        """Whether a pool follows a block, counted from 1."""
        return block < len(self.kernels) and block not in self.unpooled

    def side(self, image_size: int, block: int) -> int:
        """Of the map that a block's convolution gives, before its pool; blocks count from 1."""
        return -(-image_size // self.stride) >> sum(self.pooled(before) for before in range(1, block))


@dataclass(frozen=True)
class ResNet:
    """A bottleneck ResNet v1 in VGGFace2's form; each stage ends with 4 x its filters."""

    stem_kernel: PositiveInt = 7
    stem_stride: PositiveInt = 2
    stem_filters: PositiveInt = 64
    stem_pool: bool = True  # 3x3 stride-2 max pool, VALID
    # original: stages 3 to 5 halve in their first 1x1, as in VGGFace2 and the paper; torchvision: in the 3x3, and
    # strided convolutions and the max pool are padded on both sides.
    form: Literal["original", "torchvision"] = "original"
    blocks: tuple[PositiveInt, ...] = (3, 4, 6, 3)
    filters: tuple[PositiveInt, ...] = (64, 128, 256, 512)


@dataclass(frozen=True)
class Model:
    preset: Literal["paper", "small"] = "paper"
    image_size: PositiveInt = 224  # pixels; pictures are resized to it on the device
    dtype: Literal["float32", "bfloat16"] = "float32"  # of activations; parameters, statistics, router, loss: float32
    network: Literal["expressnet", "backbone"] = "expressnet"  # backbone: the ResNet and a linear head, the yardstick
    # Parts that are left out, for ablations: cnnfe1 (and moe_cnn with it), cnnfe2, resnet, moe_cnn, moe_expression.
    # Without both cnnfe2 and resnet, nothing is fused, and moe_expression goes too.
    without: tuple[str, ...] = ()
    # Form of the convolutions of stride 1: direct, fft, dft, or auto, the fastest by what was measured;
    # "cnnfe1/conv1=fft,cnnfe2/conv1=direct" gives some layers theirs.
    convolution: str = "auto"
    remat: bool = False  # compute each block again for its gradient: less memory, about a third more arithmetic
    cnnfe1: Extractor = Extractor()
    cnnfe1_width: PositiveInt = 512
    cnnfe2: Extractor = Extractor(kernels=(15, 7, 5, 3, 3), filters=(16, 32, 64, 128, 256))
    resnet: ResNet = ResNet()
    fuse_width: PositiveInt = 512
    conv_dropout: Fraction = 0.1  # after the relu of each extractor block
    dense_dropout: Fraction = 0.5  # after CNNFE1's dense layer, the ResNet's pool and the fuse layer
    # BatchNorm before the relu of CNNFE1's dense layer and of the fuse layer, which may die else (docs/recipes.md).
    dense_batchnorm: bool = False
    batchnorm_epsilon: PositiveFloat = 1e-3
    batchnorm_momentum: Fraction = 0.99
    batchnorm_group: NonNegativeInt = 0  # pictures that share statistics in training; 0: all of a (micro-)batch

    @property
    def parts(self) -> tuple[str, ...]:
        """What the network is made of beside its head, in the order in which it is computed."""
        if self.network == "backbone":
            return ("resnet",)
        gone = {*self.without}
        gone |= {"moe_cnn"} if "cnnfe1" in gone else set()
        gone |= {"fuse", "moe_expression"} if {"cnnfe2", "resnet"} <= gone else set()
        return tuple(name for name in (*BRANCHES, "fuse", *MIXTURES) if name not in gone)


@dataclass(frozen=True)
class Preprocess:
    color_order: Literal["rgb", "bgr"] = "bgr"  # of the network's three input channels
    # unit: /255; standard: (x/255 - mean) / std; vggface2: 0-255 minus VGGFace2's means; imagenet: torchvision's;
    # per_image: (x - m) / (s + 8), by each picture's own mean m and deviation s on the scale 0-255
    normalize: Literal["unit", "standard", "vggface2", "imagenet", "per_image"] = "unit"
    mean: float = 0.0  # used by `standard`
    std: PositiveFloat = 1.0
    antialias: bool = False  # when a picture is made smaller (OpenCV's bilinear resize is not)


@dataclass(frozen=True)
class Augment:
    """Random changes to training pictures; 0 (or False) turns one off. All published recipes here use none."""

    flip: bool = False  # mirror half of the pictures
    crop: Fraction = 0.0  # random resized crop: side length scaled by a factor in [1 - crop, 1 + crop]
    shift: Fraction = 0.0  # up to this fraction of the side, in x and in y
    rotate: NonNegativeFloat = 0.0  # up to this many degrees
    brightness: Fraction = 0.0  # factor in [1 - b, 1 + b]
    contrast: Fraction = 0.0
    saturation: Fraction = 0.0
    # Probability of one random rectangle, 2 % to 20 % of the area, filled with noise.
    erase: Annotated[float, Range("must be a probability, from 0 to 1", lambda x: 0 <= x <= 1)] = 0.0
    mixup: NonNegativeFloat = 0.0  # alpha of the Beta distribution


@dataclass(frozen=True)
class Optimizer:
    name: Literal["adam", "adamw", "sgd", "lamb"] = "adam"  # sgd with Nesterov's momentum
    learning_rate: PositiveFloat = 1e-4
    # Multiplies the learning rate by batch_size / base_batch (linear) or its root (sqrt); docs/large_batches.md.
    scaling: Literal["none", "linear", "sqrt"] = "none"
    base_batch: PositiveInt = 32  # the batch size that learning_rate is meant for; used by `scaling`
    b1: Fraction = 0.9  # momentum, for sgd
    b2: Fraction = 0.999
    eps: PositiveFloat = 1e-7  # Keras's default
    weight_decay: NonNegativeFloat = 0.0  # adamw, lamb: decoupled; sgd: added to the gradient; on kernels only
    clip_norm: NonNegativeFloat = 0.0  # global gradient norm; 0: off
    accumulate: PositiveInt = 1  # micro-batches a step; BatchNorm sees one micro-batch at a time
    max_nonfinite: PositiveInt = 10  # so many non-finite gradients in a row end the run


@dataclass(frozen=True)
class Schedule:
    name: Literal["epoch_decay", "cosine", "constant"] = "epoch_decay"
    decay: PositiveFloat = 0.95  # epoch_decay: factor before every epoch, the first included
    warmup: str = "0steps"  # linear, from 0 to the rate that the schedule then has
    final: NonNegativeFloat = 0.0  # cosine: last learning rate as a fraction of the first


@dataclass(frozen=True)
class Ema:
    decay: Fraction = 0.0  # per step, for parameters and BatchNorm statistics; 0: off


@dataclass(frozen=True)
class EarlyStop:
    patience: NonNegativeInt = 5  # evaluations without a lower validation loss; 0: off


@dataclass(frozen=True)
class Watchdog:
    # A run of which no step, and no batch of a validation, has ended for so long is ended with exit code 76.
    seconds: PositiveFloat = 1800.0


@dataclass(frozen=True)
class Recovery:
    # An interval whose mean loss is so many times that of guessing, log(classes), is lost; three in a row end the run.
    explosion: PositiveFloat = 10.0
    rollbacks: NonNegativeInt = 0  # how often a lost run goes back to its last good checkpoint, other batches before it
    halve_rate: bool = False  # the learning rate, each time


@dataclass(frozen=True)
class Init:
    run: str = ""  # folder of a run whose best weights this one starts from; it may have fewer experts
    perturbation: NonNegativeFloat = 0.01  # of copied experts: standard deviation, as a fraction of each kernel's own
    weights: str = ""  # file with weights of the whole network: .safetensors of an artifact, or the authors' .h5
    backbone: str = ""  # file with weights of the ResNet: VGGFace2's .h5, torchvision's .safetensors, or one of those
    preprocess: bool = True  # of such a file: set preprocess.* to what its weights expect
    strict: bool = True  # refuse a file that does not fit name by name, or belongs to another form of network


@dataclass(frozen=True)
class Config:
    seed: Annotated[NonNegativeInt, Range("must be below 2^32", lambda n: n < 2**32)] = 0
    batch_size: PositiveInt = 32  # global
    total: str = "15epochs"  # durations: 30steps, 15epochs, 10000examples, or (of the total) 5%
    eval_every: str = "1epochs"
    save_every: str = "1epochs"
    log_every: str = "20steps"
    keep: PositiveInt = 2  # newest checkpoints kept, besides the best
    label_smoothing: Fraction = 0.1
    mesh: Mesh = Mesh()
    data: Data = Data()
    model: Model = Model()
    moe: MoE = field(default_factory=MoE)
    preprocess: Preprocess = Preprocess()
    augment: Augment = Augment()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    ema: Ema = Ema()
    early_stop: EarlyStop = EarlyStop()
    watchdog: Watchdog = Watchdog()
    recovery: Recovery = Recovery()
    init: Init = Init()


@dataclass(frozen=True)
class Clock:
    """Lengths of training, in the unit that suits the reader: steps, epochs, examples, or percent of the whole."""

    batch_size: int
    examples: int  # in one epoch of the training split
    total_steps: int = 0

    def steps(self, duration: str, key: str = "duration") -> int:
        """Steps in `duration`, rounded to the nearest and at least 1 (0 only for a duration of 0).

        Raises ConfigError, naming `key`, where the text is not a duration.
        """
        number, unit = parse_duration(duration, key)
        epoch = self.examples / self.batch_size
        lengths = {"step": 1.0, "epoch": epoch, "example": 1.0 / self.batch_size, "%": self.total_steps / 100}
        return max(1, round(number * lengths[unit])) if number else 0

    def epoch(self, step: int) -> float:
        """Epochs seen before `step`."""
        return step * self.batch_size / self.examples


def parse_duration(duration: str, key: str = "duration") -> tuple[float, str]:
    """Splits "15epochs" into (15.0, "epoch"). Units: step, epoch, example, %."""
    match = _FORM.fullmatch(duration.strip())
    if not match:
        raise ConfigError(f"{key}={duration!r} is not a duration; write 30steps, 15epochs, 10000examples or 5%")
    return float(match[1]), match[2].rstrip("s") if match[2] != "%" else "%"
