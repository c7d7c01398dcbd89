"""A study's folder: its plan, what may be added to it, and the state of each run."""

import fcntl
import json
import shlex
import subprocess

import pytest

from data_pipelines.common.errors import DataError
from data_pipelines.common.text import span
from expressnet_jax.ablation import runner, study, sweep
from expressnet_jax.config import files as config_files
from expressnet_jax.config import to_dict
from expressnet_jax.models import cost
from tests import report_folder as folders
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
        with pytest.raises(DataError, match=words):
            planned(tmp_path / "s", **changes)
    assert planned(tmp_path / "s", split="test").split == "test"  # training does not depend on it
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    with pytest.raises(DataError, match="holds no study"):
        planned(tmp_path / "full")
    with pytest.raises(DataError, match="holds no study"), study.locked(tmp_path / "full"):
        pass
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_a_plan_that_was_stopped_while_it_was_written_is_written_again(tmp_path):
    with study.locked(tmp_path / "s"):
        (tmp_path / "s" / "study.json.part").write_text("{")
        assert len(planned(tmp_path / "s").runs) == 4
        with pytest.raises(DataError, match="another ablate"), study.locked(tmp_path / "s"):
            pass


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", pytest.param("[" * 100_000, id="deep"), '{"runs": 3}', '{"runs": [], "common": [], "more": 1}'],
)
def test_a_damaged_plan_is_one_line(tmp_path, text):
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(DataError, match=r"study\.json cannot be read"):
        study.read(tmp_path)
    with pytest.raises(DataError, match="no study in"):
        study.read(tmp_path / "elsewhere")


def test_the_state_of_a_run_is_what_its_folder_holds(tmp_path):
    made = planned(tmp_path / "s")
    run = made.runs[0]
    workdir = made.workdir(run)

    def state():
        return made.outcome(run)[:2]

    assert state() == ("missing", None)
    workdir.mkdir()
    folders.write(workdir / "config.json", to_dict(config_files.load(TINY)))
    assert state() == ("unfinished", None)
    made.failure(run).write_text(json.dumps({"exit_code": 1, "why": "NaN"}))
    assert state() == ("failed", "NaN")
    made.failure(run).write_text('{"why": 3}')
    assert state() == ("failed", "why cannot be read")
    made.failure(run).unlink()
    (workdir / "summary.json").write_text("{}")
    assert state() == ("not evaluated", None)
    folders.write(workdir / "summary.json", {"best_step": 24})
    folder = workdir / "evaluation" / "x"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text('{"asked": "te')  # cut off
    assert state() == ("not evaluated", None)
    found = folders.evaluation()
    assert (found["asked"], found["step"]) == ("held_out", 24)
    for other in ({"asked": "test"}, {"asked": None}, {"step": 4}, {"step": None}):  # while it was being trained
        folders.write(folder / "summary.json", found | other)
        assert state() == ("not evaluated", None)
    folders.write(folder / "summary.json", found)
    assert state() == ("done", None) and made.outcome(run).judged == folder
    folders.write(workdir / "summary.json", {"best_step": None})
    folders.write(folder / "summary.json", found | {"step": None})
    assert state() == ("not evaluated", None)
    (workdir / "summary.json").unlink()
    assert state() == ("unfinished", None)


def test_a_run_that_somebody_trains_is_left_to_them(tmp_path, capsys, monkeypatch):
    made = planned(tmp_path / "s", seeds=1)
    tried = []
    monkeypatch.setattr(runner, "_child", lambda command, log, told: tried.append(command) or log.write_text("no") or 1)
    made.workdir(made.runs[0]).mkdir()
    flops = dict.fromkeys(made.arms, 1.0)
    with (made.workdir(made.runs[0]) / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert [one.state for one in runner.run(made, flops, None, None)] == ["missing", "failed"]
    assert [command[0] for command in tried] == ["train"] and str(made.workdir(made.runs[1])) in tried[0]
    assert "run 0 (num_experts=2, seed 0) is being trained by another process" in capsys.readouterr().err
    assert [one.state for one in runner.run(made, flops, None, None)] == ["failed", "failed"] and len(tried) == 3


def test_the_estimate_counts_start_up_compilation_and_evaluation(tmp_path, data_dir, monkeypatch):
    made = planned(tmp_path / "s", seeds=3)
    found = {"images_per_second": 100.0, "compile_seconds": 40.0, "step_ms": {"median": 160.0}}
    clock = iter([0.0, 50.8])  # of the whole process: 50.8 s less 40 s less 5 steps of .16 s is 10 s of start-up
    monkeypatch.setattr(runner.time, "monotonic", lambda: next(clock, 50.8))
    done = subprocess.CompletedProcess([], 0, json.dumps(found), "")
    monkeypatch.setattr(runner.subprocess, "run", lambda *_, **__: done)
    pace = runner.speed(made)
    assert pace.each == pytest.approx(2 * (10 + 40))
    flops = runner.work(arms(), "held_out", str(data_dir))
    # 2 steps of 16; one validation of 64, and an evaluation of the same 64 twice, with their mirror images.
    base = cost.flops_per_image(arms()[0].config)
    assert flops["num_experts=2"] == pytest.approx(base * (2 * 16 + (64 + 2 * (64 + 64)) / 3))
    seconds = 3 * sum(100 + flops[arm.name] / (100 * base) for arm in arms())
    assert runner.left(made, flops, pace) == f"6 of 6 to train, about {span(seconds)}"
