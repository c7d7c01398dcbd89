"""Keras 2 files, written here group by group as Keras writes them, against the weights that went into them."""

import dataclasses
import functools
import itertools

import h5py
import numpy as np
import pytest

from expressnet_jax.checkpoint import weight_import
from expressnet_jax.checkpoint.weight_files import WeightsError
from expressnet_jax.config import Preprocess
from expressnet_jax.config import files as config_files
from expressnet_jax.models import canonical, expressnet
from tests.conftest import TINY
from tests.golden import inputs, worst_errors

NOTEBOOK_8 = "anger,contempt,disgust,sadness,happiness,fear,neutral,surprise"
NOTEBOOK_7 = "anger,disgust,sadness,happiness,fear,neutral,surprise"
CONFIG = config_files.load(TINY, [("data.classes", NOTEBOOK_8)])
LEAVES = {"gamma": "gamma", "beta": "beta", "mean": "moving_mean", "var": "moving_variance"}
PARTS = {"reduce": "1x1_reduce", "conv3": "3x3", "increase": "1x1_increase", "proj": "1x1_proj"}


@pytest.fixture(scope="module")
def weights():
    """By canonical name, for CONFIG: every array different."""
    return {name: inputs.weight(name, value.shape) for name, value in initial(CONFIG).items()}


def write(path, layers, *, root="model_weights", pieces=1):
    """A file as Keras 2 saves it: {layer: [(weight's name, array)]}, layers in the model's order."""
    with h5py.File(path, "w") as file:
        group = file.create_group(root) if root else file
        group.attrs["backend"], group.attrs["keras_version"] = b"tensorflow", b"2.15.0"
        group.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer in sorted(layers):
            made = group.create_group(layer)
            names = [name.encode() for name, _ in layers[layer]]
            for i, some in enumerate(np.array_split(np.asarray(names), pieces)):
                made.attrs["weight_names" if pieces == 1 else f"weight_names{i}"] = some if names else []
            for name, array in layers[layer]:
                made.create_dataset(name, data=array)
        group.create_group("top_level_model_weights").attrs["weight_names"] = []
        if root:
            file.attrs["model_config"] = b'{"class_name": "Functional"}'
            file.create_group("optimizer_weights").create_dataset("Adam/m", data=np.zeros(9, np.int64))
    return path


def resnet_layers(weights, projection_first=False):
    """Canonical names of the ResNet's layers in the order of a functional Keras model."""
    blocks = {
        tuple(int(part[5:]) for part in name.split("/")[1:3]) for name in weights if name.startswith("resnet/stage")
    }
    names = ["resnet/conv1", "resnet/conv1_bn"]
    for stage, block in sorted(blocks):
        ends = ["increase", "proj"] if block == 1 else ["increase"]
        ends = ends[::-1] if projection_first else ends
        layers = ["reduce", "reduce_bn", "conv3", "conv3_bn", *ends, *(f"{end}_bn" for end in ends)]
        names += [f"resnet/stage{stage}/block{block}/{layer}" for layer in layers]
    return names


def vggface2_name(layer):
    """The name that VGGFace2's file has for one of our layers, which may be a BatchNorm."""
    _, *block, last = layer.split("/")
    kind, norm = last.removesuffix("_bn"), "/bn" if last.endswith("_bn") else ""
    if not block:
        return f"conv1/7x7_s2{norm}"
    return f"conv{block[0].removeprefix('stage')}_{block[1].removeprefix('block')}_{PARTS[kind]}{norm}"


def arrays(weights, layer, keras):
    """[(name, array)] of one layer under the name `keras`."""
    leaves = LEAVES if f"{layer}/gamma" in weights else {"kernel": "kernel", "bias": "bias"}
    return [(f"{keras}/{leaf}:0", weights[f"{layer}/{ours}"]) for ours, leaf in leaves.items()
            if f"{layer}/{ours}" in weights]  # fmt: skip


def listed(layers, frozen=False):
    """The arrays of a sub-model's layers: those that are trained first, unless nothing is."""
    flat = [item for layer in layers for item in layer]
    return flat if frozen else sorted(flat, key=lambda item: "moving_" in item[0])


def vggface2(weights):
    return {vggface2_name(layer): arrays(weights, layer, vggface2_name(layer)) for layer in resnet_layers(weights)}


