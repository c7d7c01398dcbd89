"""What two networks differ in: settings, values by part, arrays of other shapes, arrays that one of them lacks."""

import dataclasses
import json

import numpy as np

from expressnet_jax.config import files as config_files
from expressnet_jax.export import inspection
from tests.conftest import TINY


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
    text = inspection.describe_difference(found)
    assert "1 setting differs" in text and text.count("head/kernel") == 1
    assert "1 array of another shape, such as head/kernel: (2, 3) in the first, (3, 2) in the second" in text
    assert "1 array only in the first, such as resnet/conv1" in text


def test_equal_networks_differ_in_nothing():
    config = config_files.load(TINY)
    first, second = (model(config, "a", head_bias=np.zeros(3, np.float32)) for _ in range(2))
    found = inspection.compare(first, second)
    assert found["same_weights"] and not found["different_shapes"] and not found["only_in_first"]
    assert inspection.describe_difference(found) == "0 settings differ\nthe weights are the same"
