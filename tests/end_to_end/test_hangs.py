"""Worker processes that stand still or die while a run waits for their first batch; then the same command again; and
signals before anything has begun."""

import contextlib
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import TINY, separate, start
from tests.end_to_end.test_kills import outcome, until

SECONDS = 12  # of the watchdog


@pytest.fixture
def waiting(tmp_path, data_dir):
    """(a run that waits for its only worker, which is stopped; the worker's number; the run's command)."""
    command = ["train", f"--config={TINY}", "--config.total=4steps", "--config.data.workers=1", "--workdir",
               tmp_path / "run", "--data_dir", data_dir, f"--config.watchdog.seconds={SECONDS}"]  # fmt: skip
    process = start(*command)
    deadline = time.monotonic() + 300
    while not (worker := _worker(process.pid)):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    subprocess.run(["kill", "-STOP", worker], check=True)
    yield process, worker, command
    process.kill()
    process.communicate()


def _worker(parent):
    """The number of the first process that a process has started to read data, or nothing."""
    for children in Path(f"/proc/{parent}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            for number in children.read_text().split():
                if b"spawn_main" in Path(f"/proc/{number}/cmdline").read_bytes():
                    return number
    return ""


def _gone(number):
    return not Path(f"/proc/{number}").exists() or "State:\tZ" in Path(f"/proc/{number}/status").read_text()


def test_a_worker_that_stands_still_ends_the_run_with_76_and_the_same_command_finishes_it(waiting, tmp_path):
    process, worker, command = waiting
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 76, said
    assert f"step 0 has not ended in {SECONDS} s (watchdog.seconds; the run was busy with: data)" in said
    stacks = (tmp_path / "run" / "stacks.0.txt").read_text()
    assert f"child process {worker} " in stacks and "state T" in stacks and "_drawn" in stacks
    assert _gone(worker)
    again = separate(*command[:-1])  # a busy machine may compile for longer than the watchdog waited here
    assert again.returncode == 0, again.stderr


#: For the processes that read data alone, before anything else: after some forty batches no more.
BLOCKED = """
import os, sys
if any("spawn_main" in word for word in sys.orig_argv):
    from data_pipelines.splits import Split
    load, left, (end, _other) = Split.load, [1] * 40, os.pipe()
    Split.load = lambda self, positions: load(self, positions) if left and left.pop() else os.read(end, 1)
"""


def test_a_worker_that_waits_at_a_pipe_ends_the_run_with_76_and_the_same_command_goes_on(
    tmp_path, data_dir, monkeypatch
):
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "sitecustomize.py").write_text(BLOCKED)
    command = ["train", f"--config={TINY}", "--config.total=48steps", "--config.save_every=8steps",
               "--config.eval_every=100steps", "--config.data.workers=1", "--workdir", tmp_path / "run",
               "--data_dir", data_dir]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path / "blocked"))
        ended = separate(*command, f"--config.watchdog.seconds={SECONDS}")
    assert ended.returncode == 76 and "leaked" not in ended.stderr, ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert f" has not ended in {SECONDS} s (watchdog.seconds; the run was busy with: data)" in last
    step = int(re.findall("expressnet: step ([0-9]+) ", last)[0])
    stacks = (tmp_path / "run" / "stacks.0.txt").read_text()
    assert "state S" in stacks and "state T" not in stacks
    again = separate(*command)
    assert again.returncode == 0 and f"going on from step {step // 8 * 8} of 48" in again.stderr, again.stderr


def test_sigterm_is_heard_while_a_run_waits_for_data(waiting):
    process, worker, _ = waiting
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 75, said
    assert "stopped by SIGTERM with nothing to save yet; the same command goes on from there" in said.splitlines()[-1]
    assert _gone(worker)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_in_start_up_is_one_line_and_its_code(tmp_path, data_dir, number, code):
    process = start("train", f"--config={TINY}", "--workdir", tmp_path / "run", "--data_dir", data_dir)
    deadline = time.monotonic() + 60
    while not _caught(process.pid) >> signal.SIGTERM - 1 & 1:  # until the command listens; importing JAX takes longer
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(0.2)
    process.send_signal(number)
    lines = process.communicate(timeout=120)[1].splitlines()
    assert process.returncode == code and len(lines) == 1, lines
    assert f"stopped by {number.name} while no step was run" in lines[0]


def _caught(number):
    """The signals that a process catches, a bit for each."""
    lines = Path(f"/proc/{number}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("SigCgt")), 16)


def test_a_worker_that_is_killed_ends_the_run_with_76_and_one_line(waiting):
    process, worker, _ = waiting
    subprocess.run(["kill", "-KILL", worker], check=True)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 76, said
    assert "exit code -9" in said.splitlines()[-1] and "Traceback" not in said


def test_a_run_whose_worker_stands_still_between_two_saves_ends_as_if_it_had_not(tmp_path, data_dir):
    def command(workdir, *more):
        steps = [f"--config.{key}_every={count}steps" for key, count in (("log", 1), ("save", 8), ("eval", 100))]
        return ["train", f"--config={TINY}", "--config.total=200steps", *steps, "--config.data.workers=1",
                "--workdir", workdir, "--data_dir", data_dir, *more]  # fmt: skip

    done = separate(*command(tmp_path / "undisturbed"))  # first, so that the other one finds its programs compiled
    assert done.returncode == 0, done.stderr
    process = start(*command(tmp_path / "run", f"--config.watchdog.seconds={2 * SECONDS}"))
    assert until(process, "step 30/"), process.communicate()
    subprocess.run(["kill", "-STOP", _worker(process.pid)], check=True)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 76 and "has not ended in" in said, said
    done = separate(*command(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert outcome(tmp_path / "run") == outcome(tmp_path / "undisturbed")