def published(weights, *, number=0, frozen=False, gate_first=False, projection_first=False, own_names=False):
    """The whole model's layers, numbered from `number` on."""
    numbers = itertools.count(number)

    def branch(ours):
        count = sum(name.startswith(f"{ours}/conv") and name.endswith("kernel") for name in weights)
        layers = [f"{ours}/{kind}{i + 1}" for i in range(count) for kind in ("conv", "bn")]
        layers += [f"{ours}/dense"] if f"{ours}/dense/kernel" in weights else []
        return [
            arrays(weights, layer, f"{layer.split('/')[1].rstrip('0123456789')}_{next(numbers)}") for layer in layers
        ]

    def mixture(ours):
        count = len({name.split("/")[1] for name in weights if name.startswith(f"{ours}/expert")})
        layers = [f"{ours}/expert{i}" for i in range(count)]
        layers = [f"{ours}/gate", *layers] if gate_first else [*layers, f"{ours}/gate"]
        return [arrays(weights, layer, f"dense_{next(numbers)}") for layer in layers]

    def backbone():
        layers = resnet_layers(weights, projection_first)
        names = [vggface2_name(layer) if own_names else f"layer_{next(numbers)}" for layer in layers]
        return [arrays(weights, layer, f"vggface/{name}") for layer, name in zip(layers, names, strict=True)]

    return {
        "input_1": [],
        "CNNFeatureExtractor_2": listed(branch("cnnfe2"), frozen),
        "ResNet50": listed(backbone(), frozen),
        f"concatenate_{next(numbers)}": [],
        "CNNFeatureExtractor_1": listed(branch("cnnfe1"), frozen),
        f"dense_{(fuse := next(numbers))}": arrays(weights, "fuse/dense", f"dense_{fuse}"),
        "MoE_CNN_Features": listed(mixture("moe_cnn")),
        "MoE_Expression": listed(mixture("moe_expression")),
        f"dense_{(head := next(numbers))}": arrays(weights, "head", f"dense_{head}"),
    }


@functools.cache
def network(config):
    return expressnet.create(config, seed=1)


@functools.cache
def initial(config):
    return canonical.to_canonical(network(config))


def loaded(path, config=CONFIG, backbone=False, strict=True):
    """What a network holds once the file was put in, and the report."""
    model = network(config)
    canonical.from_canonical(model, initial(config))
    report = weight_import.apply(model, weight_import.load(path, config, backbone=backbone), strict=strict)
    return canonical.to_canonical(model), report


def refused(path, config=CONFIG, backbone=False):
    """The one line with which a file is refused; the network is as before."""
    model = network(config)
    before = canonical.digest(canonical.to_canonical(model))
    with pytest.raises(WeightsError) as caught:
        weight_import.apply(model, weight_import.load(path, config, backbone=backbone))
    assert canonical.digest(canonical.to_canonical(model)) == before
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def same(found, wanted):
    assert sorted(found) == sorted(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_both_published_layouts_reproduce_the_golden_values(tmp_path):
    """The ResNet comes from VGGFace2's file, all else from the whole model's, whose own ResNet is compared by name."""
    config = config_files.load("fer2013:paper", [("data.classes", NOTEBOOK_7)])
    model = worst_errors.zeros(config)
    weights = worst_errors.weights(model)
    whole = weight_import.load(write(tmp_path / "whole.h5", published(weights, number=12)), config)
    same(whole.weights, weights)
    face = weight_import.load(write(tmp_path / "face.h5", vggface2(weights), root=""), config, backbone=True)
    rest = {name: np.zeros_like(v) if name.startswith("resnet/") else v for name, v in whole.weights.items()}
    assert len(weight_import.apply(model, dataclasses.replace(whole, weights=rest)).loaded) == 357
    report = weight_import.apply(model, face)
    assert (len(report.loaded), report.values) == (265, 23_561_152)
    with np.load(inputs.GOLDEN, allow_pickle=False) as file:
        errors = worst_errors.inference_errors(model, dict(file), "float32")
    assert len(errors) == 9
    assert not {name: error for name, error in errors.items() if not error < 1e-4}


@pytest.mark.parametrize("options", [
    {}, {"number": 37}, {"frozen": True}, {"gate_first": True}, {"projection_first": True}, {"own_names": True},
    {"number": 5, "frozen": True, "gate_first": True, "projection_first": True},
], ids=str)  # fmt: skip
def test_the_whole_model_however_its_layers_are_numbered_and_listed(tmp_path, weights, options):
    found, report = loaded(write(tmp_path / "model.h5", published(weights, **options)))
    same(found, weights)
    assert (report.kind, report.left, report.ignored) == ("authors", [], [])


@pytest.mark.parametrize("how", [{"root": ""}, {"pieces": 3}])
def test_weights_alone_and_long_lists_of_names(tmp_path, weights, how):
    same(loaded(write(tmp_path / "weights.h5", published(weights), **how))[0], weights)


@pytest.mark.parametrize("file", ["vggface2", "whole"])
def test_the_backbone_alone(tmp_path, weights, file):
    layers = vggface2(weights) | {"classifier": [("classifier/kernel:0", np.zeros((32, 9)))], "flatten": []}
    path = write(tmp_path / "w.h5", layers if file == "vggface2" else published(weights))
    found, report = loaded(path, backbone=True)
    same(found, {name: (weights if name.startswith("resnet/") else initial(CONFIG))[name] for name in weights})
    assert all(name.startswith("resnet/") for name in report.loaded) and "head/bias" in report.left
    assert ("classifier/classifier/kernel:0" in report.ignored) == (file == "vggface2")
    assert "cnnfe1 14" in report.describe() and "left at initialisation" in report.describe()
    wide = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, network="backbone", cnnfe1_width=99))
    only, _ = loaded(path, wide, backbone=True)
    same({n: v for n, v in only.items() if n.startswith("resnet/")},
         {n: v for n, v in weights.items() if n.startswith("resnet/")})  # fmt: skip


