"""Networks and recipes that config files start from; from a file's name and overrides to a checked `Config`."""

import ast
import dataclasses
import os
import re
import runpy
import traceback
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from data_pipelines.common.text import LONG, nearest, reason
from expressnet_jax.config.checks import check
from expressnet_jax.config.settings import Config, ConfigError, Extractor, Model, ResNet
from expressnet_jax.moe.settings import MoE

_KEYS = re.compile(r"\b([a-z]\w*(?:\.\w+)+)|\b([a-z]\w*)=")  # what in a message about settings is one's name
_PACKAGE = Path(__file__).resolve().parent.parent
#: Packaged configs: inside the wheel, or beside the package in a checkout.
CONFIG_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")

# Made for CPUs and found by measurement (docs/recipes.md): CNNFE2 sees all 48 x 48 pixels and has most of the work, the
# other two branches see half as many from their first layer on. Without its BatchNorm CNNFE1's dense layer dies.
_SMALL = Model(
    preset="small", image_size=48, cnnfe1_width=256, fuse_width=256, batchnorm_momentum=0.9, dense_batchnorm=True,
    cnnfe1=Extractor(kernels=(9, 5, 3, 3), filters=(16, 32, 64, 128), stride=2),
    cnnfe2=Extractor(kernels=(3, 3, 3, 3, 3), filters=(32, 64, 128, 256, 256)),
    resnet=ResNet(stem_kernel=3, stem_stride=2, stem_filters=16, blocks=(1, 1, 1), filters=(16, 32, 64)),
)  # fmt: skip
#: The sizes of the three branches, and of the experts.
PRESETS: dict[str, tuple[Model, MoE]] = {"paper": (Model(), MoE()), "small": (_SMALL, MoE(hidden=256))}


def default_config(preset: str = "paper") -> ml_collections.ConfigDict:
    """The published recipe (arXiv 2510.13493) with the sizes of a preset, as an editable ConfigDict."""
    if preset not in PRESETS:
        raise ConfigError(f"no preset {preset!r}{nearest(preset, PRESETS)}; presets: {', '.join(PRESETS)}")
    model, moe = PRESETS[preset]
    return ml_collections.ConfigDict(dataclasses.asdict(dataclasses.replace(Config(), model=model, moe=moe)))


def our_config(preset: str = "paper") -> ml_collections.ConfigDict:
    """Our recipe: RGB, augmentation, AdamW with a cosine schedule, averaged weights. A config changes what it must.

    With the published network it has not yet been run to its end on any data set (docs/benchmarks.md).
    """
    c = default_config(preset)
    c.total, c.batch_size = "60epochs", 128
    c.preprocess.update(color_order="rgb", normalize="standard", mean=0.5, std=0.25)
    c.augment.update(flip=True, crop=0.2, shift=0.1, rotate=10.0, brightness=0.2, contrast=0.2, erase=0.3)
    c.optimizer.update(name="adamw", learning_rate=1e-3, weight_decay=0.05, clip_norm=1.0)
    c.schedule.update(name="cosine", warmup="2epochs")
    c.ema.decay = 0.999
    c.early_stop.patience = 0
    return c


def of_recipe(
    config: str, recipe: str | None, classes: Sequence[str], *, recipes: Sequence[str] = (), why: str = "",
    preset: str = "paper",
) -> ml_collections.ConfigDict:  # fmt: skip
    """What a config file starts from: the published recipe where `recipe` is called paper..., else ours with `preset`.

    `config` is the file's name, and the data set's. Raises ConfigError for a recipe that is none of `recipes`; `why`
    ends its message, which otherwise lists them.
    """
    if recipe and recipe not in recipes:
        raise ConfigError(f"{config} has no recipe {recipe!r}{why or '; it has: ' + ', '.join(recipes)}")
    c = default_config() if recipe and recipe.startswith("paper") else our_config(preset)
    c.data.name, c.data.classes = config, tuple(classes)
    return c


