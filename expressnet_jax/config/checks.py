"""Whether a config's values are in their ranges, and go together; no device is touched."""

import dataclasses
import math
import typing
from typing import Any, Literal

from data_pipelines.common.files import elsewhere, undecodable
from data_pipelines.common.ranges import Range
from data_pipelines.common.text import counted, nearest
from expressnet_jax.config.settings import BRANCHES, MIXTURES, Config, ConfigError, parse_duration

_FORMS = ("auto", "direct", "fft", "dft")  # of a convolution


def check(config: Config) -> None:
    """Raises ConfigError for a value out of range, or values that do not fit together."""
    _check_fields(config)
    _check_durations(config)
    data, batch, turns, group = (
        config.data,
        config.batch_size,
        config.optimizer.accumulate,
        config.model.batchnorm_group,
    )
    if len(set(data.classes)) < 2 or len(set(data.classes)) != len(data.classes):
        raise ConfigError(f"data.classes={data.classes!r} must be two or more different names")
    if data.further and data.target == "votes":
        raise ConfigError("data.target=votes does not go with data.also: further data sets have one label a picture")
    _check_parts(config)
    _check_convolution(config)
    _check_sizes(config)
    if config.optimizer.weight_decay and config.optimizer.name == "adam":
        raise ConfigError("optimizer.name=adam takes no weight_decay; use adamw")
    if config.init.run and (config.init.weights or config.init.backbone):
        raise ConfigError("init.run does not go with init.weights or init.backbone: a network starts from one of them")
    for name in ("run", "weights", "backbone"):
        file = getattr(config.init, name)
        if why := elsewhere(file) or undecodable(file):
            raise ConfigError(f"init.{name}={why}")
    _check_experts(config)
    if batch % turns:
        raise ConfigError(f"batch_size={batch} is not divisible by optimizer.accumulate={turns}")
    if group and batch // turns % group:
        raise ConfigError(f"a (micro-)batch of {batch // turns} is not divisible by model.batchnorm_group={group}")


def _check_fields(section: Any, prefix: str = "") -> None:
    """Each value against the choices and ranges that its field's type has (settings.py)."""
    for name, kind in typing.get_type_hints(type(section), include_extras=True).items():
        key, value = f"{prefix}{name}", getattr(section, name)
        if dataclasses.is_dataclass(value):
            _check_fields(value, f"{key}.")
        elif typing.get_origin(kind) is tuple:
            for item in value:
                _check_value(key, item, typing.get_args(kind)[0])
        else:
            _check_value(key, value, kind)


def _check_value(key: str, value: Any, kind: Any) -> None:
    choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
    if choices and value not in choices:
        raise ConfigError(f"{key}={value!r}{nearest(value, choices)}; one of: {', '.join(choices)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key}={value} is not a finite number")
    for rule in getattr(kind, "__metadata__", ()):
        if isinstance(rule, Range) and not rule.holds(value):
            raise ConfigError(f"{key}={value} {rule.rule}")


def _check_durations(config: Config) -> None:
    parse_duration(config.schedule.warmup, "schedule.warmup")
    for key in ("total", "eval_every", "save_every", "log_every"):
        text = getattr(config, key)
        number, unit = parse_duration(text, key)
        if key == "total" and unit == "%":
            raise ConfigError(f"total={text!r} cannot be a percentage of itself")
        if number == 0:
            raise ConfigError(f"{key}={text!r} must be above 0")


def _check_parts(config: Config) -> None:
    model, known = config.model, (*BRANCHES, *MIXTURES)
    if not model.without:
        return
    said = f"model.without={','.join(model.without)}"
    for name in model.without:
        if name not in known:
            raise ConfigError(f"model.without: no part {name!r}{nearest(name, known)}; one of: {', '.join(known)}")
    if model.network == "backbone":
        raise ConfigError(f"{said} does not go with model.network=backbone, which has the ResNet alone")
    if {*BRANCHES} <= {*model.without}:
        raise ConfigError(f"{said} leaves no branch; keep one of {', '.join(BRANCHES)}")
    # One way to write each network, so that two configs of the same one are equal.
    rest = [name for name in known if name in model.without]
    others = {name: dataclasses.replace(model, without=tuple({*rest} - {name})) for name in rest}
    clean = tuple(name for name in rest if name in others[name].parts)  # the others go anyway
    if model.without != clean:
        raise ConfigError(f"{said}: parts in their order, once, and none that goes with another: {','.join(clean)}")
    if config.mesh.expert > 1 and not {*MIXTURES} & {*model.parts}:
        raise ConfigError(f"{said} leaves no experts to spread over mesh.expert={config.mesh.expert} devices")
    if config.init.backbone and "resnet" in model.without:
        raise ConfigError(f"{said} leaves no ResNet for the weights of init.backbone={config.init.backbone}")


