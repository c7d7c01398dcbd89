"""launch/slurm.sbatch on a real Slurm: time limits, arrays, crashes, saves that are too long, a study.

What a job does costs nothing in most of them: a stand-in for `expressnet` that ends as it is told to. What is tested is
what Slurm makes of it. The training and the study are real.
"""

import json
import os
import re
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, TINY, environment, expressnet
from tests.slurm.cluster import Cluster, missing, until

pytestmark = [pytest.mark.long, pytest.mark.skipif(bool(missing()), reason=missing())]

SCRIPT = ROOT / "launch" / "slurm.sbatch"
CPUS = {"JAX_PLATFORMS": "cpu"}
#: Start N of a run ends with the word N of CODES, or of its line there for a task of an array, and notes that it began.
ENDS = """#!/usr/bin/env bash
i=${SLURM_ARRAY_TASK_ID:-0}
echo "$(date +%T) start of $i" >>"$STARTS"
read -ra codes <<<"$(sed -n "$((i + 1))p" "$CODES")"
code=${codes[${SLURM_RESTART_COUNT:-0}]}
if ((code > 128)); then kill -$((code - 128)) $$; fi
exit "$code"
"""
#: Writes checkpoint 4, or with "old" has it from before. On SIGTERM it writes checkpoint 8 and ends: with "soon" at
#: once, with "late" 3 s after the time limit (when Slurm sends SIGTERM again), else never. Started again it says from
#: where it goes on.
SLOW = """#!{python} -IS
import os, signal, sys, time
folder = sys.argv[sys.argv.index("--workdir") + 1] + "/checkpoints/"
told, first = [], os.environ["SLURM_PROCID"] == "0"
if os.environ.get("SLURM_RESTART_COUNT", "0") != "0":
    print("going on from", max(os.listdir(folder)))
    sys.exit()
signal.signal(signal.SIGTERM, lambda *_: told.append(time.monotonic()))
time.sleep(3)
if first and os.environ["SAVES"] != "old":
    os.makedirs(folder + "4")
while True:
    time.sleep(0.2)
    limit = told and told[-1] > told[0] + 10
    if os.environ["SAVES"] == "soon" and told or os.environ["SAVES"] == "late" and limit:
        time.sleep(3 if limit else 0)
        if first:
            os.makedirs(folder + "8")
        sys.exit(75)
"""
#: The real one; each step of its first start takes two seconds more, so that a few steps last until the time limit.
PATIENT = """
import os, sys, time
from expressnet_jax import cli
from expressnet_jax.train import loop
if os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
    ask = loop.Signals.before
    loop.Signals.before = lambda self, step: (time.sleep(2.5), ask(self, step))[1]
sys.exit(cli.main())
"""


@pytest.fixture(scope="module")
def cluster():
    with Cluster(kill_wait=8) as started:
        yield started


def program(folder: Path, text: str) -> str:
    path = folder / "expressnet"
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def real(folder: Path, source: str = "from expressnet_jax import cli; raise SystemExit(cli.main())") -> str:
    """`expressnet` of this checkout, which gives way to whatever else runs on the machine."""
    (folder / "main.py").write_text(source)
    return program(folder, f'#!/bin/sh\nexec nice -n 10 {sys.executable} {folder}/main.py "$@"\n')


def options(tasks: int, folder: Path, *more: str) -> list[str]:
    """Options of sbatch: the script's headers for one node without GPUs, and the log, which `log` reads."""
    own = [f"--ntasks-per-node={tasks}", "--cpus-per-task=1", f"--output={folder}/log-%a"]
    return ["--nodes=1", "--gpus-per-node=0", *own, *more]


def log(folder: Path, task: object = 4294967294) -> str:
    """What a job has printed; Slurm numbers one that is no array so."""
    return (folder / f"log-{task}").read_text()


def said(text: str) -> list[str]:
    """The script's own lines, without date and job."""
    return re.findall(r"(?m)^slurm\.sbatch: .*? job \S+ (.*)$", text)


def outcome(job: dict[str, str]) -> tuple[str, str, str]:
    return job["JobState"], job["ExitCode"].partition(":")[0], job["Restarts"]