def for_48_pixels(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Our recipe as it was found for the small network on FER-2013's grey faces, step by step: docs/recipes.md."""
    c.preprocess.update(mean=0.507, std=0.255)  # of FER-2013's training pixels
    c.augment.update(crop=0.1, shift=0.08, erase=0.1)
    c.optimizer.learning_rate = 2e-3
    c.schedule.warmup = "1epochs"
    c.model.update(dense_dropout=0.2, conv_dropout=0.0)
    return c


def load(
    config: str | os.PathLike[str] | Mapping[str, Any] | ml_collections.ConfigDict | Config,
    overrides: Sequence[tuple[str, Any]] = (),
) -> Config:
    """Reads a config by path or packaged name ("fer2013", "fer2013:paper", "my/config.py:recipe"), or one made in
    Python, whole or in part: what is missing has the published value.

    `overrides` are pairs of a dotted key and a text or value; `model.preset` comes first, since it sets many sizes.
    Raises ConfigError for an unknown name, key or value, and for settings that do not fit together.
    """
    tree = _tree(config)
    try:
        for key, value in sorted(overrides, key=lambda pair: pair[0] != "model.preset"):
            _override(tree, key, value)
        return from_dict(tree)
    except ConfigError as error:
        if isinstance(config, (str, os.PathLike)):
            _blame(find(os.fspath(config).partition(":")[0]), _tree(config), str(error))
        raise


def _blame(path: Path, tree: dict[str, Any], message: str) -> None:
    """Raises ConfigError that names the file and the line where the file alone, without overrides, is as wrong."""
    try:
        from_dict(tree)
    except ConfigError as error:
        if str(error) != message:
            return
        lines = [line.partition("#")[0] for line in path.read_text(errors="replace").splitlines()]
        keys = [dotted or single for dotted, single in _KEYS.findall(message)]
        for leaf in (key.rpartition(".")[2] for key in keys):
            if found := [number for number, line in enumerate(lines, 1) if re.search(rf"\b{leaf}\b", line)]:
                raise ConfigError(f"{path}, line {found[-1]}: {message}") from None
        raise ConfigError(f"{path}: {message}") from None


def _tree(config: Any) -> dict[str, Any]:
    """Any form of a config as nested dicts with every key, their values not yet checked."""
    if isinstance(config, Config):
        return to_dict(config)
    if isinstance(config, (str, os.PathLike)):
        name, _, recipe = os.fspath(config).partition(":")
        config = call(find(name), "get_config", recipe or None)
        if not isinstance(config, ml_collections.ConfigDict):
            raise ConfigError(f"{name}: get_config returned a {type(config).__name__}, not a ConfigDict")
        return _plain(config)
    if not isinstance(config, (Mapping, ml_collections.ConfigDict)):
        raise ConfigError(f"a {type(config).__name__} is no config; give a name, a path, a dict or a ConfigDict")
    return dataclasses.asdict(_build(Config, _plain(config), ""))


def _plain(tree: Any, where: str = "") -> Any:
    """Nested ConfigDicts and other mappings as dicts. Raises ConfigError for a placeholder without a value."""
    if not isinstance(tree, (Mapping, ml_collections.ConfigDict)):
        return tree
    found = {}
    for key in tree:
        try:
            found[key] = _plain(tree[key], f"{where}{key}.")
        except ml_collections.config_dict.RequiredValueError:
            raise ConfigError(f"config key {where}{key} has no value: it is a required placeholder; set it") from None
    return found


def available(below: str = "") -> list[str]:
    """Names of the packaged configs, or of the studies in the folder `below` them."""
    return sorted({path.stem for folder in CONFIG_FOLDERS for path in (folder / below).glob("*.py")})


def find(name: str, what: str = "config", below: str = "") -> Path:
    """The file of a packaged config or study, or of a path that ends in .py. Raises ConfigError where there is none."""
    own = Path(name) if name.endswith(".py") else None
    for path in [own] if own else [folder / below / f"{name}.py" for folder in CONFIG_FOLDERS]:
        if path.is_file():
            return path
    known = available(below)
    near = nearest(own.name, [path.name for path in own.parent.glob("*.py")]) if own else nearest(name, known)
    raise ConfigError(f"no {what} {name!r}{near}; packaged: {', '.join(known)}")


def call(path: Path, function: str, *arguments: Any, what: str = "config") -> Any:
    """What a function of a config's or study's file returns. Raises ConfigError, in one line that names the line of the
    file, for any mistake in it."""
    try:
        module = runpy.run_path(str(path))
        if function not in module:
            raise ConfigError(f"it has no function {function}")
        return module[function](*arguments)
    except Exception as error:  # the user's own file: any mistake in it is theirs to see
        if isinstance(error, ConfigError) and not {*CONFIG_FOLDERS}.isdisjoint(path.parents):
            raise  # such as a recipe that a packaged config has not
        lines = [one.lineno for one in traceback.extract_tb(error.__traceback__) if one.filename == str(path)]
        why, line = reason(error, LONG, named=path), lines[-1] if lines else None
        if isinstance(error, SyntaxError):
            why, line = error.msg, error.lineno
        why = why if isinstance(error, ConfigError) else f"{type(error).__name__}: {why}"
        where = f"{path}, line {line}" if line else str(path)
        raise ConfigError(f"{what} {where} cannot be used: {why}") from error


def from_dict(tree: dict[str, Any]) -> Config:
    """Builds and checks a `Config` from nested dicts (of a ConfigDict, or of a run folder's config.json)."""
    config = typing.cast(Config, _build(Config, tree, ""))
    check(config)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """The resolved config as plain nested dicts and lists, ready for JSON."""
    return dataclasses.asdict(config)


def _build(kind: type, tree: Any, where: str) -> Any:
    if not isinstance(tree, dict):
        raise ConfigError(f"config key {where.rstrip('.')} is a section, not a value")
    fields = typing.get_type_hints(kind)
    for key in tree:
        if key not in fields:
            raise ConfigError(f"unknown config key {where}{key}{nearest(str(key), fields)}")
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
    kind = str if typing.get_origin(kind) is typing.Literal else kind
    if type(value) is not kind:
        raise ConfigError(f"{key}={value!r} is not {_ARTICLES[kind]}")
    return value


_ARTICLES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _override(tree: dict[str, Any], key: str, text: Any) -> None:
    if key == "model.preset":
        if text not in PRESETS:
            raise ConfigError(f"model.preset={text!r}{nearest(text, PRESETS)}; presets: {', '.join(PRESETS)}")
        model, moe = PRESETS[text]
        tree["model"] = dataclasses.asdict(model)
        tree["moe"]["hidden"] = moe.hidden
        return
    node: Any = tree
    names = key.split(".")
    for depth, name in enumerate(names, 1):
        if not isinstance(node, dict) or name not in node:
            at = ".".join(names[:depth])
            raise ConfigError(f"unknown config key {key} (at {at}){nearest(key, flat(tree))}")
        parent, node = node, node[name]
    if isinstance(node, dict):
        raise ConfigError(f"config key {key} is a section with {', '.join(node)}; set one of these")
    parent[name] = _value(text, node) if isinstance(text, str) else text


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
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def with_validation(config: Config, split: str) -> Config:
    """`config` with another data.validation_split."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, validation_split=split))


def differences(old: Config, new: Config) -> list[str]:
    """Keys whose values differ, as "key: old -> new"."""
    before, after = (flat(to_dict(c)) for c in (old, new))
    return [f"{key}: {before[key]!r} -> {after[key]!r}" for key in after if before[key] != after[key]]


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested dicts by dotted names."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
