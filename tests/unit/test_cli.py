"""The entry: what each command says of itself, and the exit code and the line of each failure."""

import errno
import json
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
        (OSError(errno.EISDIR, os.strerror(errno.EISDIR), "a"), 1, ": a: Is a directory; name a file, or move this"),
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


@pytest.mark.parametrize(("error", "code"), [(DataError("no data"), 1), (KeyboardInterrupt(), 130), (KeyError(3), 1)])
def test_with_json_a_failure_is_one_document_too(error, code, monkeypatch, capsys):
    def fail(_):
        raise error

    monkeypatch.setattr("expressnet_jax.commands.report.run", fail)
    assert cli.main(["report", "x", "--out", "y", "--json"]) == code
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["exit_code"] == code and f"expressnet: {found['error']}\n" in said.err
    assert ("Traceback" in said.err) == isinstance(error, KeyError)  # a fault of the program


def test_a_document_that_has_begun_is_the_only_one(monkeypatch, capsys):
    def fail(options):
        options.output.write("[]\n")
        raise DataError("no more")

    monkeypatch.setattr("expressnet_jax.commands.report.run", fail)
    assert cli.main(["report", "x", "--out", "y", "--json"]) == 1
    said = capsys.readouterr()
    assert said.out == "[]\n" and said.err == "expressnet: no more\n"


def test_results_for_people_are_on_standard_output_and_beside_a_document_they_are_not(monkeypatch, capsys):
    monkeypatch.setattr("expressnet_jax.commands.report.run", lambda o: cli.common.show(o, "a table\n\n") or ({}, 130))
    assert cli.main(["report", "x", "--out", "y"]) == 130
    assert capsys.readouterr() == ("a table\n", "")
    assert cli.main(["report", "x", "--out", "y", "--json"]) == 130
    assert capsys.readouterr() == ("{}\n", "a table\n")


@pytest.mark.parametrize(
    ("words", "near"),
    [
        ("trian", "did you mean train?"), ("help trian", "mean train?"), ("data prepar x", "did you mean prepare?"),
        ("train --config=x --workdri=y", "unknown option --workdri=y; did you mean --workdir?"),
        ("train --config x --batch_size 4 --workdir y", "did you mean --config.batch_size?"),
        ("evaluate --wrkdir y", "did you mean --workdir?"), ("--versio", "did you mean --version?"),
    ],
)  # fmt: skip
def test_a_misspelt_name_offers_the_nearest(words, near, capsys):
    assert cli.main(words.split()) == 2
    said = capsys.readouterr()
    assert near in said.err and said.err.count("\n") == 1 and not said.out


def test_version_and_help_are_results(capsys):
    for words, start in (["--version"], "expressnet 0."), (["help"], "usage: expressnet "), (
        ["help", "data", "prepare"], "usage: expressnet data prepare "
    ):  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        said = capsys.readouterr()
        assert ended.value.code == 0 and said.out.startswith(start) and not said.err


def test_a_reader_that_is_gone_is_one_line():
    code = "import sys; from expressnet_jax import cli; from expressnet_jax.commands import report; "
    code += "report.run = lambda o: cli.common.show(o, 'x' * 1000000) or 0; sys.exit(cli.main(sys.argv[1:]))"
    command = f'({sys.executable} -c "{code}" report x --out y; echo $? >&2) | head -c 1'
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    line, status = done.stderr.splitlines()
    assert "what was to read the result is gone" in line and status == "1" and done.stdout == "x"


def test_a_device_that_is_not_here_is_one_line():
    command = [sys.executable, "-m", "expressnet_jax.cli", "inspect", "--config=fer2013_small"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "rocm"}, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and not done.stdout
    assert done.stderr.startswith("expressnet: JAX_PLATFORMS=rocm: JAX finds no such device here")


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