def test_a_training_of_two_processes_reaches_its_time_limit_and_goes_on(cluster, tmp_path, data_dir):
    steps = [f"--config.{key}=48steps" for key in ("total", "save_every", "eval_every")]
    run = ["train", f"--config={TINY}", *steps, "--config.log_every=1steps", "--workdir", tmp_path / "run"]
    told = {**environment(2), "PATH": cluster.environment["PATH"], "EXPRESSNET": real(tmp_path, PATIENT)}
    words = options(2, tmp_path, "--time=3", "--signal=TERM@60")
    (job,) = cluster.ended(cluster.submit(*words, SCRIPT, *run, "--data_dir", data_dir, **told), 600)
    text = log(tmp_path)
    assert outcome(job) == ("COMPLETED", "0", "1"), text
    assert "process 1 on" in text and "2 x cpu" in text and "4 devices in all" in text
    (step,) = set(re.findall(r"stopped by SIGTERM with everything saved at step (\d+)", text))  # both say so
    assert 1 <= int(step) < 48 and f"going on from step {step}" in text
    assert said(text) == ["ended with exit code 75 (start 0), to be queued again", "ended with exit code 0 (start 1)"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, 49))
    print(text)


def test_each_task_of_an_array_ends_as_it_should_and_none_runs_again(cluster, tmp_path):
    (tmp_path / "codes").write_text("0\n1\n75 0\n139 0\n")
    (tmp_path / "sweep").write_text("--config.seed=0\n--config.seed=1\n--config.seed=2\n--config.seed=3\n")
    files = {"CODES": str(tmp_path / "codes"), "STARTS": str(tmp_path / "starts")}
    run = ["--sweep", tmp_path / "sweep", "train", "--config=x", "--workdir", tmp_path / "runs"]
    words = options(1, tmp_path, "--array=0-3")
    number = cluster.submit(*words, SCRIPT, *run, **CPUS, **files, EXPRESSNET=program(tmp_path, ENDS))
    jobs = cluster.ended(number, 120)
    time.sleep(8)  # one that is wrongly queued again would start in these
    assert jobs == cluster.jobs(number)
    ends = {job["ArrayTaskId"]: outcome(job) for job in jobs}
    assert ends == {
        "0": ("COMPLETED", "0", "0"),
        "1": ("FAILED", "1", "0"),
        "2": ("COMPLETED", "0", "1"),
        "3": ("COMPLETED", "0", "1"),
    }
    assert next(job["JobId"] for job in jobs if job["ArrayTaskId"] == "3") == number  # which is the array's own number
    started = [line.split()[-1] for line in (tmp_path / "starts").read_text().splitlines()]
    assert sorted(started) == ["0", "1", "2", "2", "3", "3"]
    again = "(start 0), to be queued again"
    assert said(log(tmp_path, 2)) == [f"ended with exit code 75 {again}", "ended with exit code 0 (start 1)"]
    assert said(log(tmp_path, 3))[0] == "ended with exit code 139 (start 0), crash 1 of 4, to be queued again"
    print(*(log(tmp_path, task) for task in range(4)), sep="\n")


def test_four_crashes_in_a_row_are_the_end(cluster, tmp_path):
    (tmp_path / "codes").write_text("137 75 139 76 134 137 0\n")
    files = {"CODES": str(tmp_path / "codes"), "STARTS": str(tmp_path / "starts")}
    run = ["train", "--config=x", "--workdir", tmp_path / "run"]
    number = cluster.submit(
        *options(1, tmp_path, "--time=9"), SCRIPT, *run, **CPUS, **files, EXPRESSNET=program(tmp_path, ENDS)
    )
    (job,) = cluster.ended(number, 240)
    assert outcome(job) == ("FAILED", "137", "5")
    found = said(log(tmp_path))
    assert [re.findall(r"exit code (\d+)", line)[0] for line in found] == ["137", "75", "139", "76", "134", "137"]
    assert [re.findall(r"crash (\d) of 4", line) for line in found] == [["1"], [], ["1"], ["2"], ["3"], ["4"]]
    assert ["again" in line for line in found] == [True] * 5 + [False]
    assert not (tmp_path / "run.crashes").exists()
    print(log(tmp_path))


