"""What the commands' arguments have in common: parser, shared options, and settings of a config among them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from data_pipelines.common.errors import UsageError

#: What a command returns: a document for --json, or an exit code where it has written its own, or none is due.
Result = dict[str, Any] | int
#: The texts of --config, --data_dir and --distributed.
CONFIG = "a packaged config or a file, with a recipe after a colon; --config.KEY=VALUE changes one setting"
DATA_DIR = "where prepared data sets are (default: TensorFlow Datasets' own folder)"
DISTRIBUTED = "be one of several processes of a job: under srun, on a TPU pod, by launch/local.sh (docs/scaling.md)"


class Parser(argparse.ArgumentParser):
    """Reports a mistake as one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"expressnet: {message} (see {self.prog} --help)\n")


def path(text: str) -> Path:
    """The type of a path's argument; a bucket's address is refused."""
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text} is no folder; mount the bucket (GCS FUSE does) and name that folder")
    return Path(text).expanduser()


def check_folder(option: str, file: Path | None) -> None:
    """Raises UsageError, before any work, where the folder of a file that is to be written does not exist."""
    if file and not file.absolute().parent.is_dir():
        raise UsageError(f"{option} {file}: there is no folder {file.absolute().parent}")


def only(options: argparse.Namespace, names: Sequence[str]) -> str:
    """The one of these options that is given. Raises UsageError for none or several."""
    given = [name for name in names if getattr(options, name) is not None]
    if len(given) != 1:
        known = f"--{', --'.join(names[:-1])} and --{names[-1]}"
        raise UsageError(f"give one of {known}, not {' and '.join(f'--{name}' for name in given) or 'none of them'}")
    return given[0]


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Takes `--config.key=value` and `--config.key value` out of the arguments: (the others, (key, value) pairs)."""
    rest, settings, waiting = [], [], list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if not argument.startswith("--config."):
            rest.append(argument)
            continue
        key, found, value = argument.removeprefix("--config.").partition("=")
        if not found:
            if not waiting or waiting[0].startswith("--"):
                raise UsageError(f"{argument} needs a value: {argument}=VALUE")
            value = waiting.pop(0)
        settings.append((key, value))
    return rest, settings
