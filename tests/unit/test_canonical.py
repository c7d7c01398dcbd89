"""Names of parameters: a round trip, any size of network, and errors that list everything."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from expressnet_jax.config import files as config_files
from expressnet_jax.models import canonical, expressnet
from tests.conftest import TINY
from tests.golden import inputs

CONFIG = config_files.load(TINY)


@pytest.fixture(scope="module")
def model():
    return expressnet.create(CONFIG)


def test_a_round_trip_changes_nothing(model):
    named = canonical.to_canonical(model)
    other = expressnet.create(CONFIG, seed=1)
    before = canonical.to_canonical(other)
    canonical.from_canonical(other, named)
    after = canonical.to_canonical(other)
    assert list(after) == sorted(named)
    assert all(np.array_equal(after[name], named[name]) for name in named)
    assert canonical.digest(after) == canonical.digest(named) != canonical.digest(before)
    pictures = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3))
    np.testing.assert_array_equal(model(pictures).logits, other(pictures).logits)


def test_names_follow_the_config():
    wide = dataclasses.replace(CONFIG, moe=dataclasses.replace(CONFIG.moe, num_experts=6))
    sizes = canonical.sizes(expressnet.create(wide))
    assert sizes["moe_cnn/expert5/kernel"] == 16 * 16 and sizes["moe_expression/gate/kernel"] == 16 * 6
    assert sizes["resnet/stage3/block1/proj_bn/gamma"] == 32 and "moe_cnn/expert6/kernel" not in sizes
    assert sizes["cnnfe1/bn2/var"] == 8 and sizes["head/kernel"] == 32 * 8


def test_the_published_network_has_the_published_names():
    sizes = canonical.sizes(nnx.eval_shape(lambda: expressnet.create(config_files.load("fer2013:paper"))))
    with np.load(inputs.GOLDEN, allow_pickle=False) as golden:
        trained = {str(name) for name in golden["train/grad_names"]}
    assert len(sizes) == 357 and sum(sizes.values()) == 35_931_871
    assert {name for name in sizes if not name.endswith(("/mean", "/var"))} == trained


def test_every_wrong_name_is_listed_and_nothing_is_changed(model):
    named = canonical.to_canonical(model)
    wrong = dict(named)
    del wrong["fuse/dense/bias"], wrong["moe_cnn/expert1/kernel"]
    wrong["resnet/conv9/kernel"] = np.zeros((1, 2))
    wrong["head/kernel"] = np.zeros((3, 3))
    wrong["cnnfe1/conv1/kernel"] = named["cnnfe1/conv1/kernel"] + 1
    with pytest.raises(canonical.NamesError) as caught:
        canonical.from_canonical(model, wrong)
    message = str(caught.value)
    for part in ("4 names", "missing: fuse/dense/bias", "missing: moe_cnn/expert1/kernel",
                 "unknown: resnet/conv9/kernel", "shape of head/kernel: (3, 3)"):  # fmt: skip
        assert part in message
    assert canonical.digest(canonical.to_canonical(model)) == canonical.digest(named)


def test_the_digest_sees_names_shapes_and_values():
    base = {"a": np.zeros((2, 3)), "b": np.ones(1)}
    others = [{"a": np.zeros((3, 2)), "b": np.ones(1)}, {"c": np.zeros((2, 3)), "b": np.ones(1)},
              {"a": np.zeros((2, 3)), "b": np.full(1, 1.001)}]  # fmt: skip
    assert len({canonical.digest(named) for named in [base, *others]}) == 4
    assert canonical.digest(base) == canonical.digest(dict(reversed(base.items())))
