"""Graphs that are written operation by operation, against the JAX network, for every part that a config can choose."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from flax import nnx

from data_pipelines.common.errors import DataError
from expressnet_jax.config import files as config_files
from expressnet_jax.export import artifact, compare, onnx_format, savedmodel, stablehlo
from expressnet_jax.models import canonical, expressnet
from tests.conftest import TINY

VARIANTS = {
    "published": {"model.cnnfe1.kernels": "15,9", "model.cnnfe2.kernels": "11,3"},
    "every expert": {
        "moe.router": "soft", "moe.layers": "2", "model.image_size": "33", "preprocess.color_order": "rgb",
        "model.cnnfe1.stride": "2", "model.cnnfe2.stride": "2", "model.cnnfe2.unpooled": "1",
        "model.dense_batchnorm": "true",
        "preprocess.normalize": "standard", "preprocess.mean": "0.5", "preprocess.std": "0.25",
    },
    "even kernels": {
        "model.cnnfe1.kernels": "6,4", "model.cnnfe2.kernels": "12,2", "model.resnet.stem_pool": "false",
        "model.resnet.stem_kernel": "7", "moe.renormalize": "true", "moe.balance_bias": "0.1", "moe.top_k": "3",
        "preprocess.antialias": "true", "preprocess.normalize": "vggface2",
    },
    "torchvision": {
        "model.resnet.form": "torchvision", "model.resnet.stem_kernel": "7", "model.image_size": "31",
        "preprocess.normalize": "imagenet",
    },
    "backbone": {
        "model.network": "backbone", "model.resnet.blocks": "2,1,1", "model.resnet.filters": "4,8,8",
        "preprocess.normalize": "per_image",
    },
}  # fmt: skip
SHAPES = [(1, 32, 32), (5, 50, 21)]


@functools.cache
def made(variant):
    """A network with statistics, scales and biases that are none of those it starts with, and answers by shape."""
    config = config_files.load(TINY, list(VARIANTS[variant].items()))
    graph, state = nnx.split(expressnet.create(config))
    rng = np.random.default_rng(0)

    def change(path, value):
        leaf = str(path[-1].key if hasattr(path[-1], "key") else path[-2].key)
        return value if leaf == "kernel" else value + jnp.asarray(0.1 * rng.random(value.shape), value.dtype)

    model = nnx.merge(graph, jax.tree.map_with_path(change, state))
    answer = jax.jit(lambda images: artifact.answer(config)(model, images))
    images = [compare.random_pictures(b, b, h, w) for b, h, w in SHAPES]
    return config, model, [(part, answer(part)) for part in images]


def check(run, config, answers):
    for images, expected in answers:
        found = run(images)
        assert set(found) == set(expected) == set(artifact.outputs(config))
        for name, value in expected.items():
            assert found[name].dtype == value.dtype and found[name].shape == value.shape
            scale = float(jnp.abs(value).max()) if name in ("logits", "features") else 1
            np.testing.assert_allclose(found[name], value, atol=1e-5 * scale, err_msg=name)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("transformed", [False, True])
def test_onnx(variant, transformed, tmp_path, monkeypatch):
    if transformed:  # every convolution of stride 1, however small
        monkeypatch.setattr(onnx_format, "_WORTH_A_TRANSFORM", 0)
        monkeypatch.setattr(onnx_format, "_SMALLER", float("inf"))
    config, model, answers = made(variant)
    path = tmp_path / "model.onnx"
    onnx_format.write(path, config, canonical.to_canonical(model))
    convolutions = [node for node in onnx.load(path).graph.node if node.op_type == "Conv"]
    strides = {next(a.ints[0] for a in node.attribute if a.name == "strides") for node in convolutions}
    assert strides == ({2} if transformed else {1, 2})
    check(onnx_format.load(path), config, answers)


@pytest.mark.parametrize("variant", ["published", "backbone"])
def test_stablehlo(variant, tmp_path):
    config, model, answers = made(variant)
    path = tmp_path / "model.stablehlo"
    stablehlo.write(path, config, canonical.to_canonical(model))
    check(stablehlo.load(path), config, answers)
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert [str(size) for size in exported.in_avals[0].shape] == ["b", "h", "w", "3"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_savedmodel(variant, tmp_path):
    pytest.importorskip("tensorflow", reason="the extra savedmodel is not installed")
    config, model, answers = made(variant)
    savedmodel.write(tmp_path / "saved_model", config, canonical.to_canonical(model))
    check(savedmodel.load(tmp_path / "saved_model"), config, answers)
    loaded = savedmodel.require().saved_model.load(str(tmp_path / "saved_model"))
    check(lambda images: {name: value.numpy() for name, value in loaded(images).items()}, config, answers)


@pytest.mark.parametrize(("module", "package"), [(onnx_format, "onnxruntime"), (savedmodel, "tensorflow")])
def test_a_missing_package_is_named_with_its_extra(module, package, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(DataError, match=r"-e '\.\[(onnx|savedmodel)\]'"):
        module.require()


@pytest.fixture(scope="module")
def batches():
    """Of the published variant, with three grey pictures for the real ones."""
    config, model, _ = made("published")
    grey = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 1), np.uint8)
    return compare.batches(compare.Reference(config, canonical.to_canonical(model)), grey)


def test_experts_that_rounding_decides_between_are_no_difference(batches):
    made_, tied = batches[1], "experts_cnn"
    swapped = {name: value.copy() for name, value in made_.answers.items()}
    swapped[tied][0] = swapped[tied][0, ::-1]
    swapped["probabilities"][0] += 0.1  # another expert, another answer
    with pytest.raises(artifact.ArtifactError, match="x: experts_cnn differ for 1 of 7 pictures"):
        compare.check("x", lambda images: swapped, [made_])
    scores = made_.scores[tied].copy()
    scores[0] = 0.25 + 1e-7 * np.arange(4)
    near = made_._replace(scores={**made_.scores, tied: scores})
    with pytest.raises(artifact.ArtifactError, match="differ for 1 of 7"):  # the same experts in another order
        compare.check("x", lambda images: swapped, [near])
    swapped[tied][0] = [i for i in range(4) if i not in made_.answers[tied][0]]
    found = compare.check("x", lambda images: swapped, [near])
    assert found["ties"] == 1 and found["largest_difference"]["probabilities"] == 0


def test_what_a_comparison_refuses(batches):
    assert [len(part.images) for part in batches] == [1, 7, 256, 3]
    assert batches[3].images.shape == (3, 40, 40, 3)

    def answering(**changes):
        part = batches[1]
        return lambda images: {name: value for name, value in {**part.answers, **changes}.items() if value is not None}

    good = batches[1].answers
    for changes, words in (
        ({"features": None}, "no output 'features'"),
        ({"logits": good["logits"].astype(np.float64)}, r"logits is float64 \(7, 8\) and should be float32"),
        ({"probabilities": good["probabilities"][:, :7]}, r"probabilities is float32 \(7, 7\)"),
        ({"experts_cnn": good["experts_cnn"] + 4}, "names experts that do not exist"),
        ({"features": good["features"] * 1.001}, "features by 0.001"),
        ({"probabilities": good["probabilities"] * np.float32("nan")}, "probabilities by nan"),
    ):
        with pytest.raises(artifact.ArtifactError, match=words):
            compare.check("x", answering(**changes), batches[1:2])
    assert compare.check("x", answering(), batches[1:2])["largest_difference"]["probabilities"] == 0