LATE = "is at its time limit before it has saved (more time: --signal); newest checkpoint: 4 (start 0)"
#: What a job does, the signal that it asks for, and what it then says and goes on from.
SAVES = {
    "never": ("TERM@5", f"{LATE}, to be queued again", 4),
    "late": ("TERM@5", f"{LATE}, to be queued again", 8),
    "old": ("TERM@5", f"{LATE}, crash 1 of 4, to be queued again", 4),
    "soon": ("B:TERM@5", "ended with exit code 75 (start 0), to be queued again", 8),
}


def test_a_save_that_is_longer_than_the_time_for_it(cluster, tmp_path):
    """Each job is an array of one task, which has the array's own number; all wait side by side for their limit."""
    (tmp_path / "sweep").write_text("--config.seed=0\n")
    numbers = {}
    for saves, (signal, _, _) in SAVES.items():
        folder = tmp_path / saves
        (folder / "run" / "0" / "checkpoints").mkdir(parents=True)
        if saves == "old":
            (folder / "run" / "0" / "checkpoints" / "4").mkdir()
        stand_in = program(folder, SLOW.format(python=sys.executable))
        run = ["--sweep", tmp_path / "sweep", "train", "--config=x", "--workdir", folder / "run"]
        words = options(2, folder, "--array=0", "--time=1", f"--signal={signal}")
        numbers[saves] = cluster.submit(*words, SCRIPT, *run, **CPUS, SAVES=saves, EXPRESSNET=stand_in)
    for saves, (_, first, newest) in SAVES.items():
        (job,) = cluster.ended(numbers[saves], 300)
        text = log(tmp_path / saves, 0)
        assert outcome(job) == ("COMPLETED", "0", "1"), text
        assert said(text) == [first, "ended with exit code 0 (start 1)"]
        assert text.count(f"going on from {newest}\n") == 2
        print(saves, text, sep="\n")


def test_a_job_that_is_cancelled_is_not_queued_again(cluster, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    stand_in = program(tmp_path, SLOW.format(python=sys.executable))
    run = ["train", "--config=x", "--workdir", tmp_path / "run"]
    words = options(2, tmp_path, "--time=9")
    number = cluster.submit(*words, SCRIPT, *run, **CPUS, SAVES="never", EXPRESSNET=stand_in)
    until((tmp_path / "run" / "checkpoints" / "4").exists, 60, cluster.logs)
    cluster.ask("scancel", number)
    (job,) = cluster.ended(number, 60)
    assert (job["JobState"], job["Restarts"]) == ("CANCELLED", "0")
    assert said(log(tmp_path)) == ["was cancelled, or queued again by others (start 0)"]


def test_a_study_is_an_array(cluster, tmp_path, data_dir):
    """As docs/ablations.md has it: planned, an array that trains, and the page."""
    study, where = tmp_path / "study", ["--data_dir", data_dir]
    plan = ["ablate", f"--config={TINY}", "--sweep", "moe.top_k=1,2", "--seeds", "1", "--config.total=8steps"]
    done = expressnet(*plan, "--out", study, *where, "--plan")
    assert done.returncode == 0, done.stderr
    settings = (study / "sweep.txt").read_text().splitlines()
    assert len(settings) == 2
    run = ["--sweep", study / "sweep.txt", "train", f"--config={TINY}", "--workdir", study / "runs", *where]
    told = {**environment(1), "PATH": cluster.environment["PATH"], "EXPRESSNET": real(tmp_path)}
    words = options(1, tmp_path, f"--array=0-{len(settings) - 1}", "--time=9")
    jobs = cluster.ended(cluster.submit(*words, SCRIPT, *run, **told), 600)
    assert [outcome(job) for job in jobs] == [("COMPLETED", "0", "0")] * 2, log(tmp_path, 0)
    done = expressnet("ablate", "--out", study, *where, "--evaluate_only", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["done"] == 2 and (study / "report.html").exists()
    print(log(tmp_path, 0), done.stderr, os.listdir(study / "runs"), sep="\n")
