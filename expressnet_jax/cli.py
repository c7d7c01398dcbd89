"""The command line: `expressnet train | evaluate | ablate | report | inspect | plan | export | predict | bench | data`.

Results go to standard output, with --json as one JSON document, errors included; all else to standard error. Exit
codes: 0 done, 1 failed, 2 wrong usage, 75 stopped by SIGTERM or because another process of the job is gone, 76 hung,
130 stopped by SIGINT.
"""

import contextlib
import errno
import importlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import expressnet_jax
from data_pipelines.common.errors import UsageError
from data_pipelines.common.text import LONG, json_line, one_line, reason, shown
from expressnet_jax.commands import common, huge_pages

_COMMANDS = ("train", "evaluate", "ablate", "report", "inspect", "plan", "export", "predict", "bench")
_DATA_COMMANDS = ("prepare", "audit")
_DISTRIBUTED = "expressnet_jax.parallel.distributed"  # imported only by commands that need JAX
_ABOUT = (
    """ExpressNet-MoE: facial-expression recognition in JAX. `expressnet help COMMAND` says what a command takes."""
)
_ALLOW = "allow it, or choose another place"
_WAYS_OUT = {
    errno.EISDIR: "name a file, or move this folder away",
    errno.ENOTDIR: "choose a path whose parts are folders", errno.ENOENT: "check the path",
    errno.EACCES: _ALLOW, errno.EPERM: _ALLOW, errno.EROFS: _ALLOW, errno.ENAMETOOLONG: "choose a shorter name",
    errno.EPIPE: "what was to read the result is gone, and the rest was not written",
}  # fmt: skip


_interrupted = False  # by a SIGINT, whatever it then was turned into: an extension's import makes an ImportError of it


def script() -> int:
    """The console's command: `main` of its arguments, in a process of its own."""
    huge_pages.restart()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error does
    training = sys.argv[1:2] == ["train"]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a shell lets it be ignored
        signal.signal(signal.SIGINT, _stop if training else _interrupt)
    if training and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _stop)
    return main()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code. A user's mistake is one line, never a traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    output = common.Output() if "--json" in words else None
    lost = False
    try:
        code = _run(words, output)
    except (Exception, KeyboardInterrupt) as error:
        lost = _is_lost(error)
        code, message = _explained(error)
        _tell(code, message, output)
    if _DISTRIBUTED in sys.modules:
        sys.modules[_DISTRIBUTED].leave(code, together=code in (0, 75) and not lost)
    return code


def parser() -> common.Parser:
    """All commands, with the texts of their modules."""
    made = common.Parser(prog="expressnet", description=_ABOUT, allow_abbrev=False)
    made.add_argument("--version", action="version", version=_version())
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in _COMMANDS:
        _add(commands, name)
    data = commands.add_parser("data", help="Data sets: prepare, audit.")
    commands = data.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in _DATA_COMMANDS:
        _add(commands, name)
    return made


def _add(commands: Any, name: str) -> None:
    module = importlib.import_module(f"expressnet_jax.commands.{name}")
    text, example = str(module.__doc__).strip().split("\n\n")
    command = commands.add_parser(name, help=text, description=text, epilog=example, allow_abbrev=False)
    command.add_argument("--json", action="store_true", help="print one JSON document on standard output")
    command.set_defaults(run=module.run)
    module.add(command)


def _version() -> str:
    jax = metadata.version("jax")
    return f"expressnet {expressnet_jax.__version__} (JAX {jax}, Python {sys.version.split()[0]})"


def _interrupt(*_: object) -> None:
    global _interrupted
    _interrupted = True
    raise KeyboardInterrupt


def _stop(number: int, _: object) -> None:
    """Before a training listens for itself, and after it. At once: an exception could be lost
    in JAX's import (findings/jax_loses_ctrl_c.sh)."""
    line = f"expressnet: stopped by {signal.Signals(number).name} while no step was run; the same command goes on\n"
    os.write(2, line.encode())
    os._exit(75 if number == signal.SIGTERM else 130)


def _run(words: list[str], output: common.Output | None) -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's notes about its own cache are not the user's concern
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    common.refuse_addresses(words)
    rest, overrides = common.split_overrides(words)
    options = parser().parse_args(rest)
    if overrides and not hasattr(options, "config"):
        raise UsageError(f"--config.{overrides[0][0]} goes with --config, which {options.command} does not take")
    options.overrides, options.output = overrides, output
    result: common.Result = options.run(options)
    if isinstance(result, int):
        return result
    document, code = result if isinstance(result, tuple) else (result, 0)
    if output:
        output.write(json_line(document))
        output.flush()
    return code


def _explained(error: BaseException) -> tuple[int, str]:
    """The exit code and the line of a failure: errors of ours, a lost process, a full disk in any disguise. A fault of
    the program leaves its traceback first."""
    if isinstance(error, KeyboardInterrupt) or (_interrupted and not hasattr(error, "exit_code")):
        return 130, str(error) if isinstance(error, KeyboardInterrupt) and str(error) else "interrupted"
    code = getattr(error, "exit_code", None)
    if code is not None:  # data_pipelines.common.errors.Failure, or like it
        return code, str(error)
    text = one_line(error)
    if _is_lost(error):
        sys.modules[_DISTRIBUTED].find_out_who_is_lost()
        return 75, f"another process of the job is gone ({text[:200]}); started again, the job resumes"
    full = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]
    if any(reason in text for reason in full):  # libraries raise it as anything
        return 1, f"the disk takes no more ({text[:200]}); free some space and run the same command again"
    if "RESOURCE_EXHAUSTED" in text:
        return 1, f"the device's memory does not hold this; use a smaller batch_size ({text[:200]})"
    if isinstance(error, OSError):
        return 1, _of_the_system(error)
    if "Unable to initialize backend" in text:
        return 1, text
    traceback.print_exception(error)
    return 1, f"a fault of this program: {type(error).__name__}: {text[:200]}"


def _is_lost(error: BaseException) -> bool:
    return _DISTRIBUTED in sys.modules and sys.modules[_DISTRIBUTED].lost(error)


def _of_the_system(error: OSError) -> str:
    """What the system refused, in words: which file, why, and what may help."""
    where = "" if error.filename is None else f"{error.filename}: "
    way_out = _WAYS_OUT.get(error.errno or 0)
    return f"{where}{reason(error, LONG, named=error.filename)}{f'; {way_out}' if way_out else ''}"


def _tell(code: int, message: str, output: common.Output | None) -> None:
    """A failure as a line on standard error, and as the document where one was asked for and none has begun."""
    # It may quote a stranger's file, which must neither steer the terminal nor look like a second line.
    print(f"expressnet: {shown(message, LONG)}", file=sys.stderr, flush=True)
    try:
        if output and not output.begun:
            output.write(json_line({"error": message, "exit_code": code}))
        sys.stdout.flush()
    except OSError:  # nobody reads it, or it takes no more: without this, Python would complain once more at its end
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(script())
