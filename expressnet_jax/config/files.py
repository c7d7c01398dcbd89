"""From a config's name and the overrides on the command line to a checked `Config`."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib.util
import math
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections

from expressnet_jax.config import BRANCHES, MIXTURES, PRESETS, Config, ConfigError, Data, duration
from expressnet_jax.moe.settings import IMPLEMENTATIONS, ROUTERS

_PACKAGE = Path(__file__).resolve().parent.parent
#: Packaged configs: inside the wheel, or beside the package in a checkout.
CONFIG_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")


def load(name: str, overrides: Sequence[tuple[str, str]] = ()) -> Config:
    """Reads a config by path or packaged name ("fer2013", "fer2013:paper", "my/config.py:recipe").

    `overrides` are (dotted key, text) pairs; `model.preset` is applied first, since it sets many sizes.
    Raises ConfigError for an unknown name, key or value, and for settings that do not fit together.
    """
    name, _, recipe = name.partition(":")
    raw = call(_find(name), "get_config", recipe or None)
    if not isinstance(raw, ml_collections.ConfigDict):
        raise ConfigError(f"{name}: get_config returned a {type(raw).__name__}, not a ConfigDict")
    tree = raw.to_dict()
    for key, text in sorted(overrides, key=lambda pair: pair[0] != "model.preset"):
        _override(tree, key, text)
    config = from_dict(tree)
    check(config)
    return config


def available() -> list[str]:
    """Names of the packaged configs."""
    folder = next((f for f in CONFIG_FOLDERS if f.is_dir()), None)
    return sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_")) if folder else []


def _find(name: str) -> Path:
    candidates = [Path(name)] if name.endswith(".py") else [f / f"{name}.py" for f in CONFIG_FOLDERS]
    for path in candidates:
        if path.is_file():
            return path
    raise ConfigError(f"no config {name!r}{nearest(name, available())}; packaged: {', '.join(available())}")


def call(path: Path, function: str, *arguments: Any, what: str = "config") -> Any:
    """What a function of a config's or study's file returns. Raises ConfigError, in one line, for any mistake in it."""
    spec = importlib.util.spec_from_file_location(f"_{what}_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return getattr(module, function)(*arguments)
    except ConfigError:
        raise
    except Exception as error:  # the user's own file: any mistake in it is theirs to see
        said = " ".join(str(error).split())
        raise ConfigError(f"{what} {path} cannot be used: {type(error).__name__}: {said}") from error


def from_dict(tree: dict[str, Any]) -> Config:
    """Builds a `Config` from nested dicts (of a ConfigDict, or of a run folder's config.json)."""
    return typing.cast(Config, _build(Config, tree, ""))


def _build(kind: type, tree: Any, where: str) -> Any:
    if not isinstance(tree, dict):
        raise ConfigError(f"config key {where.rstrip('.')} is a section, not a value")
    fields = typing.get_type_hints(kind)
    for key in tree:
        if key not in fields:
            raise ConfigError(f"unknown config key {where}{key}{nearest(key, list(fields))}")
    return kind(**{key: _convert(value, fields[key], f"{where}{key}") for key, value in tree.items()})


def _convert(value: Any, kind: Any, key: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _build(typing.cast(type, kind), value, f"{key}.")
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, (tuple, list)):
            raise ConfigError(f"{key}={value!r} is not a list; write ({value},)")
        return tuple(_convert(item, typing.get_args(kind)[0], key) for item in value)
    if kind is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{key} is too large a number") from None
    if type(value) is not kind:
        raise ConfigError(f"{key}={value!r} is not {_ARTICLES[kind]}")
    return value


_ARTICLES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _override(tree: dict[str, Any], key: str, text: str) -> None:
    if key == "model.preset":
        if text not in PRESETS:
            raise ConfigError(f"model.preset={text!r}{nearest(text, list(PRESETS))}; presets: {', '.join(PRESETS)}")
        model, moe = PRESETS[text]
        tree["model"] = dataclasses.asdict(model)
        tree["moe"]["hidden"] = moe.hidden
        return
    *sections, last = key.split(".")
    node: Any = tree
    for depth, section in enumerate([*sections, last]):
        if not isinstance(node, dict) or section not in node:
            known = _dotted(tree)
            at = ".".join([*sections, last][: depth + 1])
            raise ConfigError(f"unknown config key {key} (at {at}){nearest(key, known)}")
        parent, node = node, node[section]
    if isinstance(node, dict):
        raise ConfigError(f"config key {key} is a section with {', '.join(node)}; set one of these")
    parent[last] = _value(text, node)


def _value(text: str, old: Any) -> Any:
    """Reads the text of an override as the kind of value that it replaces."""
    if isinstance(old, str):
        return text
    if isinstance(old, bool) and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if isinstance(old, (tuple, list)) and not text.strip().startswith(("(", "[")):
        items = [item.strip() for item in text.split(",") if item.strip()]
        return tuple(_literal(item) for item in items)
    return _literal(text)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _dotted(tree: dict[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key, value in tree.items():
        keys += _dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]
    return keys


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of a message about an unknown name: "; did you mean ...?", or nothing."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def differences(old: Config, new: Config) -> list[str]:
    """Keys whose values differ, as "key: old -> new"."""
    before, after = (_flat(dataclasses.asdict(c)) for c in (old, new))
    return [f"{key}: {before[key]!r} -> {after[key]!r}" for key in after if before[key] != after[key]]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


_CHOICES = {
    "model.dtype": ("float32", "bfloat16"),
    "model.network": ("expressnet", "backbone"),
    "preprocess.color_order": ("rgb", "bgr"),
    "preprocess.normalize": ("unit", "standard", "vggface2", "imagenet"),
    "model.resnet.form": ("original", "torchvision"),
    "model.preset": tuple(PRESETS),
    "optimizer.name": ("adam", "adamw", "sgd", "lamb"),
    "data.sampling": ("uniform", "sqrt", "balanced"),
    "data.holdout": ("clean", "random"),
    "data.target": ("label", "votes"),
    "optimizer.scaling": ("none", "linear", "sqrt"),
    "schedule.name": ("epoch_decay", "cosine", "constant"),
    "moe.router": ROUTERS,
    "moe.implementation": IMPLEMENTATIONS,
}
_POSITIVE = (
    "batch_size", "keep", "model.image_size", "model.cnnfe1_width", "model.fuse_width", "model.resnet.stem_kernel",
    "model.resnet.stem_stride", "model.resnet.stem_filters", "model.batchnorm_epsilon", "moe.num_experts", "moe.top_k",
    "moe.hidden", "moe.layers", "moe.capacity_factor", "optimizer.accumulate", "optimizer.max_nonfinite",
    "optimizer.learning_rate", "optimizer.base_batch", "optimizer.eps", "mesh.expert", "preprocess.std",
    "schedule.decay",
)  # fmt: skip
_NOT_NEGATIVE = (
    "seed", "model.batchnorm_group", "data.workers", "data.holdout_seed", "optimizer.weight_decay",
    "optimizer.clip_norm", "augment.mixup",
    "augment.rotate", "early_stop.patience", "schedule.final", "moe.noise_std", "moe.importance_loss", "moe.load_loss",
    "moe.balance_loss", "moe.z_loss", "moe.balance_bias", "init.perturbation",
)  # fmt: skip
_FRACTIONS = (
    "data.validation_fraction", "model.conv_dropout", "model.dense_dropout", "model.batchnorm_momentum", "ema.decay",
    "label_smoothing", "augment.crop", "augment.shift", "augment.brightness", "augment.contrast",
    "augment.saturation", "optimizer.b1", "optimizer.b2",
)  # fmt: skip


def check(config: Config) -> None:
    """Raises ConfigError for a value out of range, or values that do not fit together; touches no device."""
    flat = _flat(dataclasses.asdict(config))
    for key, choices in _CHOICES.items():
        if flat[key] not in choices:
            raise ConfigError(f"{key}={flat[key]!r}{nearest(flat[key], choices)}; one of: {', '.join(choices)}")
    _check_ranges(flat)
    for key in ("total", "eval_every", "save_every", "log_every", "schedule.warmup"):
        number, unit = duration.parse(flat[key], key)
        if key == "total" and unit == "%":
            raise ConfigError(f"total={config.total!r} cannot be a percentage of itself")
        if number == 0 and key != "schedule.warmup":
            raise ConfigError(f"{key}={flat[key]!r} must be above 0")
    _check_data(config.data)
    _check_parts(config)
    _check_convolution(config)
    _check_sizes(config)
    _check_experts(config)
    if config.init.run and (config.init.weights or config.init.backbone):
        raise ConfigError("init.run does not go with init.weights or init.backbone: a network starts from one of them")
    _check_division(config)


def _check_ranges(flat: dict[str, Any]) -> None:
    for key, value in flat.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{key}={value} is not a finite number")
    for key in _POSITIVE:
        if flat[key] <= 0:
            raise ConfigError(f"{key}={flat[key]} must be above 0")
    for key in _NOT_NEGATIVE:
        if flat[key] < 0:
            raise ConfigError(f"{key}={flat[key]} must not be below 0")
    for key in _FRACTIONS:
        if not 0 <= flat[key] < 1:
            raise ConfigError(f"{key}={flat[key]} must be at least 0 and below 1")
    if not 0 <= flat["augment.erase"] <= 1:
        raise ConfigError(f"augment.erase={flat['augment.erase']} is no probability")
    if flat["seed"] >= 2**32:
        raise ConfigError(f"seed={flat['seed']} must be below 2^32")
    if flat["optimizer.weight_decay"] and flat["optimizer.name"] == "adam":
        raise ConfigError("optimizer.name=adam takes no weight_decay; use adamw")


def _check_data(data: Data) -> None:
    if len(set(data.classes)) < 2 or len(set(data.classes)) != len(data.classes):
        raise ConfigError(f"data.classes={data.classes!r} must be two or more different names")
    for part in data.also.split(",") if data.also else ():
        name, _, weight = part.partition("=")
        try:
            positive = math.isfinite(float(weight)) and float(weight) > 0
        except ValueError:
            positive = False
        if not name.strip() or not positive:
            raise ConfigError(f"data.also={data.also!r}: {part!r} is not NAME=RATE with a rate above 0")
    if data.also and data.target == "votes":
        raise ConfigError("data.target=votes does not go with data.also: further data sets have one label a picture")


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
    implied = {"moe_cnn"} if "cnnfe1" in rest else set()
    implied |= {"moe_expression"} if {"cnnfe2", "resnet"} <= {*rest} else set()
    clean = tuple(name for name in rest if name not in implied)
    if model.without != clean:
        raise ConfigError(f"{said}: parts in their order, once, and none that goes with another: {','.join(clean)}")
    if config.mesh.expert > 1 and not {*MIXTURES} & {*model.parts}:
        raise ConfigError(f"{said} leaves no experts to spread over mesh.expert={config.mesh.expert} devices")
    if config.init.backbone and "resnet" in model.without:
        raise ConfigError(f"{said} leaves no ResNet for the weights of init.backbone={config.init.backbone}")


def _check_convolution(config: Config) -> None:
    counts = {"cnnfe1": len(config.model.cnnfe1.kernels), "cnnfe2": len(config.model.cnnfe2.kernels)}
    counts = {branch: count for branch, count in counts.items() if branch not in config.model.without}
    layers = ["resnet", *(f"{branch}/conv{i + 1}" for branch, count in counts.items() for i in range(count))]
    forms = ("auto", "direct", "fft", "dft")
    for part in config.model.convolution.split(","):
        layer, equals, form = part.strip().rpartition("=")
        if form not in forms:
            raise ConfigError(f"model.convolution: {form!r}{nearest(form, forms)}; one of: {', '.join(forms)}")
        if equals and layer not in layers:
            raise ConfigError(f"model.convolution: no layer {layer!r}{nearest(layer, layers)}; one of {layers}")


def _check_sizes(config: Config) -> None:
    model = config.model
    for name, branch in (("cnnfe1", model.cnnfe1), ("cnnfe2", model.cnnfe2)):
        if len(branch.kernels) != len(branch.filters) or not branch.kernels:
            raise ConfigError(f"model.{name} has {len(branch.kernels)} kernels and {len(branch.filters)} filters")
        if model.image_size >> (len(branch.kernels) - 1) == 0:
            raise ConfigError(
                f"model.{name}: {len(branch.kernels) - 1} pools leave nothing of {model.image_size} pixels; "
                "use fewer blocks or larger pictures"
            )
    side = -(-model.image_size // model.resnet.stem_stride)
    if side < (3 if model.resnet.stem_pool else 1):
        raise ConfigError(f"model.resnet: a stem of stride {model.resnet.stem_stride} leaves {side} pixels to pool")
    if len(model.resnet.blocks) != len(model.resnet.filters) or not model.resnet.blocks:
        raise ConfigError(
            f"model.resnet has {len(model.resnet.blocks)} stages and {len(model.resnet.filters)} filter counts"
        )
    sizes = (*model.cnnfe1.kernels, *model.cnnfe1.filters, *model.cnnfe2.kernels, *model.cnnfe2.filters)
    if min(*sizes, *model.resnet.blocks, *model.resnet.filters) < 1:
        raise ConfigError("every kernel, filter and block count in model.* must be at least 1")


def _check_experts(config: Config) -> None:
    moe = config.moe
    if moe.top_k > moe.num_experts:
        raise ConfigError(f"moe.top_k={moe.top_k} is more than moe.num_experts={moe.num_experts}")
    if moe.load_loss and not moe.noise_std:
        raise ConfigError(f"moe.load_loss={moe.load_loss} needs moe.noise_std above 0; V-MoE takes 1 / num_experts")
    if moe.renormalize and moe.top_k == 1 and moe.router != "soft":
        raise ConfigError("moe.renormalize makes every gate 1 with moe.top_k=1, and the router could not learn")
    if moe.router == "random" and any(
        getattr(moe, name) for name in ("balance_loss", "importance_loss", "load_loss", "z_loss")
    ):
        raise ConfigError("moe.router=random never learns, so no loss can change it; moe.balance_bias can")


def _check_division(config: Config) -> None:
    if config.moe.num_experts % config.mesh.expert:
        raise ConfigError(
            f"moe.num_experts={config.moe.num_experts} is not divisible by mesh.expert={config.mesh.expert}"
        )
    if config.mesh.data == 0 or config.mesh.data < -1:
        raise ConfigError(f"mesh.data={config.mesh.data} must be above 0, or -1 for all devices")
    if config.batch_size % config.optimizer.accumulate:
        raise ConfigError(
            f"batch_size={config.batch_size} is not divisible by optimizer.accumulate={config.optimizer.accumulate}"
        )
    group, part = config.model.batchnorm_group, config.batch_size // config.optimizer.accumulate
    if group and part % group:
        raise ConfigError(f"a (micro-)batch of {part} is not divisible by model.batchnorm_group={group}")