def _check_convolution(config: Config) -> None:
    counts = {"cnnfe1": len(config.model.cnnfe1.kernels), "cnnfe2": len(config.model.cnnfe2.kernels)}
    present = counts.keys() - {*config.model.without}
    layers = ["resnet", *(f"{name}/conv{i + 1}" for name in sorted(present) for i in range(counts[name]))]
    strided = [f"{name}/conv1" for name in present if getattr(config.model, name).stride > 1]
    for part in config.model.convolution.split(","):
        layer, equals, form = part.strip().rpartition("=")
        if form not in _FORMS:
            raise ConfigError(f"model.convolution: {form!r}{nearest(form, _FORMS)}; one of: {', '.join(_FORMS)}")
        if equals and layer not in layers:
            raise ConfigError(f"model.convolution: no layer {layer!r}{nearest(layer, layers)}; one of {layers}")
        if form not in ("auto", "direct") and layer in strided:
            raise ConfigError(f"model.convolution: {layer} has a stride, and only `direct` has one; not {form}")


def _check_sizes(config: Config) -> None:
    model = config.model
    for name, branch in (("cnnfe1", model.cnnfe1), ("cnnfe2", model.cnnfe2)):
        if len(branch.kernels) != len(branch.filters) or not branch.kernels:
            kernels, filters = counted(len(branch.kernels), "kernel"), counted(len(branch.filters), "filter")
            raise ConfigError(f"model.{name} has {kernels} and {filters}")
        last = len(branch.kernels)
        if sorted(set(branch.unpooled)) != [*branch.unpooled] or any(block >= last for block in branch.unpooled):
            wrong = f"model.{name}.unpooled={','.join(map(str, branch.unpooled))}"
            raise ConfigError(f"{wrong}: blocks before the last, {last}, which never has a pool, in order, once")
        if branch.side(model.image_size, last) == 0:
            pools = counted(sum(map(branch.pooled, range(1, last))), "pool")
            pixels = counted(model.image_size, "pixel")
            raise ConfigError(
                f"model.{name}: nothing of {pixels} is left after {pools} and a stride of {branch.stride}; "
                "use fewer blocks or larger pictures"
            )
    side = -(-model.image_size // model.resnet.stem_stride)
    if side < (3 if model.resnet.stem_pool else 1):
        raise ConfigError(
            f"model.resnet: a stem of stride {model.resnet.stem_stride} leaves {counted(side, 'pixel')} to pool"
        )
    stages, sizes = len(model.resnet.blocks), len(model.resnet.filters)
    if stages != sizes or not stages:
        raise ConfigError(f"model.resnet has {counted(stages, 'stage')} and {counted(sizes, 'filter count')}")


def _check_experts(config: Config) -> None:
    moe, across = config.moe, config.mesh.expert
    if moe.top_k > moe.num_experts:
        raise ConfigError(f"moe.top_k={moe.top_k} is more than moe.num_experts={moe.num_experts}")
    if moe.load_loss and not moe.noise_std:
        raise ConfigError(f"moe.load_loss={moe.load_loss} needs moe.noise_std above 0; V-MoE takes 1 / num_experts")
    if moe.renormalize and moe.top_k == 1 and moe.router != "soft":
        raise ConfigError("moe.renormalize makes every gate 1 with moe.top_k=1, and the router could not learn")
    if moe.router == "random" and (moe.balance_loss or moe.importance_loss or moe.load_loss or moe.z_loss):
        raise ConfigError("moe.router=random never learns, so no loss can change it; moe.balance_bias can")
    if moe.num_experts % across:
        raise ConfigError(f"moe.num_experts={moe.num_experts} is not divisible by mesh.expert={across}")
