"""From a config's name and the overrides on the command line to a checked `Config`."""

from __future__ import annotations

import ast
import dataclasses
import runpy
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections

from data_pipelines.common.text import nearest, one_line
from expressnet_jax.config.checks import check
from expressnet_jax.config.presets import PRESETS
from expressnet_jax.config.settings import Config, ConfigError

_PACKAGE = Path(__file__).resolve().parent.parent
#: Packaged configs: inside the wheel, or beside the package in a checkout.
CONFIG_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")


def load(name: str, overrides: Sequence[tuple[str, str]] = ()) -> Config:
    """Reads a config by path or packaged name ("fer2013", "fer2013:paper", "my/config.py:recipe").

    `overrides` are (dotted key, text) pairs; `model.preset` is applied first, since it sets many sizes.
    Raises ConfigError for an unknown name, key or value, and for settings that do not fit together.
    """
    name, _, recipe = name.partition(":")
    raw = call(find(name), "get_config", recipe or None)
    if not isinstance(raw, ml_collections.ConfigDict):
        raise ConfigError(f"{name}: get_config returned a {type(raw).__name__}, not a ConfigDict")
    tree = raw.to_dict()
    for key, text in sorted(overrides, key=lambda pair: pair[0] != "model.preset"):
        _override(tree, key, text)
    config = from_dict(tree)
    check(config)
    return config


def available(below: str = "") -> list[str]:
    """Names of the packaged configs, or of the studies in the folder `below` them."""
    return sorted({path.stem for folder in CONFIG_FOLDERS for path in (folder / below).glob("*.py")})


def find(name: str, what: str = "config", below: str = "") -> Path:
    """The file of a packaged config or study, or of a path that ends in .py. Raises ConfigError where there is none."""
    for path in [Path(name)] if name.endswith(".py") else [folder / below / f"{name}.py" for folder in CONFIG_FOLDERS]:
        if path.is_file():
            return path
    known = available(below)
    raise ConfigError(f"no {what} {name!r}{nearest(name, known)}; packaged: {', '.join(known)}")


def call(path: Path, function: str, *arguments: Any, what: str = "config") -> Any:
    """What a function of a config's or study's file returns. Raises ConfigError, in one line, for any mistake in it."""
    try:
        return runpy.run_path(str(path))[function](*arguments)
    except ConfigError:
        raise
    except Exception as error:  # the user's own file: any mistake in it is theirs to see
        raise ConfigError(f"{what} {path} cannot be used: {type(error).__name__}: {one_line(error)}") from error


def from_dict(tree: dict[str, Any]) -> Config:
    """Builds a `Config` from nested dicts (of a ConfigDict, or of a run folder's config.json)."""
    return typing.cast(Config, _build(Config, tree, ""))


def _build(kind: type, tree: Any, where: str) -> Any:
    if not isinstance(tree, dict):
        raise ConfigError(f"config key {where.rstrip('.')} is a section, not a value")
    fields = typing.get_type_hints(kind)
    for key in tree:
        if key not in fields:
            raise ConfigError(f"unknown config key {where}{key}{nearest(key, fields)}")
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


def _override(tree: dict[str, Any], key: str, text: str) -> None:
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
            raise ConfigError(f"unknown config key {key} (at {at}){nearest(key, _flat(tree))}")
        parent, node = node, node[name]
    if isinstance(node, dict):
        raise ConfigError(f"config key {key} is a section with {', '.join(node)}; set one of these")
    parent[name] = _value(text, node)


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


def differences(old: Config, new: Config) -> list[str]:
    """Keys whose values differ, as "key: old -> new"."""
    before, after = (_flat(dataclasses.asdict(c)) for c in (old, new))
    return [f"{key}: {before[key]!r} -> {after[key]!r}" for key in after if before[key] != after[key]]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
