"""What a run is made of: frozen dataclasses, checked as a whole before a device is touched.

A config file holds one function, `get_config(recipe) -> ConfigDict`. It starts from `default_config()`, which is
the published recipe, and changes what differs. Every field below can be overridden on the command line as
`--config.section.field=value`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import ml_collections

from expressnet_jax.moe.settings import MoE

#: The parts of the network that look at the picture, and its mixtures of experts: what `model.without` can name.
BRANCHES = ("cnnfe1", "cnnfe2", "resnet")
MIXTURES = ("moe_cnn", "moe_expression")


class ConfigError(Exception):
    """A wrong config or command line. The message is one line: what is wrong, with the numbers, and the way out."""


@dataclass(frozen=True)
class Mesh:
    data: int = -1  # devices along the batch; -1: all that `expert` leaves
    expert: int = 1  # devices that the experts of a layer are spread over
    # Optimizer state and averaged weights, and so gradients, split along `data` instead of kept on every device.
    shard_optimizer: bool = False


@dataclass(frozen=True)
class Data:
    name: str = "synthetic_faces"  # a prepared data set: see `expressnet data prepare`
    classes: tuple[str, ...] = ()  # the network's outputs, in order; mapped to the data set's own order by name
    train_split: str = "train"
    validation_split: str = ""  # "": hold out `validation_fraction` of the training split
    validation_fraction: float = 0.1  # per class
    holdout: str = "clean"  # clean: equal pictures on one side; random: scikit-learn's stratified train_test_split
    holdout_seed: int = 0  # the held-out examples are the same for every seed of a run
    test_split: str = "test"  # "test": every test part that this copy of the data set has
    sampling: str = "uniform"  # sqrt, balanced: rarer classes more often (by the root of their number, all alike)
    also: str = ""  # further training data: "rafdb=0.5,ferplus=1", the rate of their examples against this set's
    target: str = "label"  # votes: the shares of people's votes, where the data set has them (ferplus)
    workers: int = 0  # decoding processes a host; 0: threads


@dataclass(frozen=True)
class Extractor:
    """One convolutional branch: blocks of conv, relu, dropout, BatchNorm and (but for the last) a 2x2 max pool."""

    kernels: tuple[int, ...] = (75, 50, 25, 15, 9, 3)
    filters: tuple[int, ...] = (8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class ResNet:
    """A bottleneck ResNet v1 in VGGFace2's form; each stage ends with 4 x its filters."""

    stem_kernel: int = 7
    stem_stride: int = 2
    stem_filters: int = 64
    stem_pool: bool = True  # 3x3 stride-2 max pool, VALID
    # original: stages 3 to 5 halve in their first 1x1, as VGGFace2 and the paper; torchvision: in the 3x3, and strided
    # convolutions and the max pool are padded on both sides.
    form: str = "original"
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    filters: tuple[int, ...] = (64, 128, 256, 512)


@dataclass(frozen=True)
class Model:
    preset: str = "paper"
    image_size: int = 224  # pixels; pictures are resized to it on the device
    dtype: str = "float32"  # of activations; parameters, statistics, router and loss stay in float32
    network: str = "expressnet"  # or "backbone": the ResNet and a linear head alone, the yardstick
    # Parts that are left out, for ablations: cnnfe1 (and moe_cnn with it), cnnfe2, resnet, moe_cnn, moe_expression.
    # Without both cnnfe2 and resnet, nothing is fused, and moe_expression goes too.
    without: tuple[str, ...] = ()
    # Form of the convolutions of stride 1: direct, fft, dft, or auto, the fastest by what was measured;
    # "cnnfe1/conv1=fft,cnnfe2/conv1=direct" gives some layers theirs.
    convolution: str = "auto"
    remat: bool = False  # compute each block again for its gradient: less memory, about a third more arithmetic
    cnnfe1: Extractor = Extractor()
    cnnfe1_width: int = 512
    cnnfe2: Extractor = Extractor(kernels=(15, 7, 5, 3, 3), filters=(16, 32, 64, 128, 256))
    resnet: ResNet = ResNet()
    fuse_width: int = 512
    conv_dropout: float = 0.1  # after the relu of each extractor block
    dense_dropout: float = 0.5  # after CNNFE1's dense layer, the ResNet's pool and the fuse layer
    batchnorm_epsilon: float = 1e-3
    batchnorm_momentum: float = 0.99
    batchnorm_group: int = 0  # pictures that share their statistics in training; 0: all of a (micro-)batch

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
    color_order: str = "bgr"  # of the network's three input channels: rgb or bgr
    # unit: /255; standard: (x/255 - mean) / std; vggface2: 0-255 minus VGGFace2's means; imagenet: torchvision's
    normalize: str = "unit"
    mean: float = 0.0  # used by `standard`
    std: float = 1.0
    antialias: bool = False  # when a picture is made smaller (OpenCV's bilinear resize is not)


@dataclass(frozen=True)
class Augment:
    """Random changes to training pictures; 0 (or False) turns one off. All published recipes here use none."""

    flip: bool = False  # mirror half of the pictures
    crop: float = 0.0  # random resized crop: side length scaled by a factor in [1 - crop, 1 + crop]
    shift: float = 0.0  # up to this fraction of the side, in x and in y
    rotate: float = 0.0  # up to this many degrees
    brightness: float = 0.0  # factor in [1 - b, 1 + b]
    contrast: float = 0.0
    saturation: float = 0.0
    erase: float = 0.0  # probability of one random rectangle, 2 % to 20 % of the area, filled with noise
    mixup: float = 0.0  # alpha of the Beta distribution


