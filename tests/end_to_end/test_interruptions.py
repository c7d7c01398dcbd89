"""Interruptions at exact steps, which no signal from outside can hit: a due validation, the last step."""

import dataclasses
import fcntl
import json
import math
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.common.errors import DataError
from expressnet_jax.checkpoint import digests
from expressnet_jax.checkpoint.manager import CheckpointError, Manager
from expressnet_jax.config import files as config_files
from expressnet_jax.config.settings import Recovery
from expressnet_jax.runs.folder import read_config, read_records
from expressnet_jax.train import loop
from expressnet_jax.train.divergence import Diverged
from expressnet_jax.train.signals import Interrupted, Signals
from tests.conftest import TINY
from tests.disk import damaged

CONFIG = config_files.load(TINY, [("total", "8steps"), ("eval_every", "4steps"), ("log_every", "4steps")])


class SignalAt(Signals):
    """As if SIGTERM came just before a step of a run that goes on from step `start`."""

    def __init__(self, step, start=0):
        super().__init__()
        self.left = step - start

    def before_step(self):
        self.left -= 1
        return 15 if self.left < 0 else 0


def weights(workdir):
    """The state of the last step, as the bytes of its arrays."""
    from expressnet_jax.parallel import mesh
    from expressnet_jax.runs import optimizer, state

    made = optimizer.create(CONFIG, loop.clock_of(CONFIG, 160))
    with Manager(workdir / "checkpoints", read_only=True) as manager:
        found = manager.restore(8, state.abstract(CONFIG, made, mesh.create(CONFIG))._asdict())
    return [leaf.tobytes() for leaf in jax.tree.leaves(jax.device_get(found))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data_dir):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    loop.train(CONFIG, workdir, data_dir=str(data_dir))
    return workdir


@pytest.mark.parametrize("step", [0, 4, 7, 8])
def test_nothing_is_lost_whatever_is_due(whole, tmp_path, data_dir, monkeypatch, step):
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "Signals", lambda: SignalAt(step))
        with pytest.raises(
            Interrupted, match=f"with everything saved at step {step}, " if step else "with nothing to save yet"
        ) as caught:
            loop.train(CONFIG, workdir, data_dir=str(data_dir))
    assert caught.value.exit_code == 75
    summary = loop.train(CONFIG, workdir, data_dir=str(data_dir))
    assert summary["result"] == "finished after 8 steps"
    assert weights(workdir) == weights(whole)
    mine, theirs = ([r for r in read_records(w) if r["kind"] == "validation"] for w in (workdir, whole))
    assert mine == theirs and [r["step"] for r in mine] == [4, 8]
    assert summary["best_step"] == json.loads((whole / "summary.json").read_text())["best_step"]
    assert not (workdir / "checkpoints.replaced").exists()


def test_the_device_has_two_steps_and_no_more(tmp_path, data_dir, monkeypatch):
    """One runs and one follows at once: what JAX would take besides would run between SIGTERM and the save."""
    ahead, compiled = [], loop.Run._compiled

    @jax.jit
    def slowly(sums):
        busy = jax.lax.fori_loop(0, 300, lambda _, x: x @ x / 256, jnp.ones((256, 256)))
        return sums | {"loss": sums["loss"] + 0 * busy[0, 0]}

    def of_slow_steps(run, batch):
        program, sent = compiled(run, batch), []

        def step(state, sums, batch):
            state, sums = program(state, sums, batch)
            sent.append(slowly(sums))
            ahead.append(sum(not one["loss"].is_ready() for one in sent))
            return state, sent[-1]

        return step

    monkeypatch.setattr(loop.Run, "_compiled", of_slow_steps)
    loop.train(CONFIG, tmp_path / "run", data_dir=str(data_dir))
    assert len(ahead) == 8 and max(ahead) == 2, ahead


