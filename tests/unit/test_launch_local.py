"""launch/local.sh with a stand-in for `expressnet`: what each process is told, and how a job ends."""

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "launch" / "local.sh"
#: Notes its start in LOG, with what it was told, and then does what the test says for its number and attempt.
STAND_IN = """#!/usr/bin/env bash
i=$JAX_PROCESS_ID
attempt=$(grep -c "^start $i " "$LOG")
line="start $i $JAX_NUM_PROCESSES $JAX_COORDINATOR_ADDRESS $$|${XLA_FLAGS-}|${JAX_PLATFORMS-}"
line+="|${JAX_ENABLE_COMPILATION_CACHE-}|${CUDA_VISIBLE_DEVICES-}|$(printf '%q ' "$@")"
echo "$line" >>"$LOG" # at once: the others write there too
echo "process $i speaks"
all_() { while (($(grep -c ^start "$LOG") < JAX_NUM_PROCESSES * (attempt + 1))); do sleep 0.05; done; }
wait_() { for ((t = 0; t < ${1:-600}; t++)); do sleep 0.05; done; }
DO
"""


@pytest.fixture
def job(tmp_path):
    """job(what each process does, *arguments of local.sh) -> the started script."""
    started = []

    def start(do, *arguments, **variables):
        stand_in = tmp_path / "expressnet"
        stand_in.write_text(STAND_IN.replace("DO", do))
        stand_in.chmod(0o755)
        (tmp_path / "log").touch()
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_", "XLA_", "CUDA_"))}
        environment = {**kept, "EXPRESSNET": str(stand_in), "LOG": str(tmp_path / "log"), **variables}
        command = ["bash", str(SCRIPT), *arguments, "--", "train", "--workdir", str(tmp_path / "a run")]
        # Tests run in the background ignore Ctrl-C, and so would what they start: bash could then not trap it.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        signal.signal(signal.SIGINT, before)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ended(process, seconds=25):
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def starts(folder):
    """What the stand-ins have noted: a list of words of each start."""
    lines = [line for line in (folder / "log").read_text().splitlines() if line.startswith("start")]
    return [line.split("|")[0].split() + line.split("|")[1:] for line in lines]


