"""The command line: `expressnet train | evaluate | ablate | report | inspect | plan | export | predict | bench | data`.

Text goes to standard error, JSON to standard output; exit codes are 0 done, 1 failed, 2 wrong usage, 75 stopped by
SIGTERM or because another process of the job is gone, 76 hung, 130 stopped by SIGINT.
"""

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from data_pipelines.common.errors import UsageError
from data_pipelines.common.text import LONG, json_line, one_line, reason, shown
from expressnet_jax.commands import common, huge_pages

_COMMANDS = ("train", "evaluate", "ablate", "report", "inspect", "plan", "export", "predict", "bench")
_DATA_COMMANDS = ("prepare", "audit")
_DISTRIBUTED = "expressnet_jax.parallel.distributed"  # imported only by commands that need JAX
_ALLOW = "allow it, or choose another place"
_WAYS_OUT = {
    errno.EISDIR: "name a file", errno.ENOTDIR: "choose a path whose parts are folders", errno.ENOENT: "check the path",
    errno.EACCES: _ALLOW, errno.EPERM: _ALLOW, errno.EROFS: _ALLOW, errno.ENAMETOOLONG: "choose a shorter name",
}  # fmt: skip


def script() -> int:
    """The console's command: `main` of its arguments, in a process of its own."""
    huge_pages.restart()
    return main()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code. A user's mistake is one line, never a traceback."""
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments)
    except Exception:
        traceback.print_exc()
        code = 1
    if _DISTRIBUTED in sys.modules:
        sys.modules[_DISTRIBUTED].leave(code, together=code in (0, 75))
    return code


def parser() -> common.Parser:
    """All commands, with the texts of their modules."""
    made = common.Parser(prog="expressnet", description="ExpressNet-MoE: facial-expression recognition in JAX.")
    commands = made.add_subparsers(dest="command", required=True, metavar="|".join((*_COMMANDS, "data")))
    for name in _COMMANDS:
        _add(commands, name)
    data = commands.add_parser("data", help="Data sets: prepare, audit.")
    commands = data.add_subparsers(dest="command", required=True, metavar="|".join(_DATA_COMMANDS))
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


def _run(words: Sequence[str]) -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's notes about its own cache are not the user's concern
    try:
        common.refuse_addresses(words)
        rest, overrides = common.split_overrides(words)
        options = parser().parse_args(rest)
        if overrides and not hasattr(options, "config"):
            raise UsageError(f"--config.{overrides[0][0]} goes with --config, which {options.command} does not take")
        options.overrides = overrides
        result: common.Result = options.run(options)
        if isinstance(result, int):
            return result
        if options.json:
            print(json_line(result), end="")
        return 0
    except KeyboardInterrupt as error:
        return _failed(130, str(error) or "interrupted")
    except Exception as error:
        return _explained(error)


def _explained(error: Exception) -> int:
    """The exit code of a failure, after its line: errors of ours, a lost process, a full disk in any disguise."""
    code = getattr(error, "exit_code", None)
    if code is not None:  # data_pipelines.common.errors.Failure, or like it
        return _failed(code, error)
    text = one_line(error)
    if _DISTRIBUTED in sys.modules and sys.modules[_DISTRIBUTED].lost(error):
        sys.modules[_DISTRIBUTED].find_out_who_is_lost()
        _failed(75, f"another process of the job is gone ({text[:200]}); started again, the job resumes")
        sys.modules[_DISTRIBUTED].leave(75, together=False)
    full = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]
    if any(reason in text for reason in full):  # libraries raise it as anything
        return _failed(1, f"the disk takes no more ({text[:200]}); free some space and run the same command again")
    if "RESOURCE_EXHAUSTED" in text:
        return _failed(1, f"the device's memory does not hold this; use a smaller batch_size ({text[:200]})")
    if isinstance(error, OSError):
        return _failed(1, _of_the_system(error))
    if "Unable to initialize backend" in text:
        return _failed(1, text)
    raise error


def _of_the_system(error: OSError) -> str:
    """What the system refused, in words: which file, why, and what may help."""
    where = "" if error.filename is None else f"{error.filename}: "
    way_out = _WAYS_OUT.get(error.errno or 0)
    return f"{where}{reason(error, LONG, named=error.filename)}{f'; {way_out}' if way_out else ''}"


def _failed(code: int, message: object) -> int:
    # It may quote a stranger's file, which must neither steer the terminal nor look like a second line.
    print(f"expressnet: {shown(str(message), LONG)}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(script())
