"""What a kill, a full disk or a person has left in a run's folder: the same command goes on, to the same weights."""

import json
import shutil

import pytest

from expressnet_jax.runs.folder import read_config
from expressnet_jax.train import loop
from tests.end_to_end.test_interruptions import CONFIG, weights, whole

__all__ = ["whole"]  # the fixture


@pytest.mark.parametrize("lost", ["all", "record", "state", "files"])
def test_a_checkpoint_that_has_lost_a_part_is_set_aside(whole, tmp_path, data_dir, capsys, lost):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    newest = workdir / "checkpoints" / "8"
    for path in newest.rglob("*") if lost == "files" else ():
        if path.is_file():
            path.unlink()
    for part in {"all": ("record", "state", "metrics"), "files": ()}.get(lost, (lost,)):
        shutil.rmtree(newest / part)
    loop.train(CONFIG, workdir, data_dir=str(data_dir))
    said = capsys.readouterr().err
    assert "checkpoint 8 is damaged and was set aside" in said and "going on from step 4 of 8" in said
    assert weights(workdir) == weights(whole)


@pytest.mark.parametrize("parts", [["record", "state"], ["state"], []])
def test_what_a_kill_left_of_a_save_is_no_hindrance(whole, tmp_path, data_dir, parts):
    """A second Ctrl-C, or a cluster's SIGKILL, in a save of a step that the next process does not save."""
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    shutil.rmtree(workdir / "checkpoints" / "8")
    left = workdir / "checkpoints" / "6.orbax-checkpoint-tmp"
    for part in parts:
        (left / part).mkdir(parents=True)
    left.mkdir(exist_ok=True)
    loop.train(CONFIG, workdir, data_dir=str(data_dir))
    assert weights(workdir) == weights(whole) and not left.exists()
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["4", "8"]


def test_checkpoints_that_are_gone_are_missed(whole, tmp_path, data_dir, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    shutil.rmtree(workdir / "checkpoints")
    loop.train(CONFIG, workdir, data_dir=str(data_dir))
    assert "this run had come to step 8, and there is no checkpoint of it" in capsys.readouterr().err
    assert weights(workdir) == weights(whole)


def test_a_config_without_the_run_that_it_was_of_is_made_again(whole, tmp_path, data_dir):
    workdir = tmp_path / "run"
    (workdir / "checkpoints").mkdir(parents=True)  # killed, and config.json lost, before the first save
    loop.train(CONFIG, workdir, data_dir=str(data_dir))
    assert weights(workdir) == weights(whole)


@pytest.mark.parametrize(
    ("key", "value"),
    [("preprocess.normalize", "imagenet"), ("model.image_size", 36), ("data.classes", list("abcdefgh"))],
)
def test_a_config_that_was_changed_since_is_not_believed(whole, tmp_path, data_dir, capsys, key, value):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    shutil.rmtree(workdir / "checkpoints" / "8")
    path = workdir / "config.json"
    tree = json.loads(path.read_text())
    part, name = key.split(".")
    tree[part][name] = value
    path.write_text(json.dumps(tree))
    assert read_config(workdir) == CONFIG
    said = capsys.readouterr().err
    assert "config.json is not what checkpoint 4 was trained with" in said and key in said and said.count("\n") == 1
    loop.train(CONFIG, workdir, data_dir=str(data_dir))
    assert weights(workdir) == weights(whole)
    assert json.loads(path.read_text()) == json.loads((whole / "config.json").read_text())


def test_a_line_that_a_crash_has_cut_swallows_none_that_comes_after(whole, tmp_path, data_dir):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    shutil.rmtree(workdir / "checkpoints" / "8")
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["step"] <= 4]
    assert len(kept) < len(lines)
    path.write_text("".join(kept) + lines[len(kept)][:30])
    loop.train(CONFIG, workdir, data_dir=str(data_dir))
    steps = [[json.loads(line)["step"] for line in each] for each in (lines, path.read_text().splitlines())]
    assert steps[0] == steps[1]