def test_arrays_by_position_where_they_have_no_names_and_by_name_in_another_order(tmp_path, weights):
    layers = vggface2(weights)
    norm, conv = "conv2_1_3x3/bn", "conv3_1_1x1_proj"
    layers[norm] = [(f"param_{i}", array) for i, (_, array) in enumerate(layers[norm])]
    layers[conv] = [("param_0", layers[conv][0][1])]
    layers["conv1/7x7_s2/bn"].reverse()
    found, _ = loaded(write(tmp_path / "w.h5", layers), backbone=True)
    same({n: v for n, v in found.items() if n.startswith("resnet/")},
         {n: v for n, v in weights.items() if n.startswith("resnet/")})  # fmt: skip


def without(layers, layer, at):
    layers[layer] = [item for i, item in enumerate(layers[layer]) if i != at]


def turned(layers, layer, at):
    name, array = layers[layer][at]
    layers[layer][at] = (name, np.swapaxes(array, -1, -2))


@pytest.mark.parametrize(("change", "named"), [
    (lambda f: f.pop("conv3_1_1x1_proj"), "missing: resnet/stage3/block1/proj/kernel"),
    (lambda f: f.pop("conv1/7x7_s2/bn"), "missing: resnet/conv1_bn/gamma"),
    (lambda f: without(f, "conv2_1_3x3/bn", 2), "missing: resnet/stage2/block1/conv3_bn/mean"),
    (lambda f: f.update({"conv2_1_1x1_down": [("conv2_1_1x1_down/kernel:0", np.zeros((1, 1, 4, 4)))]}),
     "extra: conv2_1_1x1_down/conv2_1_1x1_down/kernel:0"),
    (lambda f: f["conv2_1_3x3"].append(("conv2_1_3x3/bias:0", np.zeros(4))), "extra: conv2_1_3x3/conv2_1_3x3/bias:0"),
    (lambda f: f.update({"conv2_2_3x3": [("a/kernel:0", np.zeros((3, 3, 4, 4)))]}),
     "extra: resnet/stage2/block2/conv3/kernel"),
    (lambda f: turned(f, "conv3_1_1x1_increase", 0), "conv3_1_1x1_increase/kernel:0): (1, 1, 32, 8), transposed"),
])  # fmt: skip
def test_vggface2_with_a_missing_extra_or_transposed_weight(tmp_path, weights, change, named):
    layers = vggface2(weights)
    change(layers)
    assert named in refused(write(tmp_path / "w.h5", layers, root=""), backbone=True)


@pytest.mark.parametrize(("change", "named"), [
    (lambda f: without(f, "CNNFeatureExtractor_1", 4), "missing: cnnfe1/conv2/kernel"),
    (lambda f: without(f, "CNNFeatureExtractor_2", 2), "missing: cnnfe2/bn1/gamma"),
    (lambda f: without(f, "ResNet50", 3), "missing: resnet/stage2/block1/reduce/kernel"),
    (lambda f: f["CNNFeatureExtractor_1"].insert(4, ("conv_9/kernel:0", np.zeros((7, 7, 2, 2)))),
     "extra: CNNFeatureExtractor_1/conv_9/kernel:0 (7, 7, 2, 2)"),
    (lambda f: f["ResNet50"].append(("strange:0", np.zeros(3))), "ResNet50/strange:0"),
    (lambda f: turned(f, "ResNet50", 9), "stage2/block1/increase/kernel (in the file: ResNet50/vggface/layer_"),
    (lambda f: turned(f, "MoE_Expression", 8), "MoE_Expression has 4 experts"),
    (lambda f: without(f, "MoE_CNN_Features", 3), "MoE_CNN_Features is no gate and experts"),
    (lambda f: f.pop("MoE_CNN_Features"), "no layer MoE_CNN_Features; its layers are CNNFeatureExtractor_2, ResNet50"),
    (lambda f: f.popitem(), "1 dense layers"),
    (lambda f: f.update(dense_77=[("dense_77/kernel:0", np.zeros((2, 2)))]), "extra: dense_77/dense_77/kernel:0"),
])  # fmt: skip
def test_the_whole_model_with_a_missing_extra_or_transposed_weight(tmp_path, weights, change, named):
    layers = published(weights)
    change(layers)
    assert named in refused(write(tmp_path / "w.h5", layers))


