"""State dicts of torchvision's kind, against a ResNet written here as torchvision describes its own."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from safetensors.numpy import save_file

from expressnet_jax.checkpoint import weight_import
from expressnet_jax.checkpoint.weight_files import WeightsError
from expressnet_jax.config import files as config_files
from expressnet_jax.models import canonical, expressnet
from tests.conftest import TINY

CONFIG = config_files.load(TINY, [("model.network", "backbone")])  # blocks 1, 1; filters 4, 8; stem 4


def state_dict(blocks=(1, 1), filters=(4, 8), stem=4, kernel=3):
    """A ResNet of bottlenecks as torch names it, with values that make every layer count."""
    rng = np.random.default_rng(0)
    state = {}

    def conv(name, d, f, size):
        state[f"{name}.weight"] = rng.standard_normal((f, d, size, size)) * np.sqrt(2 / (d * size * size))

    def norm(name, f):
        state[f"{name}.weight"], state[f"{name}.bias"] = 0.5 + rng.random(f), rng.standard_normal(f) / 10
        # Some as small as those of channels that say nothing: there the epsilon counts.
        state[f"{name}.running_mean"], state[f"{name}.running_var"] = (
            rng.standard_normal(f) / 10,
            10 ** rng.uniform(-6, 0, f),
        )
        state[f"{name}.num_batches_tracked"] = np.int64(7)

    conv("conv1", 3, stem, kernel), norm("bn1", stem)
    d = stem
    for stage, (count, f) in enumerate(zip(blocks, filters, strict=True), 1):
        for i in range(count):
            at = f"layer{stage}.{i}"
            for number, (before, after, size) in enumerate(((d, f, 1), (f, f, 3), (f, 4 * f, 1)), 1):
                conv(f"{at}.conv{number}", before, after, size), norm(f"{at}.bn{number}", after)
            if i == 0:
                conv(f"{at}.downsample.0", d, 4 * f, 1), norm(f"{at}.downsample.1", 4 * f)
            d = 4 * f
    state["fc.weight"], state["fc.bias"] = rng.standard_normal((9, d)), np.zeros(9)
    return {k: np.asarray(v, np.int64 if k.endswith("tracked") else np.float32) for k, v in state.items()}


def resnet(state, x, strides=(1, 2), stem_stride=2, pool=True):
    """(B, 3, H, W) -> (B, F): torchvision's resnet50 up to its pooled features, in inference."""

    def conv(name, x, stride=1):
        kernel = state[f"{name}.weight"]
        pad = kernel.shape[-1] // 2
        return lax.conv_general_dilated(x, kernel, (stride, stride), [(pad, pad)] * 2)

    def norm(name, x):
        weight, bias, mean, var = (
            state[f"{name}.{leaf}"][:, None, None] for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * weight + bias

    x = jax.nn.relu(norm("bn1", conv("conv1", x, stem_stride)))
    if pool:
        window, pads = (1, 1, 3, 3), ((0, 0), (0, 0), (1, 1), (1, 1))
        x = lax.reduce_window(x, -np.inf, lax.max, window, (1, 1, 2, 2), pads)
    for stage, stride in enumerate(strides, 1):
        for i in range(sum(f"layer{stage}.{i}.conv1.weight" in state for i in range(9))):
            at, step = f"layer{stage}.{i}", stride if i == 0 else 1
            y = jax.nn.relu(norm(f"{at}.bn1", conv(f"{at}.conv1", x)))
            y = jax.nn.relu(norm(f"{at}.bn2", conv(f"{at}.conv2", y, step)))
            y = norm(f"{at}.bn3", conv(f"{at}.conv3", y))
            x = norm(f"{at}.downsample.1", conv(f"{at}.downsample.0", x, step)) if i == 0 else x
            x = jax.nn.relu(y + x)
    return x.mean((2, 3))


def features(model, x):
    """Of our ResNet for pictures (B, 3, H, W)."""
    graph, state = nnx.split(model)
    run = jax.jit(lambda state, x: nnx.merge(graph, state)(x).features["resnet"])
    return np.asarray(run(state, jnp.asarray(np.moveaxis(x, 1, -1), jnp.float32)))


def write(path, state):
    save_file(state, path)
    return path


@functools.cache
def network(config):
    return expressnet.create(config)


def refused(path, config=CONFIG):
    with pytest.raises(WeightsError) as caught:
        weight_import.apply(network(config), weight_import.load(path, config, backbone=True))
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def test_without_strides_the_two_networks_are_one(tmp_path):
    """Kernels turned right, names in place, and an epsilon of 1e-5 made up for: the same features."""
    spec = dataclasses.replace(CONFIG.model.resnet, stem_stride=1, stem_pool=False, blocks=(3,), filters=(4,))
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, resnet=spec))
    state = state_dict(blocks=(3,), filters=(4,))
    imported = weight_import.load(write(tmp_path / "r.safetensors", state), config, backbone=True)
    model = expressnet.create(config)
    weight_import.apply(model, dataclasses.replace(imported, doubts=[]))
    x = np.random.default_rng(1).standard_normal((2, 3, 16, 16))
    wanted = np.asarray(jax.jit(lambda x: resnet(state, x, strides=(1,), stem_stride=1, pool=False))(x))
    np.testing.assert_allclose(features(model, x), wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    assert any("epsilon of 1e-05, here 0.001" in note for note in imported.notes)


def test_the_statistics_stay_what_they_are(tmp_path):
    state = state_dict()
    imported = weight_import.load(write(tmp_path / "r.safetensors", state), CONFIG, backbone=True)
    for name, ours in (("bn1", "conv1_bn"), ("layer2.0.downsample.1", "stage3/block1/proj_bn")):
        var, gamma = state[f"{name}.running_var"].astype(np.float64), state[f"{name}.weight"]
        np.testing.assert_array_equal(imported.weights[f"resnet/{ours}/var"], state[f"{name}.running_var"])
        wanted = gamma / np.sqrt(var + 1e-5) * np.sqrt(var + 1e-3)
        np.testing.assert_allclose(imported.weights[f"resnet/{ours}/gamma"], wanted, rtol=1e-6)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_other_form_of_resnet_is_refused_unless_a_start_is_all_that_is_asked_for(tmp_path, prefix):
    state = {prefix + name: value for name, value in state_dict().items()}
    path = write(tmp_path / "r.safetensors", state)
    line = refused(path)
    assert "stride in the 3x3" in line and "init.strict=false" in line and "pads both sides" in line
    model = expressnet.create(CONFIG)
    report = weight_import.apply(model, weight_import.load(path, CONFIG, backbone=True), strict=False)
    assert set(report.left) == {"head/kernel", "head/bias"} and report.kind == "torchvision"
    assert {f"{prefix}fc.weight", f"{prefix}fc.bias", f"{prefix}bn1.num_batches_tracked"} <= set(report.ignored)
    assert len(report.ignored) == 2 + 9 and any("stride" in note for note in report.notes)
    kernel = canonical.to_canonical(model)["resnet/stage3/block1/conv3/kernel"]
    np.testing.assert_array_equal(kernel, np.moveaxis(state[f"{prefix}layer2.0.conv2.weight"], (0, 1), (3, 2)))
    line = weight_import.mismatch(weight_import.load(path, CONFIG, backbone=True), CONFIG.preprocess)
    assert "preprocess.color_order=rgb preprocess.normalize=imagenet, and this run has bgr, unit" in line


@pytest.mark.parametrize(("change", "named"), [
    (lambda s: s.pop("layer2.0.downsample.0.weight"), "missing: resnet/stage3/block1/proj/kernel (1, 1, 16, 32)"),
    (lambda s: s.pop("layer1.0.bn3.running_var"), "missing: resnet/stage2/block1/increase_bn/var"),
    (lambda s: s.update({"layer1.0.se.fc1.weight": np.zeros((2, 2), np.float32)}), "extra: layer1.0.se.fc1.weight"),
    (lambda s: s.update({"layer1.0.conv1.bias": np.zeros(4, np.float32)}), "extra: layer1.0.conv1.bias"),
    (lambda s: s.update({"layer3.0.conv1.weight": np.zeros((4, 4, 1, 1), np.float32)}), "extra: resnet/stage4/block1"),
    (lambda s: s.update({"step": np.int64(3)}), "extra: step"),
    (lambda s: s.update({"layer2.0.conv1.weight": s["layer2.0.conv1.weight"].transpose(1, 0, 2, 3).copy()}),
     "(in the file: layer2.0.conv1.weight): (1, 1, 8, 16), transposed, the network has (1, 1, 16, 8)"),
])  # fmt: skip
def test_a_missing_extra_or_transposed_weight_is_named(tmp_path, change, named):
    state = state_dict()
    change(state)
    assert named in refused(write(tmp_path / "r.safetensors", {k: np.asarray(v) for k, v in state.items()}))


def test_a_variance_below_zero_is_refused(tmp_path):
    state = state_dict()
    state["layer1.0.bn2.running_var"][1] = -0.5
    assert "variance layer1.0.bn2.running_var is below 0" in refused(write(tmp_path / "r.safetensors", state))


def test_torchvisions_form_is_torchvisions_network(tmp_path):
    """Strides in the 3x3, both sides padded, in the stem, the pool and the stages: odd and even sides."""
    spec = dataclasses.replace(CONFIG.model.resnet, form="torchvision", stem_kernel=7, blocks=(2, 3), filters=(4, 8))
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, resnet=spec))
    state = state_dict(blocks=(2, 3), kernel=7)
    model = expressnet.create(config)
    weight_import.apply(model, weight_import.load(write(tmp_path / "r.safetensors", state), config, backbone=True))
    for side in (32, 37, 44):
        x = np.random.default_rng(side).standard_normal((2, 3, side, side))
        wanted = np.asarray(jax.jit(lambda x: resnet(state, x))(x))
        np.testing.assert_allclose(features(model, x), wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(("about", "notes"), [({"model": {"cnnfe2": {"kernels": [3, 3]}}}, 2), ({}, 0)])
def test_a_file_from_before_strides_and_unpooled_blocks_had_none_of_them(about, notes):
    extractor = dataclasses.replace(CONFIG.model.cnnfe2, stride=2, unpooled=(1,))
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, cnnfe2=extractor))
    found = weight_import._silent_differences(about, config, "")
    assert (
        found
        == [
            "these weights were trained with model.cnnfe2.stride=1, and here it is 2",
            "these weights were trained with model.cnnfe2.unpooled=[], and here it is [1]",
        ][:notes]
    )
    same = json.loads(json.dumps(dataclasses.asdict(config)))
    assert not weight_import._silent_differences(same, config, "")