def until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def left_over(folder):
    """Processes that have this test's LOG in their environment."""
    wanted, found = f"LOG={folder / 'log'}".encode(), []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state = (path / "stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z" and wanted in (path / "environ").read_bytes().split(b"\0"):
                found.append((path / "cmdline").read_bytes())
        except OSError:
            continue
    return found


def test_each_process_is_told_who_it_is_and_where_the_others_are(job, tmp_path):
    code, out, err = ended(job("exit 0", "3", "--devices", "2", XLA_FLAGS="--xla_some_flag=1"))
    assert (code, err) == (0, "") and out == "process 0 speaks\n"
    rows = sorted(starts(tmp_path))
    assert [row[1:3] for row in rows] == [["0", "3"], ["1", "3"], ["2", "3"]]
    (address,) = {row[3] for row in rows}
    assert address.startswith("127.0.0.1:") and 20000 <= int(address.partition(":")[2]) < 32000
    flags = "--xla_some_flag=1 --xla_force_host_platform_device_count=2"
    assert all(row[5:9] == [flags, "cpu", "false", ""] for row in rows)
    assert all(shlex.split(row[9]) == ["train", "--workdir", str(tmp_path / "a run"), "--distributed"] for row in rows)
    assert (tmp_path / "a run.logs" / "process-2.log").read_text() == "process 2 speaks\n"
    assert not (tmp_path / "a run").exists(), "expressnet refuses a folder that holds anything before its run"


@pytest.mark.parametrize(
    "visible, given",
    [
        (None, ["0", "1"]),
        ("4,5", ["4", "5"]),
        ("7,3,GPU-8932f937", ["7", "3"]),
        ("MIG-1f,MIG-2e", ["MIG-1f", "MIG-2e"]),
    ],
)
def test_one_gpu_each_of_those_that_are_visible(job, tmp_path, visible, given):
    told = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    code, out, err = ended(job("exit 0", "2", "--gpus", "--dry-run", **told))
    assert code == 0 and not err
    (tmp_path / "a run.logs").mkdir()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_", "XLA_", "CUDA_"))}
    environment = {**kept, "LOG": str(tmp_path / "log")}
    subprocess.run(["bash", "-c", out + "wait"], env=environment, check=True, capture_output=True)
    assert [row[5:9] for row in sorted(starts(tmp_path))] == [["", "cuda,cpu", "", gpu] for gpu in given]


@pytest.mark.parametrize("visible, number", [("3", 1), ("", 0)])
def test_more_processes_than_visible_gpus_are_a_mistake(job, visible, number):
    code, out, err = ended(job("exit 0", "2", "--gpus", "--dry-run", CUDA_VISIBLE_DEVICES=visible))
    assert (code, out) == (2, "") and f"CUDA_VISIBLE_DEVICES has only {number}" in err and err.count("\n") == 1
    assert ended(job("exit 0", "2", CUDA_VISIBLE_DEVICES=visible))[0] == 0  # without --gpus it does not matter


@pytest.mark.skipif(any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg"))), reason="there is one")
def test_without_a_gpu_nothing_trains_on_cpus_instead(job, tmp_path):
    code, _, err = ended(job("exit 0", "2", "--gpus"))
    assert code == 2 and "no NVIDIA GPU" in err and err.count("\n") == 1 and not starts(tmp_path)


def test_one_process_with_one_device_keeps_the_compilation_cache(job, tmp_path):
    assert ended(job("exit 0", "1"))[0] == 0
    assert starts(tmp_path)[0][5:8] == ["--xla_force_host_platform_device_count=1", "cpu", ""]


@pytest.mark.parametrize("code", [1, 2, 75])
@pytest.mark.parametrize("who", [0, 1])
def test_what_gets_no_better_is_not_started_again(job, tmp_path, code, who):
    others = (
        "trap 'exit 75' TERM; wait_" if code != 75 else "all_; wait_ 6; exit 75"
    )  # 75 comes from all, but not at once
    found, out, err = ended(job(f"if [ $i = {who} ]; then all_; echo why; exit {code}; fi; {others}", "2"))
    assert found == code and len(starts(tmp_path)) == 2
    assert f"process {who} ended with exit code {code}" in err
    assert "why" in (out if who == 0 else err) or code == 75
    until(lambda: not left_over(tmp_path), 2)


def test_a_crash_starts_the_whole_job_again_at_another_port(job, tmp_path):
    do = "if [ $attempt = 0 ]; then if [ $i = 1 ]; then all_; kill -KILL $$; fi; trap 'exit 1' TERM; wait_; fi"
    code, _, err = ended(job(do, "2"))
    assert code == 0 and "process 1 ended with exit code 137" in err and "(1 of 3)" in err
    rows = starts(tmp_path)
    assert sorted(row[1] for row in rows) == ["0", "0", "1", "1"] and len({row[3] for row in rows}) == 2


def test_crashes_come_to_an_end(job, tmp_path):
    code, _, err = ended(job("if [ $i = 0 ]; then all_; kill -SEGV $$; fi; wait_", "2", "--restarts", "1"))
    assert code == 139 and len(starts(tmp_path)) == 4 and "(1 of 1)" in err


def test_a_run_that_hung_is_started_again(job, tmp_path):
    do = "if [ $attempt = 0 ]; then if [ $i = 1 ]; then all_; exit 76; fi; trap 'exit 75' TERM; wait_; fi"
    code, _, err = ended(job(do, "2"))
    assert code == 0 and "process 1 ended with exit code 76" in err and "(1 of 3)" in err
    assert len(starts(tmp_path)) == 4


def test_chaos_kills_one_process_after_the_first_new_checkpoint(job, tmp_path):
    for name in ("4", "8.orbax-checkpoint-tmp-0"):  # of an earlier part of the run, and not complete
        (tmp_path / "a run" / "checkpoints" / name).mkdir(parents=True)
    do = "if [ $attempt = 0 ]; then all_; wait_ 6; mkdir -p '{}'; echo there >>\"$LOG\"; trap 'exit 0' TERM; wait_; fi"
    code, _, err = ended(job(do.format(tmp_path / "a run" / "checkpoints" / "8"), "3", "--chaos"))
    assert code == 0 and err.count("--chaos: there is checkpoint 8; killing process") == 1
    assert "ended with exit code 137" in err and len(starts(tmp_path)) == 6
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["start"] * 3 + ["there"]


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_goes_to_all_and_all_are_waited_for(job, tmp_path, number, code):
    process = job('trap "wait_ 6; echo saved $i >>$LOG; exit 75" TERM; echo ready >>"$LOG"; wait_', "3")
    until(lambda: (tmp_path / "log").read_text().count("ready") == 3)
    process.send_signal(number)
    assert ended(process)[0] == code
    text = (tmp_path / "log").read_text()
    assert all(f"saved {i}" in text for i in range(3)) and len(starts(tmp_path)) == 3
    until(lambda: not left_over(tmp_path), 2)


def test_a_second_signal_does_not_wait_and_leaves_nobody_behind(job, tmp_path):
    process = job('trap "" TERM; (wait_) & echo ready >>"$LOG"; wait_; wait', "2")
    until(lambda: (tmp_path / "log").read_text().count("ready") == 2)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert ended(process, 5)[0] == 75
    until(lambda: not left_over(tmp_path), 2)


def test_processes_are_told_even_if_the_script_is_killed(job, tmp_path):
    process = job('trap "echo saved $i >>$LOG; exit 75" TERM; echo ready >>"$LOG"; wait_', "2")
    until(lambda: (tmp_path / "log").read_text().count("ready") == 2)
    process.kill()
    until(lambda: (tmp_path / "log").read_text().count("saved") == 2)
    until(lambda: not left_over(tmp_path))


def test_one_that_was_killed_counts_and_not_the_one_that_ended_for_its_sake(job, tmp_path):
    """Both are gone before the script can look, as on a busy machine: it is told of process 0 first."""
    do = 'if ((attempt)); then all_; exit 0; fi; echo ready >>"$LOG"; while [ ! -e "$LOG.go" ]; do sleep 0.05; done; '
    process = job(do + "if ((i)); then kill -KILL $$; fi; exit 75", "2")
    until(lambda: (tmp_path / "log").read_text().count("ready") == 2)
    process.send_signal(signal.SIGSTOP)
    (tmp_path / "log.go").touch()
    pids = [row[4] for row in starts(tmp_path)]
    until(lambda: all(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z" for pid in pids))
    process.send_signal(signal.SIGCONT)
    code, _, err = ended(process)
    assert code == 0 and "process 1 ended with exit code 137" in err and len(starts(tmp_path)) == 4


def test_a_dry_run_prints_the_commands_of_a_real_one(job, tmp_path):
    code, out, _ = ended(job("exit 0", "2", "--devices", "4", "--dry-run"))
    assert code == 0 and not starts(tmp_path) and not (tmp_path / "a run.logs").exists()
    (tmp_path / "a run.logs").mkdir()
    environment = {**os.environ, "LOG": str(tmp_path / "log")}
    subprocess.run(
        ["bash", "-c", out + "wait"], env=environment, check=True, capture_output=True
    )  # for who pastes them
    pasted = starts(tmp_path)
    (tmp_path / "log").write_text("")
    assert ended(job("exit 0", "2", "--devices", "4"))[0] == 0
    forms = [sorted((*row[1:3], *row[5:]) for row in rows) for rows in (pasted, starts(tmp_path))]
    assert forms[0] == forms[1]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--", "train", "--workdir", "w"], "at least one process"),
        (["two", "--", "train", "--workdir", "w"], "whole number, not 'two'"),
        (["2", "--devices", "--", "train"], "--devices must be a whole number, not '--'"),
        (["2", "train", "--workdir", "w"], "not 'train'"),
        (["2", "--"], "come after --"),
        (["2", "--", "data", "prepare"], "no --workdir"),
    ],
)
def test_mistakes_are_one_line(arguments, said):
    done = subprocess.run(["bash", SCRIPT, *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_without_expressnet_it_says_how_to_find_it(tmp_path):
    command = ["bash", SCRIPT, "2", "--", "train", "--workdir", tmp_path / "w"]
    environment = {**os.environ, "EXPRESSNET": "/no/such/expressnet"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "no /no/such/expressnet" in done.stderr and "EXPRESSNET=" in done.stderr
