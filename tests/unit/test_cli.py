"""The entry: what each command says of itself, and the exit code and the line of each failure."""

import errno
import os
import subprocess
import sys

import pytest

from data_pipelines.common.errors import DataError, Failure, UsageError
from expressnet_jax import cli
from expressnet_jax.checkpoint.weight_files import WeightsError
from expressnet_jax.commands import huge_pages
from expressnet_jax.config import ConfigError
from expressnet_jax.train.signals import Interrupted
from tests.conftest import ROOT

COMMANDS = ["train", "evaluate", "ablate", "report", "inspect", "plan", "export", "predict", "bench", "data prepare",
            "data audit"]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_the_parser_takes(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([*command.split(), "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0 and "--json" in text
    example = text.split("example: expressnet ")[1]
    assert example.startswith(f"{command} ")
    words, _ = cli.common.split_overrides(example.replace("'", "").split())
    assert cli.parser().parse_args(words).run.__module__ == f"expressnet_jax.commands.{command.split()[-1]}"


def test_help_does_not_wait_for_jax():
    code = "import sys; from expressnet_jax import cli; cli.parser(); print(*{'jax', 'flax', 'PIL'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ConfigError("no\nsuch \x1b[2J key"), 2, r"no\nsuch \x1b[2J key"), (UsageError("no run"), 2, "no run"),
        (DataError("no data"), 1, "no data"), (Failure("lost"), 1, "lost"), (WeightsError("bad file"), 1, "bad file"),
        (Interrupted(15, "runs/a"), 75, "SIGTERM"), (Interrupted(2, "runs/a"), 130, "SIGINT"),
        (OSError(errno.ENOENT, "gone"), 1, "gone"), (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.EISDIR, os.strerror(errno.EISDIR), "runs/a"), 1, ": runs/a: Is a directory; name a file\n"),
        (OSError("12 MB free and 50 MB needed"), 1, "12 MB free and 50 MB needed"),
        (ValueError(f"zarr: {os.strerror(errno.ENOSPC)}"), 1, "the disk takes no more"),
        (RuntimeError("RESOURCE_EXHAUSTED: 3 GB"), 1, "smaller batch_size"),
    ],
)  # fmt: skip
def test_a_failure_is_one_line_and_its_exit_code(error, code, words, monkeypatch, capsys):
    def fail(_):
        raise error

    monkeypatch.setattr("expressnet_jax.commands.report.run", fail)
    assert cli.main(["report", "x", "--out", "y"]) == code
    said = capsys.readouterr()
    assert said.err.startswith("expressnet: ") and said.err.count("\n") == 1 and words in said.err and not said.out
    assert "Errno" not in said.err


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch, capsys):
    monkeypatch.setattr("expressnet_jax.commands.report.run", lambda _: {}["missing"])
    assert cli.main(["report", "x", "--out", "y"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_results_are_json_on_standard_output_only_where_it_is_asked_for(monkeypatch, capsys):
    monkeypatch.setattr("expressnet_jax.commands.report.run", lambda _: {"accuracy": float("nan")})
    assert cli.main(["report", "x", "--out", "y"]) == 0 and capsys.readouterr().out == ""
    assert cli.main(["report", "x", "--out", "y", "--json"]) == 0
    assert capsys.readouterr().out == '{"accuracy": null}\n'


RESTARTED = "import os, sys; from expressnet_jax.commands import huge_pages as h; sys.argv.append(str(os.getpid())); "


@pytest.mark.parametrize("given", [None, "glibc.malloc.perturb=0"])
def test_the_process_starts_once_more_with_huge_pages_where_they_come_on_request(given):
    code = RESTARTED + "h.restart(); print(os.environ.get('GLIBC_TUNABLES'), *sys.argv[1:])"
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    environment |= {"GLIBC_TUNABLES": given} if given else {}
    command = [sys.executable, "-X", "utf8", "-c", code, "an argument", "--and=another"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        said = process.stdout.read().strip()
    expected = given or ("glibc.malloc.hugetlb=1" if huge_pages.is_on_request() else None)
    assert said == f"{expected} an argument --and=another {process.pid}"


@pytest.mark.parametrize(("mode", "asks"), [("always [madvise] never", True), ("[always] madvise never", False),
                                            ("always madvise [never]", False), (None, False)])  # fmt: skip
def test_huge_pages_are_asked_for_where_the_kernel_gives_them_on_request_alone(mode, asks, tmp_path, monkeypatch):
    file, started = tmp_path / "enabled", []
    if mode:
        file.write_text(mode + "\n")
    monkeypatch.setattr(huge_pages, "_KERNEL", file)
    monkeypatch.setattr(os, "execv", lambda *arguments: started.append(arguments))
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert huge_pages.is_on_request() == asks
    huge_pages.restart()
    assert bool(started) == asks
