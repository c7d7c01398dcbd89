"""What two networks differ in: settings, values by part, arrays of other shapes, arrays that one of them lacks."""

import dataclasses
import json
import re

import numpy as np

from expressnet_jax.config import files as config_files
from expressnet_jax.export import inspection
from tests.conftest import TINY

FACTS = {
    "path": "runs/a", "kind": "run", "step": 30, "validation": {"accuracy": 0.123456, "loss": 2.07712},
    "training_seconds": 3725.4, "parameters": 1234, "parts": {"head": 1234}, "flops_per_image": 1234567890,
    "classes": ["a", "b"], "digest": "a" * 64,
}  # fmt: skip


def model(config, digest, **weights):
    return inspection.Model(
        {"digest": digest}, config, {name.replace("_", "/"): value for name, value in weights.items()}
    )


def test_an_array_of_another_shape_is_listed_once_and_under_its_own_key():
    config = config_files.load(TINY)
    zeros = np.zeros((2, 3), np.float32)
    first = model(config, "a", head_kernel=zeros, head_bias=zeros[0], fuse_bias=zeros[0], resnet_conv1=zeros)
    changed = dataclasses.replace(config, seed=7)
    second = model(changed, "b", head_kernel=zeros.T, head_bias=zeros[0] - 0.5, fuse_bias=zeros[0], cnnfe1_conv1=zeros)
    found = inspection.compare(first, second)
    assert found == {
        "settings": ["seed: 0 -> 7"], "same_weights": False, "largest_difference": {"fuse": 0.0, "head": 0.5},
        "only_in_first": ["resnet/conv1"], "only_in_second": ["cnnfe1/conv1"],
        "different_shapes": {"head/kernel": [[2, 3], [3, 2]]},
    }  # fmt: skip
    assert json.loads(json.dumps(found)) == found
    text = inspection.describe_both(FACTS, FACTS | {"validation": None, "training_seconds": None}, found)
    assert "1 setting differs" in text and text.count("head/kernel") == 1
    assert "1 array of another shape, such as head/kernel: (2, 3) in the first, (3, 2) in the second" in text
    assert "1 array only in the first, such as resnet/conv1" in text


def test_whole_numbers_are_shown_whole():
    assert [inspection._setting("seed", text) for text in ("20261130", "20261131")] == ["20261130", "20261131"]
    assert inspection._setting("optimizer.learning_rate", "0.0020000000000001") == "0.002"


def test_equal_networks_differ_in_nothing():
    config = config_files.load(TINY)
    first, second = (model(config, "a", head_bias=np.zeros(3, np.float32)) for _ in range(2))
    found = inspection.compare(first, second)
    assert found["same_weights"] and not found["different_shapes"] and not found["only_in_first"]
    text = inspection.describe_both(FACTS, FACTS, found)
    assert text.endswith("\n0 settings differ\nthe weights are the same")


def test_two_runs_stand_side_by_side_rounded_and_with_units():
    first = config_files.load(TINY)
    second = dataclasses.replace(first, watchdog=dataclasses.replace(first.watchdog, seconds=60.0))
    found = inspection.compare(model(first, "a"), model(second, "a"))
    other = FACTS | {"path": "runs/b", "validation": {"accuracy": 0.5, "loss": 1.0}, "training_seconds": None}
    rows = [re.split(r"\s{2,}", line) for line in inspection.describe_both(FACTS, other, found).splitlines()]
    assert rows[0] == ["", "first", "second"] and ["path", "runs/a", "runs/b"] in rows
    assert ["validation accuracy", "12.35 %", "50.00 %"] in rows and ["validation loss", "2.0771", "1.0000"] in rows
    assert ["training time", "3,725 s", "-"] in rows and ["watchdog.seconds", "1800 s", "60 s"] in rows
    assert ["forward pass", "1.235 GFLOP an image", "1.235 GFLOP an image"] in rows
