"""One process with 8 CPU devices for all tests of meshes: `ask` hands it one command after the other.

python -m tests.devices     reads {"module", "arguments", "environment"} a line, and answers {"code", "out", "err"}
"""

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
import tempfile
import traceback
from typing import Any

#: JAX's settings that a command may change for the process that it thinks its own.
SETTINGS = ("jax_compilation_cache_dir", "jax_enable_compilation_cache", "jax_platforms")
_server: subprocess.Popen | None = None
_log: Any = None


def run(module: str, *arguments: object) -> subprocess.CompletedProcess:
    """`python -m MODULE ARGUMENTS` in this process, with what it printed."""
    out, err, words = io.StringIO(), io.StringIO(), [str(argument) for argument in arguments]
    main = importlib.import_module(module).main
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        argv, sys.argv = sys.argv, [module, *words]
        try:
            code = main(words) if module == "expressnet_jax.cli" else main()
        except SystemExit as stop:
            code = stop.code
        except Exception:
            traceback.print_exc()
            code = 1
        finally:
            sys.argv = argv
    return subprocess.CompletedProcess(words, int(code or 0), out.getvalue(), err.getvalue())


def ask(environment: dict[str, str], module: str, *arguments: object) -> subprocess.CompletedProcess:
    """`run` in the process with 8 devices, which is started with the first question."""
    global _server, _log
    if _server is None or _server.poll() is not None:
        _log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        _server = subprocess.Popen(
            [sys.executable, "-m", "tests.devices"], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=_log,
        )  # fmt: skip
    assert _server.stdin is not None and _server.stdout is not None
    question = {"module": module, "arguments": [str(a) for a in arguments], "environment": environment}
    _server.stdin.write(json.dumps(question) + "\n")
    _server.stdin.flush()
    answer = _server.stdout.readline()
    if not answer:
        _server.wait()
        _log.seek(0)
        raise AssertionError(f"the process with 8 devices ended ({_server.returncode}): {_log.read()[-3000:]}")
    found = json.loads(answer)
    return subprocess.CompletedProcess(question["arguments"], found["code"], found["out"], found["err"])


def stop() -> None:
    """Ends the process, where there is one."""
    if _server is not None and _server.stdin is not None:
        _server.stdin.close()
        _server.wait()


def main() -> None:
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    import jax

    for line in sys.stdin:
        question = json.loads(line)
        before = dict(os.environ)
        os.environ.update(question["environment"])
        kept = {name: jax.config.values[name] for name in SETTINGS}
        done = run(question["module"], *question["arguments"])
        for name, value in kept.items():
            jax.config.update(name, value)
        os.environ.clear()
        os.environ.update(before)
        answers.write(json.dumps({"code": done.returncode, "out": done.stdout, "err": done.stderr}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
