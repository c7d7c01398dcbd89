"""A run as two processes of two devices each, started by launch/local.sh: the same numbers as one process gives."""

import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.conftest import ROOT, TINY, environment, expressnet

RUN = ["train", f"--config={TINY}", "--config.total=8steps", "--config.log_every=1steps", "--config.save_every=2steps",
       "--config.eval_every=4steps"]  # fmt: skip


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """`expressnet` as a file that can be run, of this checkout."""
    path = tmp_path_factory.mktemp("bin") / "expressnet"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -m expressnet_jax.cli "$@"\n')
    path.chmod(0o755)
    return str(path)


def launch(program, *arguments, options=()):
    command = ["bash", ROOT / "launch" / "local.sh", "2", "--devices", "2", *options, "--", *arguments]
    return subprocess.Popen(
        [str(word) for word in command], env={**environment(), "EXPRESSNET": program},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finished(process):
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    return out, err


def records(folder, kind):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record for record in lines if record["kind"] == kind]


def numbers(folder):
    train = [[r["step"], r["loss"], r["accuracy"], r["gradient_norm"]] for r in records(folder, "train")]
    return np.array(train), [[r["step"], r["loss"], r["accuracy"]] for r in records(folder, "validation")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, data_dir):
    folder = tmp_path_factory.mktemp("alone") / "run"
    done = expressnet(*RUN, "--config.mesh.data=4", "--workdir", folder, "--data_dir", data_dir, devices=8)
    assert done.returncode == 0, done.stderr
    return numbers(folder)


@pytest.fixture(scope="module")
def killed(program, tmp_path_factory, data_dir):
    """A run of which one process was killed without warning, and what the screen showed."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    run = launch(program, *RUN, "--workdir", folder, "--data_dir", data_dir, options=["--chaos"])
    return folder, finished(run)[1]


def test_two_processes_of_which_one_is_killed_take_the_steps_of_one(alone, killed):
    folder, screen = killed
    assert "killing process" in screen and "going on from step" in screen, screen
    assert f"process 1 on {socket.gethostname()}: 2 x cpu" in screen
    train, validation = numbers(folder)
    assert [row[0] for row in train] == list(range(1, 9))
    np.testing.assert_allclose(train, alone[0], rtol=2e-5)
    np.testing.assert_allclose(validation, alone[1], rtol=2e-5)


def test_two_processes_evaluate_every_example_once(program, killed, data_dir):
    folder, _ = killed
    of = ["evaluate", "--workdir", folder, "--data_dir", data_dir, "--json"]
    one = expressnet(*of)
    together, _ = finished(launch(program, *of))
    assert json.loads(together)["examples"] == sum(map(sum, json.loads(one.stdout)["confusion"]))
    assert json.loads(together)["confusion"] == json.loads(one.stdout)["confusion"]
    assert json.loads(together)["loss"] == pytest.approx(json.loads(one.stdout)["loss"], rel=1e-5)
    assert (folder / "evaluation" / "synthetic_faces_tiny_test" / "predictions.png").is_file()


def test_sigterm_stops_both_at_one_step_and_nothing_is_lost(program, killed, tmp_path, data_dir):
    command = [*RUN, "--workdir", tmp_path / "run", "--data_dir", data_dir]
    run = launch(program, *command)
    while not (tmp_path / "run" / "metrics.jsonl").is_file() or not records(tmp_path / "run", "train"):
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.2)
    run.terminate()
    _, screen = run.communicate(timeout=300)
    assert run.returncode == 75 and "stopped by SIGTERM with everything saved at step" in screen, screen
    run = launch(program, *command)  # and in start-up, which JAX alone would not hear
    assert any("devices in all" in line for line in run.stderr)
    run.terminate()
    _, screen = run.communicate(timeout=300)
    assert run.returncode == 75 and "stopped by SIGTERM with everything saved at step" in screen, screen
    assert "going on from step" in finished(launch(program, *command))[1]
    digests = [
        json.loads(expressnet("inspect", folder, "--json").stdout)["digest"] for folder in (tmp_path / "run", killed[0])
    ]
    assert digests[0] == digests[1]  # two ways of being interrupted, the same weights to the bit


def pair(one, other):
    """Two processes of a job with their own arguments: (exit code, standard error) of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    started = []
    for number, arguments in enumerate((one, other)):
        own = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(number)}
        command = [sys.executable, "-m", "expressnet_jax.cli", *map(str, arguments), "--distributed"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=environment() | own, **pipes))
    return [(process.communicate(timeout=300)[1], process.returncode) for process in started]


def test_a_mistake_on_one_host_is_told_by_the_first_and_ends_both(tmp_path, data_dir):
    (tmp_path / "empty").mkdir()
    both = [[*RUN, "--workdir", tmp_path / "run", "--data_dir", folder] for folder in (data_dir, tmp_path / "empty")]
    (first, code), (second, own_code) = pair(*both)
    assert code == own_code == 1
    assert f"process 1 on {socket.gethostname()}: DataError" in first and "Traceback" not in first + second
    assert "expressnet data prepare" in second
    assert not (tmp_path / "run").exists()


def test_processes_with_different_settings_are_refused(tmp_path, data_dir):
    command = [*RUN, "--workdir", tmp_path / "run", "--data_dir", data_dir]
    (first, code), (second, own_code) = pair(command, [*command, "--config.optimizer.learning_rate=1"])
    line = (
        f"process 1 on {socket.gethostname()} has another config or code than process 0: optimizer.learning_rate (1.0"
    )
    assert (code, own_code) == (2, 2) and line in first and line in second
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_not_shared_is_refused(tmp_path, data_dir):
    both = [[*RUN, "--workdir", tmp_path / name, "--data_dir", data_dir] for name in ("one", "other")]
    (first, code), (second, own_code) = pair(*both)
    assert (code, own_code) == (1, 1)
    assert "file system that all share" in first and "file system that all share" in second


def test_without_a_job_to_join_the_command_says_how_to_start_one(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "expressnet_jax.cli", *RUN, "--workdir", tmp_path / "run", "--distributed"],
        env=environment() | {"JAX_NUM_PROCESSES": "2"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID" in done.stderr
    bucket = expressnet(*RUN, "--workdir", "gs://bucket/run")
    assert bucket.returncode == 2 and "mount the bucket" in bucket.stderr
    assert not os.listdir(tmp_path)
