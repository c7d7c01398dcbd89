"""What the commands share: parser, options, settings of a config among them, and this process's settings of JAX."""

import argparse
import contextlib
import io
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from data_pipelines.common import text as texts
from data_pipelines.common.errors import DataError, UsageError
from data_pipelines.common.files import elsewhere, undecodable

#: What a command returns: a document for --json, with an exit code where that is not 0; or the code alone, where the
#: command has written its own document, or none is due.
Result = dict[str, Any] | tuple[dict[str, Any], int] | int
#: The texts of --config, --data_dir, --faces_model and --distributed.
CONFIG = "a packaged config or a file, with a recipe after a colon; --config.KEY=VALUE changes one setting"
DATA_DIR = "where prepared data sets are (default: a run's where one is given, or TensorFlow Datasets' own folder)"
FACES_MODEL = "model of yunet (.onnx) or blazeface (.tflite)"
DISTRIBUTED = "be one of several processes of a job: under srun, on a TPU pod, by launch/local.sh (docs/scaling.md)"


class Parser(argparse.ArgumentParser):
    """Raises UsageError for a mistake, with the nearest name."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Looks for unknown options first: argparse would rather complain that what they were meant for is missing."""
        for word in args:
            if word == "--" or (self._subparsers and not word.startswith("--")):
                break
            name = word.partition("=")[0]
            if word.startswith("--") and " " not in name and name not in self._option_string_actions:
                raise UsageError(f"unknown option {word}{texts.nearest(name, self._names())} (see {self.prog} --help)")
        return super().parse_known_args(args, namespace)

    def _names(self) -> list[str]:
        """All options, with the settings of a config where there is one."""
        names = list(self._option_string_actions)
        if "--config" in names:
            from expressnet_jax.config import Config, to_dict
            from expressnet_jax.config.files import flat

            names += [f"--config.{key}" for key in flat(to_dict(Config()))]
        return names

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            near = texts.nearest(str(value), map(str, action.choices or ()))
            raise argparse.ArgumentError(action, f"{error.message}{near}") from None


class Output(io.TextIOBase):
    """Standard output where --json was given: it gets exactly one document, `begun` once a part of it is there."""

    begun = False

    def write(self, text: str) -> int:
        """Writes a part of the document."""
        self.begun = True
        return sys.stdout.write(text)

    def flush(self) -> None:
        """Shows what is written."""
        sys.stdout.flush()


def show(options: argparse.Namespace, text: str) -> None:
    """A result for people, on standard output; with --json, which wants that for itself, on standard error."""
    (texts.say if options.json else texts.show)(text)


def source(text: str) -> str:
    """The type of what we read ourselves, whatever its name; nothing is refused, as of a variable that is not set."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return text


def local(text: str) -> str:
    """The type of a place that libraries read or write: as `source`, and a name that is no text is refused."""
    if why := undecodable(source(text)):
        raise argparse.ArgumentTypeError(why)
    return text


def path(text: str) -> Path:
    """The type of a path's argument: as `local`."""
    return Path(local(text)).expanduser()


def refuse_addresses(words: Sequence[str]) -> None:
    """Raises UsageError where an argument of any command is an address of something that is not on this machine."""
    for before, word in zip(("", *words), words, strict=False):
        option, equals, value = word.partition("=")
        if not (word.startswith("--") and equals):
            option, value = before if before.startswith("--") and "=" not in before else "", word
        if why := elsewhere(value):
            raise UsageError(f"{option} {why}".lstrip())


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


def start_jax(*, distributed: bool = False) -> None:
    """Keeps compiled programs from one run to the next. `distributed`: joins the other processes of a job."""
    import jax

    if distributed:
        from expressnet_jax.parallel import distributed as processes

        processes.join()
    _check_devices()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "expressnet_jax" / "xla"
    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(cache))
    if jax.default_backend() == "cpu" and jax.device_count() > 1:
        # Read back from the cache, a CPU program has lost the order of its collectives: on a busy machine one device
        # waits in one, the others in the next, until XLA aborts (seen in 10 of 10 loaded runs; without, in 0 of 11).
        jax.config.update("jax_enable_compilation_cache", False)
    if distributed:
        processes.meet()


def _check_devices() -> None:
    """Raises DataError where JAX_PLATFORMS asks for devices that are not here; JAX says so in a screenful."""
    import jax

    asked = jax.config.values["jax_platforms"]
    if asked:  # without it, JAX's warnings that it falls back to the CPU are worth reading
        logging.getLogger("jax._src.xla_bridge").setLevel(logging.CRITICAL)
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        why = texts.one_line(error)[:200]
        kind = str(asked).partition(",")[0]
        install = f", or install what it needs: {texts.install(kind)}" if kind in ("cuda", "tpu") else ""
        where = f"JAX_PLATFORMS={asked}: JAX finds no such device here{f' ({why})' if why else ''}"
        raise DataError(f"{where}; unset it, or set it to cpu{install}") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside of it JAX starts without what its CUDA plugin says of a missing driver; what fails is raised as ever."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def on_cpu() -> None:
    """Leaves accelerators alone: this process only reads and counts, or plans for a machine that is not here."""
    import jax

    jax.config.update("jax_platforms", "cpu")
