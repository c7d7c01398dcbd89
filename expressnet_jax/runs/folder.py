"""A run's folder: config.json, parameters.txt, checkpoints/, metrics.jsonl, events/, summary.*, evaluation/, *.png."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clu import parameter_overview

from expressnet_jax.config import Config, ConfigError, to_dict
from expressnet_jax.config import files as config_files

#: What may change between the parts of one run: it decides where and how the run is computed, not what.
_FREE = ("mesh.", "moe.implementation", "data.workers", "log_every", "keep")


def open_folder(workdir: Path, config: Config) -> None:
    """Makes the folder, or checks that the run in it is one of this config. Raises ConfigError naming what differs."""
    path = workdir / "config.json"
    if path.is_file():
        if changed := changes(workdir, config):
            what = "; ".join(changed)
            raise ConfigError(f"{workdir} holds a run of another config ({what}); choose another --workdir")
        return
    if workdir.exists() and (not workdir.is_dir() or any(p.name != "config.json.part" for p in workdir.iterdir())):
        raise ConfigError(f"{workdir} is not empty and holds no run; choose another --workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(to_dict(config), indent=2) + "\n")


def changes(workdir: Path, config: Config) -> list[str]:
    """What makes the run in a folder another one than this config's, as "key: old -> new"."""
    return [d for d in config_files.differences(read_config(workdir), config) if not d.startswith(_FREE)]


def check_shared(workdir: Path) -> None:
    """Raises ConfigError where the folder that the first process has opened is not there for this one."""
    if not (workdir / "config.json").is_file():
        raise ConfigError(f"{workdir} is not the first process's; --workdir must be on a file system that all share")


def read_config(workdir: Path) -> Config:
    """The resolved config of the run in a folder. Raises ConfigError where there is none, or it cannot be read."""
    path = workdir / "config.json"
    try:
        config = config_files.from_dict(json.loads(path.read_text()))
        config_files.check(config)
        return config
    except FileNotFoundError:
        raise ConfigError(f"no run in {workdir} (it has no config.json); give the --workdir of a training") from None
    except (ValueError, RecursionError, OSError, ConfigError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


@contextlib.contextmanager
def locked(folder: Path, other: str = "another process is training") -> Iterator[None]:
    """Keeps a second process, such as a job requeued too early, from writing to the same run.

    Raises ConfigError, that there is `other` in the folder, where one does.
    """
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{other} in {folder}; wait for it, or stop it") from None
        yield


def json_line(value: Any) -> str:
    """One line of JSON. What JSON has no number for (NaN, infinity) becomes null."""
    return json.dumps(_finite(value), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_space(workdir: Path, needed: int) -> None:
    """Raises OSError before anything is written where the disk has less than `needed` bytes free."""
    free = shutil.disk_usage(workdir).free
    if free < needed:
        raise OSError(
            f"{workdir} has {free / 1e6:.0f} MB free and the checkpoints of this run need {needed / 1e6:.0f} MB; "
            "free some space, choose another --workdir, or lower --config.keep"
        )


def write_text(path: Path, text: str) -> None:
    """Writes a whole file or none of it."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def write_parameters(workdir: Path, params: Any) -> None:
    """parameters.txt: each parameter's name, shape, dtype and size, and how it lies on this mesh."""
    write_text(
        workdir / "parameters.txt", parameter_overview.get_parameter_overview(params, include_stats="sharding") + "\n"
    )


def write_summary(workdir: Path, summary: dict[str, Any]) -> None:
    """summary.json for machines, summary.txt for people."""
    write_text(workdir / "summary.json", json_line(summary))
    lines = [f"{key.replace('_', ' '):<22}{_shown(value)}" for key, value in summary.items() if value is not None]
    write_text(workdir / "summary.txt", "\n".join(lines) + "\n")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_shown(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.4f}" if isinstance(value, float) else str(value)
