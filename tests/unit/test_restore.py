"""A run that starts from another's weights, with more experts."""

import numpy as np
import pytest

from expressnet_jax.runs import restore


def weights(e):
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 4), "bias": (4,), "layer2/kernel": (4, 4)}
    named = {
        f"moe_cnn/expert{i}/{leaf}": rng.standard_normal(shape).astype(np.float32)
        for i in range(e)
        for leaf, shape in shapes.items()
    }
    return named | {"moe_cnn/gate/kernel": rng.standard_normal((3, e)).astype(np.float32), "head/bias": np.ones(2)}


def test_experts_are_copied_in_turn_and_parted():
    before = weights(2)
    after = restore.grown(before, "moe_cnn", 2, 5, 0.01, np.random.default_rng(1))
    assert len([name for name in after if name.endswith("layer2/kernel")]) == 5
    for name, value in before.items():
        if "gate" not in name:
            assert after[name] is value
    for e, source in ((2, 0), (3, 1), (4, 0)):
        one, copy = before[f"moe_cnn/expert{source}/kernel"], after[f"moe_cnn/expert{e}/kernel"]
        assert 0 < np.abs(copy - one).max() < 0.1 * np.abs(one).max()
        column = after["moe_cnn/gate/kernel"][:, e] - before["moe_cnn/gate/kernel"][:, source]
        assert 0 < np.abs(column).max() < 0.1
    np.testing.assert_array_equal(after["moe_cnn/gate/kernel"][:, :2], before["moe_cnn/gate/kernel"])


@pytest.mark.parametrize("e", [1, 3])
def test_the_same_number_changes_nothing(e):
    before = weights(e)
    after = restore.grown(before, "moe_cnn", e, e, 0.5, np.random.default_rng(1))
    assert set(after) == set(before)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
