"""The optimizer's state split over 8 devices: the same numbers as on one, an eighth of the memory, any way back."""

import json

import numpy as np
import pytest

from tests.conftest import TINY, expressnet, on_eight

RUN = ["--config.total=5steps", "--config.log_every=1steps", "--config.optimizer.name=lamb",
       "--config.optimizer.clip_norm=1", "--config.optimizer.learning_rate=0.01"]  # fmt: skip
SPLIT = "--config.mesh.shard_optimizer=true"


def train(folder, data_dir, *mesh, devices):
    done = expressnet("train", f"--config={TINY}", "--workdir", folder, "--data_dir", data_dir, *RUN, *mesh,
                      devices=devices)  # fmt: skip
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [[r["loss"], r["gradient_norm"]] for r in records if r["kind"] == "train"], records[-1]


def test_lamb_with_a_split_state_takes_the_steps_of_one_device_and_goes_on_there(tmp_path, data_dir):
    alone, validation = train(tmp_path / "one", data_dir, devices=1)
    split, split_validation = train(tmp_path / "split", data_dir, SPLIT, "--config.mesh.expert=2", devices=8)
    assert len(split) == 5
    np.testing.assert_allclose(split, alone, rtol=1e-4)
    assert split_validation["loss"] == pytest.approx(validation["loss"], rel=1e-4)
    # Of a checkpoint written in eight parts, all is found by one device that keeps everything.
    resumed = expressnet("train", f"--config={TINY}", "--workdir", tmp_path / "split", "--data_dir", data_dir, *RUN)
    assert resumed.returncode == 0 and "going on from step 5 of 5" in resumed.stderr, resumed.stderr
    evaluated = expressnet("evaluate", "--workdir", tmp_path / "split", "--data_dir", data_dir, "--split", "validation",
                           "--json", devices=8)  # fmt: skip
    assert json.loads(evaluated.stdout)["loss"] == pytest.approx(split_validation["loss"], rel=1e-5)


def test_each_device_holds_an_eighth_of_what_divides():
    done = on_eight("tests.multidevice.sharded_optimizer")
    assert done.returncode == 0, done.stderr[-2000:]
    whole, split, with_experts = json.loads(done.stdout)
    assert split["params"] == whole["params"]
    for part in ("opt_state", "ema"):
        # Tiny layers have sizes such as 3 and 7; those of 8 and 16 divide, and hold most of the numbers.
        assert whole[part] / 8 <= split[part] < whole[part] / 5
        assert with_experts[part] < whole[part] / 2  # two devices along `data`, and experts apart on four
