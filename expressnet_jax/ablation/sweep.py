"""Which settings a study compares: arms, from a grid, a list, random draws or a ready-made file."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.common.text import nearest, reason
from expressnet_jax.ablation import shapes
from expressnet_jax.config import Config, ConfigError
from expressnet_jax.config import files as config_files

Settings = dict[str, str]  # dotted key -> value, as on the command line


class Arm(NamedTuple):
    """One of the settings that are compared."""

    name: str
    settings: Settings
    config: Config


class Arms(NamedTuple):
    """What a study compares, and what was left out of it, with the reason."""

    arms: list[Arm]
    left_out: list[dict[str, str]]  # {"arm", "why"}


def grid(text: str) -> list[Settings]:
    """All combinations of "key=a,b;key2=c,d", the last key changing fastest."""
    axes = _axes(text)
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def draws(text: str, count: int, seed: int = 0) -> list[Settings]:
    """`count` random draws from "key=a,b;key2=log:1e-4:1e-2;key3=uniform:0:0.3", the same for the same seed.

    `log` draws evenly in the logarithm; numbers are rounded to three digits.
    """
    rng = np.random.default_rng(seed)
    axes = _axes(text)
    return [{key: _draw(key, values, rng) for key, values in axes.items()} for _ in range(count)]


def listed(path: Path) -> list[Settings]:
    """One setting a line, "key=value key2=value" (with or without --config. before each); # starts a comment."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--list {path} cannot be read: {reason(error, named=path)}") from error
    found = []
    for number, line in enumerate(lines, 1):
        words = line.split("#")[0].split()
        pairs = [word.removeprefix("--config.").partition("=") for word in words]
        if any(not key or not equals for key, equals, _ in pairs):
            raise ConfigError(f"--list {path}, line {number}: {line.strip()!r} is not KEY=VALUE KEY=VALUE ...")
        if words:
            found.append({key: value for key, _, value in pairs})
    if not found:
        raise ConfigError(f"--list {path} names no settings")
    return found


def ready_made(name: str) -> dict[str, Any]:
    """The study of a packaged name or a .py file: question, config, baseline, seeds, arms and perhaps needs."""
    path = config_files.find(name, "study", "ablations")
    found: dict[str, Any] = config_files.call(path, "get_study", what="study")
    if wrong := shapes.misfit(found, shapes.READY_MADE):
        raise ConfigError(f"study {path}: get_study returns something else than a study: {wrong}")
    arms = {str(name): {str(key): _as_text(value) for key, value in one.items()} for name, one in found["arms"].items()}
    given = {key: value for key, value in found.items() if value is not None}
    return {"name": path.stem, "seeds": 3, "needs": {}, **given, "arms": arms}


def _as_text(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, (list, tuple)):
        return f"({','.join(map(_as_text, value))})"
    return str(value).lower() if isinstance(value, bool) else str(value)


def named(settings: Sequence[Settings]) -> dict[str, Settings]:
    """Each setting by a name: its values, with as little of the keys as tells them apart."""
    keys = list(dict.fromkeys(key for one in settings for key in one))
    last = {key: key.rsplit(".", 1)[-1] for key in keys}
    short = {key: key if list(last.values()).count(last[key]) > 1 else last[key] for key in keys}
    return {" ".join(f"{short[key]}={value}" for key, value in one.items()): one for one in settings}


def resolve(config: str, common: Sequence[tuple[str, str]], named_settings: dict[str, Settings]) -> Arms:
    """The arms whose settings fit together; the others, and those that repeat one before, with the reason.

    Raises ConfigError for a key that no config has, a seed among the settings, or where fewer than two arms are left.
    """
    arms: list[Arm] = []
    left_out: list[dict[str, str]] = []
    for name, settings in named_settings.items():
        if "seed" in settings or any(key == "seed" for key, _ in common):
            raise ConfigError("seed cannot be set in a study; --seeds says how many each of its settings gets")
        try:
            made = config_files.load(config, [*common, *settings.items()])
        except ConfigError as error:
            if "unknown config key" in str(error):
                raise
            left_out.append({"arm": name, "why": str(error)})
            continue
        same = next((arm.name for arm in arms if arm.config == made), None)
        if same is None:
            arms.append(Arm(name, settings, made))
        else:
            left_out.append({"arm": name, "why": f"the same settings as {same}"})
    if len(arms) < 2:
        why = "; ".join(f"{one['arm']}: {one['why']}" for one in left_out) or "give two values or more"
        raise ConfigError(f"a study compares at least two settings, and this one has {len(arms)} ({why})")
    return Arms(arms, left_out)


def baseline(arms: Sequence[Arm], config: str, common: Sequence[tuple[str, str]], wanted: str | None) -> str:
    """What the others are compared with: the arm of that name, else the one that changes nothing, else the first."""
    names = [arm.name for arm in arms]
    if wanted is None:
        unchanged = config_files.load(config, common)
        return next((arm.name for arm in arms if arm.config == unchanged), names[0])
    if wanted not in names:
        near = nearest(wanted, names)
        raise ConfigError(f"--baseline {wanted!r} is no arm{near}; arms: {'; '.join(names)}")
    return wanted


def _axes(text: str) -> dict[str, list[str]]:
    """key -> values of "key=a,b;key2=(1,2),(3,4)"; commas inside brackets belong to a value."""
    axes: dict[str, list[str]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        key, equals, values = part.partition("=")
        key = key.strip().removeprefix("--config.")
        found = [value for value in _split(values) if value]
        if not equals or not key or not found:
            raise ConfigError(f"--sweep: {part!r} is not KEY=VALUE,VALUE,...")
        if key in axes:
            raise ConfigError(f"--sweep names {key} twice")
        axes[key] = found
    if not axes:
        raise ConfigError("--sweep is empty; write 'moe.num_experts=1,2,4;moe.top_k=1,2'")
    return axes


def _split(text: str) -> list[str]:
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _draw(key: str, values: list[str], rng: np.random.Generator) -> str:
    kind, *bounds = values[0].split(":")
    if len(values) > 1 or kind not in ("log", "uniform"):
        return values[int(rng.integers(len(values)))]
    try:
        low, high = map(float, bounds)
        if not low < high or (kind == "log" and low <= 0):
            raise ValueError
    except ValueError:
        raise ConfigError(f"--sweep: {key}={values[0]} is not {kind}:LOW:HIGH with LOW below HIGH") from None
    drawn = math.exp(rng.uniform(math.log(low), math.log(high))) if kind == "log" else rng.uniform(low, high)
    return f"{drawn:.3g}"
