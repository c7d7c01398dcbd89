"""A study's folder: its plan, what may be added to it, and the state of each run."""

import fcntl
import json
import shlex
import subprocess

import pytest

from expressnet_jax.ablation import study, sweep
from expressnet_jax.config import ConfigError
from tests.conftest import ROOT, TINY

FACTS = {"name": "s", "question": "?", "config": TINY, "common": [("total", "2steps")], "split": "held_out",
         "baseline": "num_experts=2"}  # fmt: skip


def arms(text="moe.num_experts=2,4"):
    return sweep.resolve(TINY, FACTS["common"], sweep.named(sweep.grid(text))).arms


def planned(folder, text="moe.num_experts=2,4", seeds=2, **changes):
    made = study.planned(folder, FACTS | changes, arms(text), [], seeds)
    study.write(made)
    return made


def test_every_setting_gets_every_seed_once_and_first_seeds_come_first(tmp_path):
    made = planned(tmp_path / "s")
    assert [(run.arm[-1], run.seed) for run in made.runs] == [("2", 0), ("4", 0), ("2", 1), ("4", 1)]
    assert [run.number for run in made.runs] == [0, 1, 2, 3]
    assert study.read(tmp_path / "s") == made


def test_a_line_of_the_sweep_file_trains_its_run(tmp_path):
    made = planned(tmp_path / "s")
    lines = (tmp_path / "s" / "sweep.txt").read_text().splitlines()
    assert len(lines) == len(made.runs)
    for run, line in zip(made.runs, lines, strict=True):
        words = shlex.split(line)
        own = [f"--config.moe.num_experts={run.arm[-1]}", f"--config.seed={run.seed}"]
        assert words == ["--config.total=2steps", *own]


def test_slurm_would_train_each_run_in_its_folder_with_its_settings(tmp_path):
    made = planned(tmp_path / "s", "model.cnnfe1.kernels=(5, 3),(3, 3)", baseline="kernels=(5, 3)")
    command = ["bash", str(ROOT / "launch" / "slurm.sbatch"), "--dry-run", "--sweep", str(tmp_path / "s" / "sweep.txt")]
    command += ["train", f"--config={TINY}", "--workdir", str(tmp_path / "s" / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    jobs = [shlex.split(line) for line in done.stdout.splitlines() if line.startswith("srun")]
    assert len(jobs) == len(made.runs)
    for run, words in zip(made.runs, jobs, strict=True):
        assert words[words.index("--workdir") + 1] == str(made.workdir(run))
        kernels = made.arms[run.arm]["model.cnnfe1.kernels"].replace(" ", "")
        assert {f"--config.model.cnnfe1.kernels={kernels}", f"--config.seed={run.seed}"} <= set(words)


def test_arms_and_seeds_can_be_added_and_known_runs_keep_their_numbers(tmp_path):
    before = planned(tmp_path / "s")
    after = planned(tmp_path / "s", "moe.num_experts=8,2,4", seeds=3)
    assert after.runs[:4] == before.runs and len(after.runs) == 9
    assert {(run.arm, run.seed) for run in after.runs[4:]} == {
        ("num_experts=8", 0), ("num_experts=8", 1), ("num_experts=8", 2), ("num_experts=2", 2), ("num_experts=4", 2),
    }  # fmt: skip


def test_another_study_in_the_folder_is_refused_with_what_differs(tmp_path):
    planned(tmp_path / "s")
    for words, changes in [
        ("common", {"common": []}), ("seed 1", {"seeds": 1}),
        ("no num_experts=2", {"text": "moe.num_experts=4,8"}),
    ]:  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            planned(tmp_path / "s", **changes)
    assert planned(tmp_path / "s", split="test").split == "test"  # training does not depend on it
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    with pytest.raises(ConfigError, match="holds no study"):
        planned(tmp_path / "full")
    with pytest.raises(ConfigError, match="holds no study"), study.locked(tmp_path / "full"):
        pass
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_a_plan_that_was_stopped_while_it_was_written_is_written_again(tmp_path):
    with study.locked(tmp_path / "s"):
        (tmp_path / "s" / "study.json.part").write_text("{")
        assert len(planned(tmp_path / "s").runs) == 4
        with pytest.raises(ConfigError, match="another ablate"), study.locked(tmp_path / "s"):
            pass


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", pytest.param("[" * 100_000, id="deep"), '{"runs": 3}', '{"runs": [], "common": [], "more": 1}'],
)
def test_a_damaged_plan_is_one_line(tmp_path, text):
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(ConfigError, match=r"study\.json cannot be read"):
        study.read(tmp_path)
    with pytest.raises(ConfigError, match="no study in"):
        study.read(tmp_path / "elsewhere")


def test_the_state_of_a_run_is_what_its_folder_holds(tmp_path):
    made = planned(tmp_path / "s")
    run = made.runs[0]
    workdir = made.workdir(run)
    assert study.state(made, run) == ("missing", None)
    workdir.mkdir()
    (workdir / "config.json").write_text("{}")
    assert study.state(made, run) == ("unfinished", None)
    study.failure(made, run).write_text(json.dumps({"exit_code": 1, "why": "NaN"}))
    assert study.state(made, run) == ("failed", "NaN")
    study.failure(made, run).unlink()
    (workdir / "summary.json").write_text("{}")
    assert study.state(made, run) == ("not evaluated", None)
    (workdir / "summary.json").write_text(json.dumps({"best_step": 8}))
    folder = workdir / "evaluation" / "x"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text('{"asked": "te')  # cut off
    assert study.state(made, run) == ("not evaluated", None)
    (folder / "summary.json").write_text(json.dumps({"asked": "test"}))  # of another split
    assert study.state(made, run) == ("not evaluated", None)
    (folder / "summary.json").write_text(json.dumps({"asked": "held_out", "step": 4}))  # while it was being trained
    assert study.state(made, run) == ("not evaluated", None)
    (folder / "summary.json").write_text(json.dumps({"asked": "held_out", "step": 8}))
    assert study.state(made, run) == ("done", None)
    (workdir / "summary.json").unlink()
    assert study.state(made, run) == ("unfinished", None)


def test_a_folder_that_somebody_trains_in_is_busy(tmp_path):
    assert not study.busy(tmp_path)
    with (tmp_path / ".lock").open("w") as file:
        assert not study.busy(tmp_path)
        fcntl.flock(file, fcntl.LOCK_EX)
        assert study.busy(tmp_path)
    assert not study.busy(tmp_path)