def test_a_replacement_that_was_cut_off_is_undone(whole, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    spare = workdir / "checkpoints.replaced"
    spare.mkdir()
    (workdir / "checkpoints" / "8").rename(spare / "8")
    with Manager(workdir / "checkpoints") as manager:
        assert manager.latest_step() == 8 and manager.record(8)["step"] == 8
    assert not spare.exists()


def files_of(checkpoint):
    return [p for p in sorted(checkpoint.rglob("*")) if p.is_file() and p.stat().st_size and p.name[0] not in "_c"]


@pytest.mark.parametrize("how", ["flipped", "cut", "emptied", "removed"])
def test_no_damage_of_a_checkpoint_goes_unnoticed(whole, tmp_path, how):
    rng, checkpoint = random.Random(how), tmp_path / "8"
    for _ in range(40):
        shutil.copytree(whole / "checkpoints" / "8", checkpoint)
        assert digests.problem(checkpoint) == ""
        paths = files_of(checkpoint)
        (path,) = rng.choices(paths, [path.stat().st_size for path in paths])
        damaged(path, how, rng)
        assert digests.problem(checkpoint)
        shutil.rmtree(checkpoint)


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(whole, tmp_path, data_dir, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    newest = workdir / "checkpoints" / "8"
    damaged(max(files_of(newest), key=lambda path: path.stat().st_size), "flipped", random.Random(0))
    with (
        Manager(workdir / "checkpoints", read_only=True) as manager,
        pytest.raises(CheckpointError, match=r"is damaged \(.*\); delete that folder to go on from step 4"),
    ):
        manager.record(8)
    loop.train(CONFIG, workdir, data_dir=str(data_dir))
    said = capsys.readouterr().err
    assert "checkpoint 8 is damaged and was set aside as" in said and "going on from step 4 of 8" in said
    assert weights(workdir) == weights(whole) and (workdir / "checkpoints.damaged" / "8").is_dir()


def test_in_place_of_a_damaged_best_checkpoint_the_next_best_is_taken_and_said(whole, tmp_path, capsys):
    checkpoints = tmp_path / "run" / "checkpoints"
    shutil.copytree(whole / "checkpoints", checkpoints)
    with Manager(checkpoints, read_only=True) as manager:
        best = manager.best_step()
    assert capsys.readouterr().err == ""
    damaged(checkpoints / f"{best}" / "record" / "metadata", "emptied", random.Random(0))
    with Manager(checkpoints, read_only=True) as manager:
        assert manager.best_step() == 12 - best
    said = capsys.readouterr().err
    assert f"checkpoint {best}, the best one, is damaged: record/metadata is not" in said and said.count("\n") == 1
    damaged(checkpoints / f"{best}" / "metrics" / "metrics", "emptied", random.Random(0))  # Orbax's own, read at once
    with Manager(checkpoints, read_only=True) as manager:
        assert manager.best_step() == 12 - best
    said = capsys.readouterr().err
    assert f"checkpoint {best} is damaged: " in said and "the others are looked at" in said and said.count("\n") == 1
    with Manager(checkpoints) as manager:
        assert manager.steps() == [12 - best]


def test_where_no_checkpoint_is_whole_that_is_one_line(whole, tmp_path):
    checkpoints = tmp_path / "run" / "checkpoints"
    shutil.copytree(whole / "checkpoints", checkpoints)
    for step in (4, 8):
        damaged(checkpoints / f"{step}" / "metrics" / "metrics", "emptied", random.Random(0))
    with pytest.raises(
        CheckpointError, match="cannot be read: checkpoint 8 is damaged: metrics/metrics is not"
    ) as caught:
        Manager(checkpoints, read_only=True)
    assert "\n" not in str(caught.value)


def test_a_run_whose_only_checkpoint_is_damaged_begins_again(whole, tmp_path, data_dir):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    shutil.rmtree(workdir / "checkpoints" / "4")
    damaged(workdir / "checkpoints" / "8" / "record" / "metadata", "emptied", random.Random(0))
    with (
        Manager(workdir / "checkpoints", read_only=True) as manager,
        pytest.raises(CheckpointError, match=r"record/metadata is not what was written .* there is no other one"),
    ):
        manager.best_step()
    loop.train(CONFIG, workdir, data_dir=str(data_dir))
    assert weights(workdir) == weights(whole)


def test_a_checkpoint_without_digests_is_taken_with_a_note(whole, tmp_path, capsys):
    shutil.copytree(whole / "checkpoints", tmp_path / "checkpoints")
    newest = tmp_path / "checkpoints" / "8"
    record = json.loads((newest / digests.RECORD).read_text())
    (newest / digests.RECORD).write_text(json.dumps({key: record[key] for key in record if key != digests.SEALED}))
    (newest / digests.FILE).unlink()
    assert weights(tmp_path) == weights(whole)
    said = capsys.readouterr().err
    assert said.startswith("note: checkpoint 8 has no digests") and said.count("\n") == 1


def test_a_damaged_record_of_the_metrics_costs_that_record_only(whole, tmp_path, data_dir):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    path = workdir / "metrics.jsonl"
    before = read_records(workdir)
    path.write_bytes(
        b'null\n{"step": "x"}\n{"step": 1, "kind": {}}\n\xff\xfe\n' + path.read_bytes() + b'{"kind": "train", "st'
    )
    assert read_records(workdir) == before
    loop.train(CONFIG, workdir, data_dir=str(data_dir))
    assert read_records(workdir) == before


def test_a_second_training_in_the_same_folder_is_refused(whole, data_dir):
    before = (whole / "metrics.jsonl").read_bytes()
    with (whole / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process is training in") as caught:
            loop.train(CONFIG, whole, data_dir=str(data_dir))
        assert caught.value.exit_code == 76  # launchers try again: it may be what is left of a lost host's job
    assert (whole / "metrics.jsonl").read_bytes() == before


def test_no_checkpoint_is_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoints in"):
        Manager(tmp_path / "checkpoints", read_only=True)


def test_a_lost_or_damaged_config_comes_back_from_the_checkpoint(whole, tmp_path, data_dir, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    before = (workdir / "config.json").read_bytes()
    for damage in ("missing", "emptied"):
        (workdir / "config.json").unlink()
        if damage == "emptied":
            (workdir / "config.json").touch()
        assert read_config(workdir) == CONFIG
        assert "config.json" in (said := capsys.readouterr().err) and "taken from checkpoint" in said
        loop.train(CONFIG, workdir, data_dir=str(data_dir))
        assert (workdir / "config.json").read_bytes() == before
        capsys.readouterr()
    (workdir / "config.json").unlink()
    longer = dataclasses.replace(CONFIG, total="9steps")
    (workdir / "summary.json").unlink()
    with pytest.raises(DataError, match="let it finish with the old one first"):
        loop.train(longer, workdir, data_dir=str(data_dir))
    other = dataclasses.replace(CONFIG, total="7steps")
    with pytest.raises(DataError, match=r"another config .total: '8steps' -> '7steps'.; .*init.run=.*/run starts from"):
        loop.train(other, workdir, data_dir=str(data_dir))


def test_a_finished_run_goes_on_with_a_larger_total(tmp_path, data_dir, capsys):
    settings = [("total", "2steps"), ("schedule.name", "cosine"), ("log_every", "1steps")]
    loop.train(config_files.load(TINY, settings), tmp_path / "run", data_dir=str(data_dir))
    capsys.readouterr()
    longer = config_files.load(TINY, [("total", "4steps"), *settings[1:]])
    summary = loop.train(longer, tmp_path / "run", data_dir=str(data_dir))
    assert summary["result"] == "finished after 4 steps" and read_config(tmp_path / "run") == longer
    said = capsys.readouterr().err
    # Half of a cosine from 1e-3: of 2 steps at step 1, and of 4 at step 2.
    assert (
        "done after 2steps and goes on to 4steps: the learning rate, 5.00e-04 at its end, goes on at 5.00e-04" in said
    )
    records = [one for one in read_records(tmp_path / "run") if one["kind"] == "train"]
    assert [one["step"] for one in records] == [1, 2, 3, 4]
    rates = [one["learning_rate"] for one in records[2:]]
    assert rates == pytest.approx([5e-4, 0.5e-3 * (1 + math.cos(0.75 * math.pi))], rel=1e-5)
    early = {"result": "stopped early: no lower validation loss in 1 evaluation", "steps": 4}
    (tmp_path / "run" / "summary.json").write_text(json.dumps(early))
    with pytest.raises(DataError, match="another config"):
        loop.train(
            config_files.load(TINY, [("total", "5steps"), *settings[1:]]), tmp_path / "run", data_dir=str(data_dir)
        )


def test_a_folder_that_vanishes_ends_the_run_and_is_not_made_again(tmp_path, data_dir, monkeypatch):
    workdir, save = tmp_path / "run", loop.Run._save

    def saved(run, step, validation):
        shutil.rmtree(workdir)
        save(run, step, validation)

    monkeypatch.setattr(loop.Run, "_save", saved)
    with pytest.raises(OSError, match=r"is no longer there \(its config.json is gone\)"):
        loop.train(CONFIG, workdir, data_dir=str(data_dir))
    assert not (workdir / "config.json").exists() and not (workdir / "checkpoints").exists()


#: Of a record, what the clock says.
CLOCK = ("images_per_second", "data_wait")


def lines(workdir):
    return [{k: v for k, v in record.items() if k not in CLOCK} for record in read_records(workdir)]


def test_the_record_of_an_interrupted_interval_is_that_of_a_whole_one(whole, tmp_path, data_dir, monkeypatch):
    workdir = tmp_path / "run"
    for start, step in ((0, 2), (2, 3), (3, 7)):
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            patch.setattr(loop, "Signals", lambda start=start, step=step: SignalAt(step, start))
            loop.train(CONFIG, workdir, data_dir=str(data_dir))
    loop.train(CONFIG, workdir, data_dir=str(data_dir))
    assert lines(workdir) == lines(whole)


def test_a_run_that_explodes_goes_back_leaves_batches_out_and_says_so(tmp_path, data_dir, monkeypatch, capsys):
    """The batches of steps 5 to 6 are made to give a loss without a number; all others are as they were."""
    config = config_files.load(TINY, [
        ("total", "12steps"), ("eval_every", "12steps"), ("save_every", "2steps"), ("log_every", "1steps"),
        ("optimizer.max_nonfinite", "2"), ("recovery.rollbacks", "1"), ("recovery.halve_rate", "true"),
    ])  # fmt: skip
    batches, asked = loop.datas.batches, []

    def poisoned(config, data, start, **settings):
        asked.append(start)
        for position, batch in enumerate(batches(config, data, start, **settings), start):
            yield {**batch, "votes": np.full((len(batch["label"]), 8), np.nan if position in (5, 6) else 0.125, "f4")}

    monkeypatch.setattr(loop.datas, "batches", poisoned)
    summary = loop.train(config, tmp_path / "run", data_dir=str(data_dir))
    assert summary["result"] == "finished after 12 steps" and summary["rollbacks"] == 1
    said = capsys.readouterr().err
    assert "gradients were not finite in the last 2 steps before step 7 (2 in all): back to step 4" in said
    assert "step 6/12  epoch 0.60  1 step skipped" in said and "loss nan" not in said
    here = asked[1] - 4  # batches left out
    assert asked == [0, 4 + here] and here >= 3
    records = read_records(tmp_path / "run")
    (noted,) = [record for record in records if record["kind"] == "rollback"]
    assert (noted["step"], noted["from"], noted["times"], noted["left_out"]) == (4, 4 + here, 1, here)
    steps = [record["step"] for record in records if record["kind"] == "train"]
    rates = [record["learning_rate"] for record in records if record["kind"] == "train"]
    assert steps == list(range(1, 13)) and rates[4] == pytest.approx(rates[3] / 2)
    assert all(np.isfinite(record["loss"]) for record in records if record["kind"] == "train")
    with pytest.raises(Diverged, match="not finite in the last 2 steps"):
        loop.train(dataclasses.replace(config, recovery=Recovery()), tmp_path / "none", data_dir=str(data_dir))
    # Before there is a checkpoint it begins again.
    again = dataclasses.replace(config, save_every="12steps")
    assert loop.train(again, tmp_path / "again", data_dir=str(data_dir))["rollbacks"] == 1
    records = read_records(tmp_path / "again")
    assert [record["step"] for record in records if record["kind"] == "train"] == list(range(1, 13))
    assert [record["step"] for record in records if record["kind"] == "rollback"] == [0]
