"""Damage, as disks and copies do it: a checkpoint is set aside and the one before taken, an artifact is refused.

python -m tests.end_to_end.test_damage 300 100        so many of each; the figures of docs/resume.md
"""

import collections
import contextlib
import random
import shutil
import sys
import tempfile
from pathlib import Path

import jax
import pytest

from data_pipelines import prepare
from data_pipelines.common.errors import Failure
from expressnet_jax.checkpoint.manager import Manager
from expressnet_jax.config import files as config_files
from expressnet_jax.export import artifact, from_run
from expressnet_jax.parallel import mesh
from expressnet_jax.runs import optimizer, state
from expressnet_jax.train import loop
from tests.conftest import TINY
from tests.disk import damaged

CONFIG = config_files.load(TINY, [("total", "8steps"), ("eval_every", "4steps")])
HOW = ("flipped", "cut", "emptied", "removed")


def damage(folder, rng):
    """Damages a file of a folder, the more likely the larger it is; what was done, and to which."""
    how, files = rng.choice(HOW), [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    weights = [path.stat().st_size if how == "flipped" else 1 for path in files]
    (path,) = rng.choices(files, weights)
    damaged(path, how, rng)
    return how, path.relative_to(folder).as_posix()


def run(workdir, data_dir):
    """A run with checkpoints at steps 4 and 8, and an artifact of it, in what was the folder that the process is in."""
    loop.train(CONFIG, workdir, data_dir=str(data_dir))
    (out := workdir.with_name("artifact")).mkdir()
    with contextlib.chdir(out):
        from_run.export(workdir, ["safetensors"], Path("."), ema=True, dtype="float32", step=None, quantize=None,
                        data_dir=str(data_dir), overwrite=False, calibrated=False)  # fmt: skip


def newest(checkpoints, abstract):
    """The step that a run goes on from, and its state as bytes."""
    with Manager(checkpoints) as manager:
        step = manager.latest_step()
        if step is None:
            return None, []
        manager.record(step)
        return step, [leaf.tobytes() for leaf in jax.tree.leaves(jax.device_get(manager.restore(step, abstract)))]


def checkpoints(workdir, times, folder, seed=0):
    """How many of so many damages to the newest checkpoint ended how; an exception of others is let through."""
    made = optimizer.create(CONFIG, loop.clock_of(CONFIG, 160))
    abstract = state.abstract(CONFIG, made, mesh.create(CONFIG))._asdict()
    rng, found, whole = random.Random(seed), collections.Counter(), {}
    for step in (8, 4):
        shutil.copytree(workdir / "checkpoints", folder / "c")
        if step == 4:
            shutil.rmtree(folder / "c" / "8")
        whole[step] = newest(folder / "c", abstract)
        shutil.rmtree(folder / "c")
    for _ in range(times):
        shutil.copytree(workdir / "checkpoints", folder / "c")
        what = damage(folder / "c" / "8", rng)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder / "c.damaged")
        try:
            answer = newest(folder / "c", abstract)
        except Failure as error:
            found["refused in one line"] += 1
            print("refused", what, error, file=sys.stderr)
        else:
            assert answer in whole.values(), f"silently wrong: {what}"
            found[f"went on from step {answer[0]}"] += 1
        shutil.rmtree(folder / "c")
    return found


def artifacts(path, times, folder, seed=0):
    """The same for an artifact, which is refused, or has not lost anything."""
    rng, found, whole = random.Random(seed), collections.Counter(), artifact.read(path)
    for _ in range(times):
        shutil.copytree(path, folder / "a")
        what = damage(folder / "a", rng)
        try:
            answer = artifact.read(folder / "a")
        except Failure:
            found["refused in one line"] += 1
        else:
            assert answer.meta == whole.meta and answer.weights.keys() == whole.weights.keys(), what
            assert all((answer.weights[name] == whole.weights[name]).all() for name in whole.weights), what
            found["the same answers"] += 1
            print("the same", what, file=sys.stderr)
        shutil.rmtree(folder / "a")
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory, data_dir):
    folder = tmp_path_factory.mktemp("made")
    run(folder / "run", data_dir)
    return folder


def test_a_damaged_checkpoint_is_never_silently_wrong_and_the_one_before_is_taken(made, tmp_path):
    found = checkpoints(made / "run", 16, tmp_path)
    assert found["went on from step 4"] + found["went on from step 8"] == 16


def test_a_damaged_artifact_is_refused_or_unharmed(made, tmp_path):
    assert artifacts(made / "artifact", 16, tmp_path)["refused in one line"] >= 12


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        there = Path(name)
        prepare.prepare("synthetic_faces/tiny", None, data_dir=f"{name}/data")
        run(there / "run", there / "data")
        print("checkpoint:", dict(checkpoints(there / "run", int(sys.argv[1]), there)))
        print("artifact:", dict(artifacts(there / "artifact", int(sys.argv[2]), there)))