def test_files_that_are_not_what_they_list(tmp_path, weights):
    layers = published(weights)
    name, group = layers["ResNet50"][5][0], "model_weights/ResNet50"
    for change, words in (
        (lambda f: f[group].pop(name), f"{group}/{name} is listed and is not there"),
        (lambda f: f["model_weights"].pop("ResNet50"), "layer ResNet50 is missing"),
        (lambda f: f["model_weights"].attrs.pop("layer_names"), "no list of layer_names"),
        (lambda f: f["model_weights"].attrs.update(layer_names=[b"other"]), "layer other is missing"),
        (lambda f: f["model_weights"].attrs.update(backend=b"theano"), "Theano"),
        (lambda f: f[group].attrs.update(weight_names=[name.encode()] * 2), "twice"),
    ):
        path = write(tmp_path / "w.h5", layers)
        with h5py.File(path, "a") as file:
            change(file)
        assert words in refused(path)
    assert "its layers are dense_1" in refused(write(tmp_path / "w.h5", {"dense_1": [("k:0", np.zeros(2))]}))


def test_a_model_that_was_frozen_in_part_is_refused(tmp_path, weights):
    layers = published(weights)
    items = layers["ResNet50"]
    frozen = {name.rpartition("/")[0] for name, _ in items[15:22]}  # all arrays of some layers in the middle
    learned = [item for item in items if item[0].rpartition("/")[0] not in frozen and "moving_" not in item[0]]
    rest = [item for item in sorted(items, key=lambda item: item[0]) if all(item is not one for one in learned)]
    layers["ResNet50"] = learned + rest
    assert "listed neither layer by layer nor" in refused(write(tmp_path / "w.h5", layers))


def test_equally_many_experts_and_outputs_are_told_by_the_gates_name(tmp_path):
    config = dataclasses.replace(CONFIG, moe=dataclasses.replace(CONFIG.moe, hidden=4))
    weights = {name: inputs.weight(name, value.shape) for name, value in initial(config).items()}
    layers = published(weights)
    assert "could be both" in refused(write(tmp_path / "w.h5", layers), config)
    for layer in ("MoE_CNN_Features", "MoE_Expression"):
        layers[layer][-2:] = [(name.replace("dense", "gating"), array) for name, array in layers[layer][-2:]]
    same(loaded(write(tmp_path / "w.h5", layers), config)[0], weights)


def test_outputs_whose_classes_are_not_known_are_refused(tmp_path, weights):
    path = write(tmp_path / "w.h5", published(weights))
    other = config_files.load(TINY)  # alphabetical
    assert f"AffectNet-8: {NOTEBOOK_8}" in refused(path, other)
    _, report = loaded(path, other, strict=False)
    assert "head/bias" in report.loaded and "data.classes" in report.notes[0]
    assert "AffectNet-8" in loaded(path)[1].notes[0]
    loaded(path, other, backbone=True)  # has no classes


def test_what_fits_is_taken_where_that_is_asked_for(tmp_path, weights):
    layers = published(weights)
    *_, head = layers
    layers[head] = [(f"{head}/kernel:0", np.zeros((32, 5))), (f"{head}/bias:0", np.zeros(5))]
    path = write(tmp_path / "w.h5", layers)
    assert "shape of head/kernel" in (line := refused(path)) and "init.strict=false takes what fits" in line
    found, report = loaded(path, strict=False)
    assert report.left == ["head/bias", "head/kernel"] and len(report.ignored) == 2
    np.testing.assert_array_equal(found["resnet/conv1/kernel"], weights["resnet/conv1/kernel"])
    assert "init.backbone" in refused(write(tmp_path / "face.h5", vggface2(weights)))


def test_what_the_weights_expect_of_pictures(tmp_path, weights):
    face = weight_import.load(write(tmp_path / "face.h5", vggface2(weights)), CONFIG, backbone=True)
    whole = weight_import.load(write(tmp_path / "whole.h5", published(weights)), CONFIG)
    paper = Preprocess("bgr", "unit")
    line = weight_import.mismatch(face, paper)
    assert "preprocess.normalize=vggface2, and this run has unit" in line and "the paper feeds BGR" in line
    assert "color_order" not in line and "\n" not in line
    assert dataclasses.replace(paper, **face.preprocessing) == Preprocess("bgr", "vggface2")
    assert not weight_import.mismatch(face, Preprocess("bgr", "vggface2")) and not weight_import.mismatch(whole, paper)
    assert "preprocess.color_order=bgr" in weight_import.mismatch(whole, Preprocess("rgb", "unit"))
