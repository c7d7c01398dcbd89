"""What a kill, a full disk or a person has left in a run's folder: the same command goes on, to the same weights."""

import errno
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from data_pipelines.common.errors import DataError
from expressnet_jax.checkpoint import digests
from expressnet_jax.checkpoint.manager import CheckpointError
from expressnet_jax.config import files as config_files
from expressnet_jax.runs.folder import read_config
from expressnet_jax.train import loop
from expressnet_jax.train.divergence import Divergence
from expressnet_jax.train.signals import Interrupted
from tests.conftest import TINY
from tests.end_to_end.test_interruptions import CONFIG, SignalAt, weights, whole

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


def test_a_checkpoint_under_another_steps_name_is_set_aside(whole, tmp_path, data_dir, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    shutil.rmtree(workdir / "checkpoints" / "8")
    shutil.copytree(workdir / "checkpoints" / "4", workdir / "checkpoints" / "6")
    loop.train(CONFIG, workdir, data_dir=str(data_dir))
    said = capsys.readouterr().err
    assert "6 is damaged and was set aside" in said and "it is the checkpoint of step 4 under another name" in said
    assert weights(workdir) == weights(whole)


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(whole, tmp_path, data_dir, monkeypatch):
    workdir, sha256 = tmp_path / "run", digests.sha256
    shutil.copytree(whole, workdir)

    def refused(path):
        if path.name == "manifest.ocdbt":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return sha256(path)

    monkeypatch.setattr(digests, "sha256", refused)
    with pytest.raises(DataError, match=r"manifest.ocdbt cannot be read \(Permission denied\), which is no damage"):
        loop.train(CONFIG, workdir, data_dir=str(data_dir))
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["4", "8"]


def test_checkpoints_on_another_disk(whole, tmp_path, data_dir, capsys):
    """A link in place of the folder: what is set aside or replaced stays on that disk."""
    workdir, other = tmp_path / "run", Path(tempfile.mkdtemp(dir="/dev/shm")) / "checkpoints"
    try:
        shutil.copytree(whole, workdir)
        shutil.rmtree(workdir / "checkpoints" / "8")
        shutil.move(workdir / "checkpoints", other)
        (workdir / "checkpoints").symlink_to(other)
        (other / "6" / "state").mkdir(parents=True)  # damaged
        for start, step in ((4, 5), (5, 8)):  # 8 is saved at the signal, and replaced when it is evaluated
            with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
                patch.setattr(loop, "Signals", lambda start=start, step=step: SignalAt(step, start))
                loop.train(CONFIG, workdir, data_dir=str(data_dir))
        loop.train(CONFIG, workdir, data_dir=str(data_dir))
        assert weights(workdir) == weights(whole)
        assert [path.name for path in other.with_name("checkpoints.damaged").iterdir()] == ["6"]
        shutil.rmtree(other)
        capsys.readouterr()
        with pytest.raises(CheckpointError, match=r"checkpoints leads to .*, which is not there"):
            loop.train(CONFIG, workdir, data_dir=str(data_dir))
    finally:
        shutil.rmtree(other.parent)


def test_a_run_that_was_begun_in_its_place_is_not_written_into(whole, tmp_path, data_dir, monkeypatch):
    workdir, save = tmp_path / "run", loop.Run._save

    def saved(run, step, validation):
        shutil.rmtree(workdir)
        shutil.copytree(whole, workdir)
        (workdir / ".lock").touch()
        save(run, step, validation)

    monkeypatch.setattr(loop.Run, "_save", saved)
    with pytest.raises(OSError, match="was removed and made anew by another run"):
        loop.train(CONFIG, workdir, data_dir=str(data_dir))
    assert weights(workdir) == weights(whole)


def test_what_another_process_left_of_a_save_does_not_end_this_one(whole, tmp_path, data_dir, monkeypatch):
    workdir, save = tmp_path / "run", loop.Run._save

    def saved(run, step, validation):
        (workdir / "checkpoints" / "800.orbax-checkpoint-tmp").mkdir(exist_ok=True)
        save(run, step, validation)

    monkeypatch.setattr(loop.Run, "_save", saved)
    loop.train(CONFIG, workdir, data_dir=str(data_dir))
    assert weights(workdir) == weights(whole)


def test_data_that_were_prepared_anew_are_mentioned(whole, tmp_path, data_dir, monkeypatch, capsys):
    workdir, opened = tmp_path / "run", loop.datas.open_data
    shutil.copytree(whole, workdir)
    shutil.rmtree(workdir / "checkpoints" / "8")
    for fingerprint, noted in ((None, False), ("others", True)):
        with monkeypatch.context() as patch:
            if fingerprint:
                patch.setattr(loop.datas, "open_data", lambda *a: opened(*a)._replace(fingerprint="others"))
            with pytest.raises(Interrupted):
                patch.setattr(loop, "Signals", lambda: SignalAt(5, 4))
                loop.train(CONFIG, workdir, data_dir=str(data_dir))
        assert ("was prepared anew since this run began" in capsys.readouterr().err) == noted
        shutil.rmtree(workdir / "checkpoints" / "5")


def test_a_run_that_explodes_has_a_checkpoint_from_before(tmp_path, data_dir, monkeypatch, capsys):
    """Where as many checkpoints as are kept are due while it is not yet certain that the run is lost."""
    config = config_files.load(TINY, [
        ("total", "16steps"), ("eval_every", "16steps"), ("save_every", "2steps"), ("log_every", "2steps"),
        ("recovery.rollbacks", "1"),
    ])  # fmt: skip
    fine, times = Divergence._fine, []
    monkeypatch.setattr(
        Divergence, "_fine", lambda self, config: fine(self, config) and (self.since != 6 or len(times) > 0)
    )
    back = loop.Run.roll_back
    monkeypatch.setattr(loop.Run, "roll_back", lambda run, lost: times.append(lost) or back(run, lost))
    assert loop.train(config, tmp_path / "run", data_dir=str(data_dir))["rollbacks"] == 1
    assert "at step 12: back to step 6; " in capsys.readouterr().err