@dataclass(frozen=True)
class Optimizer:
    name: str = "adam"  # adam, adamw, sgd (Nesterov), lamb
    learning_rate: float = 1e-4
    # Multiplies the learning rate by batch_size / base_batch (linear) or its root (sqrt); docs/large_batches.md.
    scaling: str = "none"
    base_batch: int = 32  # the batch size that learning_rate is meant for; used by `scaling`
    b1: float = 0.9  # momentum, for sgd
    b2: float = 0.999
    eps: float = 1e-7  # Keras's default
    weight_decay: float = 0.0  # adamw, lamb: decoupled; sgd: added to the gradient; on kernels only
    clip_norm: float = 0.0  # global gradient norm; 0: off
    accumulate: int = 1  # micro-batches a step; BatchNorm sees one micro-batch at a time
    max_nonfinite: int = 10  # so many non-finite gradients in a row end the run


@dataclass(frozen=True)
class Schedule:
    name: str = "epoch_decay"  # epoch_decay, cosine, constant
    decay: float = 0.95  # epoch_decay: factor before every epoch, the first included
    warmup: str = "0steps"  # linear, from 0 to the rate that the schedule then has
    final: float = 0.0  # cosine: last learning rate as a fraction of the first


@dataclass(frozen=True)
class Ema:
    decay: float = 0.0  # per step, for parameters and BatchNorm statistics; 0: off


@dataclass(frozen=True)
class EarlyStop:
    patience: int = 5  # evaluations without a lower validation loss; 0: off


@dataclass(frozen=True)
class Init:
    run: str = ""  # folder of a run whose best weights this one starts from; it may have fewer experts
    perturbation: float = 0.01  # of copied experts: standard deviation, as a fraction of each kernel's own
    weights: str = ""  # file with weights of the whole network: .safetensors of an artifact, or the authors' .h5
    backbone: str = (
        ""  # file with weights of the ResNet: VGGFace2 .h5, torchvision's as .safetensors, or one of the above
    )
    preprocess: bool = True  # of such a file: set preprocess.* to what its weights expect
    strict: bool = True  # refuse a file that does not fit name by name, or belongs to another form of network


@dataclass(frozen=True)
class Config:
    seed: int = 0
    batch_size: int = 32  # global
    total: str = "15epochs"  # durations: 30steps, 15epochs, 10000examples, or (of the total) 5%
    eval_every: str = "1epochs"
    save_every: str = "1epochs"
    log_every: str = "20steps"
    keep: int = 2  # newest checkpoints kept, besides the best
    label_smoothing: float = 0.1
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
    init: Init = Init()


_SMALL = Model(
    preset="small",
    image_size=48,
    cnnfe1=Extractor(kernels=(15, 11, 5, 3, 3), filters=(8, 16, 32, 64, 128)),
    cnnfe1_width=256,
    cnnfe2=Extractor(kernels=(5, 3, 3, 3), filters=(16, 32, 64, 128)),
    resnet=ResNet(stem_kernel=3, stem_stride=2, stem_filters=16, blocks=(1, 2, 2, 2), filters=(16, 48, 96, 192)),
    fuse_width=256,
    batchnorm_momentum=0.9,
)
#: Ready-made networks: the sizes of the three branches, and of the experts.
PRESETS: dict[str, tuple[Model, MoE]] = {"paper": (Model(), MoE()), "small": (_SMALL, MoE(hidden=256))}


def default_config(preset: str = "paper") -> ml_collections.ConfigDict:
    """The published recipe (REFERENCE: arXiv 2510.13493) with the sizes of a preset, as an editable ConfigDict."""
    model, moe = PRESETS[preset]
    return ml_collections.ConfigDict(dataclasses.asdict(dataclasses.replace(Config(), model=model, moe=moe)))


def our_config() -> ml_collections.ConfigDict:
    """Our recipe for the published network: RGB, augmentation, AdamW with a cosine schedule, averaged weights.

    Not yet run to its end on any data set (docs/benchmarks.md); a config adds its data, and changes what it must.
    """
    c = default_config("paper")
    c.total = "60epochs"
    c.batch_size = 128
    c.preprocess.color_order = "rgb"
    c.preprocess.normalize = "standard"
    c.preprocess.mean, c.preprocess.std = 0.5, 0.25
    c.augment.flip = True
    c.augment.crop = 0.2
    c.augment.shift = 0.1
    c.augment.rotate = 10.0
    c.augment.brightness = c.augment.contrast = 0.2
    c.augment.erase = 0.3
    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 1e-3
    c.optimizer.weight_decay = 0.05
    c.optimizer.clip_norm = 1.0
    c.schedule.name = "cosine"
    c.schedule.warmup = "2epochs"
    c.ema.decay = 0.999
    c.early_stop.patience = 0
    return c


def to_dict(config: Config) -> dict[str, Any]:
    """The resolved config as plain nested dicts and lists, ready for JSON."""
    return dataclasses.asdict(config)
