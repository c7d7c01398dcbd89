"""Starts that are refused, and starts in folders that an earlier one has left in an odd state."""

import shutil

import pytest

from data_pipelines.common.errors import DataError
from expressnet_jax.checkpoint.manager import CheckpointError, Manager
from expressnet_jax.config import files as config_files
from expressnet_jax.config.settings import ConfigError
from expressnet_jax.runs import folder as run_folder
from expressnet_jax.train import loop
from tests.conftest import TINY

SETTINGS = [("eval_every", "4steps"), ("log_every", "4steps"), ("early_stop.patience", "1")]


def config(total, *more):
    return config_files.load(TINY, [("total", total), *SETTINGS, *more])


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data_dir):
    """A run of 8 steps, whose validation at step 8 is made to be the first that is no better."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        evaluate, losses = loop.answers.evaluate, iter((1.0, 2.0))
        patch.setattr(loop.answers, "evaluate", lambda *a, **k: evaluate(*a, **k) | {"loss": next(losses)})
        summary = loop.train(config("8steps"), workdir, data_dir=str(data_dir))
    assert summary["result"] == "finished after 8 steps"
    return workdir


@pytest.fixture
def run(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def contents(workdir):
    return {p.name: p.read_bytes() for p in workdir.iterdir() if p.is_file() and p.name != "heartbeat.json"}


def test_a_refused_start_has_changed_nothing(run, tmp_path, data_dir, monkeypatch):
    before, other = contents(run), tmp_path / "other"
    other.symlink_to(data_dir)
    assert {"config.json", "data_dir.json", "summary.json", "summary.txt", "metrics.jsonl"} <= set(before)
    usage = shutil.disk_usage("/")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="0 MB free"):
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
        loop.train(config("12steps"), run, data_dir=str(other))
    assert contents(run) == before
    loop.train(config("12steps"), run, data_dir=str(other))
    after = contents(run)
    assert all(before[name] != after[name] for name in ("config.json", "data_dir.json", "summary.json"))


def test_a_run_that_finished_as_it_would_have_stopped_early_goes_on_with_a_larger_total(run, data_dir, monkeypatch):
    monkeypatch.setattr(loop.EarlyStop, "update", lambda self, step, loss: setattr(self, "evaluated_step", step))
    assert loop.train(config("12steps"), run, data_dir=str(data_dir))["result"] == "finished after 12 steps"


def test_checkpoints_that_are_there_need_no_more_space(run, data_dir, monkeypatch):
    asked = []
    monkeypatch.setattr(run_folder, "check_space", lambda workdir, needed: asked.append(needed))
    loop.train(config("8steps"), run.with_name("new"), data_dir=str(data_dir))
    shutil.rmtree(run / "checkpoints" / "8")
    loop.train(config("8steps"), run, data_dir=str(data_dir))
    assert asked[1] / asked[0] == pytest.approx(3 / 4)  # of keep + 2, one is there


def test_an_empty_config_is_made_again_where_nothing_else_is_there(tmp_path, data_dir):
    for content, refused in ((b"", False), (bytes(512), False), (b'{"model_type": "vit"}', True)):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.json").write_bytes(content)
        if refused:
            with pytest.raises(DataError):
                loop.train(config("1steps"), tmp_path / "run", data_dir=str(data_dir))
            assert (tmp_path / "run" / "config.json").read_bytes() == content
        else:
            loop.train(config("1steps"), tmp_path / "run", data_dir=str(data_dir))
        shutil.rmtree(tmp_path / "run")


def test_nothing_good_is_thrown_away_where_all_checkpoints_are_of_after_it(run):
    with Manager(run / "checkpoints") as manager:
        assert manager.steps() == [4, 8]
        with pytest.raises(CheckpointError, match=r"no checkpoint in .* is from before step 3, when all was well"):
            manager.go_back(3)
        assert manager.steps() == [4, 8] and manager.go_back(5) == 4 and manager.steps() == [4]


def test_rolling_back_needs_a_checkpoint_from_before_what_is_not_yet_judged(tmp_path, data_dir):
    often = [("recovery.rollbacks", "1"), ("save_every", "2steps"), ("keep", "2")]
    with pytest.raises(ConfigError, match=r"recovery.rollbacks needs keep of more than 2 .it is 2.: so many"):
        loop.train(config("8steps", *often), tmp_path / "run", data_dir=str(data_dir))
    assert not (tmp_path / "run").exists()
