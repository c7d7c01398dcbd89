"""The reader of artifacts gives back what was written, and refuses all else in one line."""

import dataclasses
import hashlib
import json
import os

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from expressnet_jax.config import files as config_files
from expressnet_jax.config import to_dict
from expressnet_jax.export import artifact
from expressnet_jax.models import canonical, expressnet
from tests.conftest import TINY


@pytest.fixture(scope="module")
def config():
    return config_files.load(TINY)


@pytest.fixture(scope="module")
def weights(config):
    return canonical.to_canonical(expressnet.create(config, 3))


@pytest.fixture
def made(tmp_path, config, weights):
    """An artifact without graphs, written as the format's description says."""
    folder = tmp_path / "artifact"
    folder.mkdir()
    tree = json.loads(json.dumps(to_dict(config)))
    preprocessing = {**tree["preprocess"], "image_size": 32}
    about = {"classes": tree["data"]["classes"], **{key: tree[key] for key in ("preprocess", "model", "moe")}}
    save_file(weights, folder / "model.safetensors", {"format": "expressnet_jax", "about": json.dumps(about)})
    (folder / "model.onnx").write_bytes(b"a graph")
    meta = {
        "format": 1, "config": tree, "classes": tree["data"]["classes"], "preprocessing": preprocessing, "step": 8,
        "weights": "ema", "dtype": "float32", "digest": canonical.digest(weights), "run": {}, "faces": "",
        "files": {"model.onnx": "", "model.safetensors": ""}, "made_with": {},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(meta))
    sign(folder)
    return folder


def sign(folder):
    """Makes the checksums right for the files as they are."""
    edit(folder, lambda meta: meta["files"].update(
        {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in meta["files"]}
    ))  # fmt: skip


def edit(folder, change):
    meta = json.loads((folder / "config.json").read_text())
    change(meta)
    (folder / "config.json").write_text(json.dumps(meta))


def rewrite(folder, change):
    """Other weights, with everything that is computed from them made right."""
    path = folder / "model.safetensors"
    tensors, metadata = load_file(path), metadata_of(path)
    change(tensors)
    save_file(tensors, path, metadata)
    sign(folder)
    digest = canonical.digest({name: value.astype(np.float32) for name, value in tensors.items()})
    edit(folder, lambda meta: meta.update(digest=digest))


def metadata_of(path):
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


def test_everything_comes_back(made, config, weights):
    found = artifact.read(made)
    assert found.config == config and found.classes == config.data.classes and found.meta["step"] == 8
    assert found.weights.keys() == weights.keys()
    assert all(np.array_equal(found.weights[name], weights[name]) for name in weights)


def test_the_model_of_an_artifact_answers_as_the_network_that_was_stored(made, config, weights):
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 30, 3), np.uint8)
    network = expressnet.create(config, 0)
    canonical.from_canonical(network, weights)
    graph, _ = nnx.split(network)
    answer = jax.jit(lambda state: artifact.answer(config)(nnx.merge(graph, state), images))
    again = artifact.filled(config, artifact.read(made).weights)
    found, expected = (answer(nnx.state(model)) for model in (again, network))
    assert set(found) == {"probabilities", "logits", "features", "experts_cnn", "experts_expression"}
    assert all(np.array_equal(found[name], expected[name]) for name in found)
    assert found["features"].shape == (3, 32) and found["experts_cnn"].dtype == np.int32
    np.testing.assert_allclose(found["probabilities"].sum(-1), 1, atol=1e-6)


def test_the_backbone_has_no_experts(config):
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, network="backbone"))
    network = nnx.eval_shape(lambda: expressnet.create(config))
    grey = jax.ShapeDtypeStruct((2, 32, 32, 1), np.uint8)
    found = nnx.eval_shape(artifact.answer(config), network, grey)
    assert {name: value.shape for name, value in found.items()} == {
        "probabilities": (2, 8), "logits": (2, 8), "features": (2, 32),
    }  # fmt: skip
    assert set(artifact.outputs(config)) == set(found)


def test_bfloat16_weights_come_back_rounded(tmp_path, config, weights):
    path = tmp_path / "model.safetensors"
    artifact.write_weights(path, weights, "bfloat16", {"classes": []})
    found, dtype, about = artifact.read_weights(path)
    assert dtype == "bfloat16" and about == {"classes": []}
    assert path.stat().st_size < 0.6 * sum(value.nbytes for value in weights.values()) + 30_000
    kernel = weights["cnnfe1/dense/kernel"]
    bits = np.asarray(kernel).view(np.uint32).astype(np.uint64)  # round to the nearest 16 upper bits, ties to even
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1) >> 16 << 16).astype(np.uint32).view(np.float32)
    assert np.array_equal(found["cnnfe1/dense/kernel"], rounded)
    assert np.array_equal(artifact.rounded(weights, "bfloat16")["cnnfe1/dense/kernel"], rounded)


def drop(key, *path):
    def change(meta):
        for part in path:
            meta = meta[part]
        del meta[key]

    return lambda folder: edit(folder, change)


def put(value, *path):
    def change(meta):
        for part in path[:-1]:
            meta = meta[part]
        meta[path[-1]] = value

    return lambda folder: edit(folder, change)


def rename_class(folder):
    def change(meta):
        for names in (meta["classes"], meta["config"]["data"]["classes"]):
            names[names.index("anger")] = "rage"

    edit(folder, change)


def remove_class(folder):
    def change(meta):
        for names in (meta["classes"], meta["config"]["data"]["classes"]):
            names.remove("anger")

    edit(folder, change)


def resize(folder):
    put(48, "config", "model", "image_size")(folder)
    put(48, "preprocessing", "image_size")(folder)


def many_experts(folder):
    put(10**9, "config", "moe", "num_experts")(folder)
    path = folder / "model.safetensors"
    about = json.loads(metadata_of(path)["about"])
    about["moe"]["num_experts"] = 10**9
    save_file(load_file(path), path, {"format": "expressnet_jax", "about": json.dumps(about)})
    sign(folder)


def fifo(folder):
    (folder / "model.onnx").unlink()
    os.mkfifo(folder / "model.onnx")


def foreign(folder):
    save_file({"weight": np.ones((2, 2), np.float32)}, folder / "model.safetensors")
    sign(folder)


def nan(tensors):
    tensors["head/bias"] = tensors["head/bias"] * np.float32("nan")


def transpose(tensors):
    tensors["head/kernel"] = np.ascontiguousarray(tensors["head/kernel"].T)


BROKEN = {
    "a graph is missing": (lambda f: (f / "model.onnx").unlink(), "model.onnx is missing"),
    "the weights are missing": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "config.json is missing": (lambda f: (f / "config.json").unlink(), "it has no config.json"),
    "a changed file": (lambda f: (f / "model.onnx").write_bytes(b"a grapH"), "model.onnx is damaged or was changed"),
    "a pipe for a file": (fifo, "model.onnx is no file"),
    "a file elsewhere": (put("0" * 64, "files", "../elsewhere"), "'../elsewhere', which is no file of the artifact"),
    "an absolute file": (put("0" * 64, "files", "/etc/hostname"), "'/etc/hostname', which is no file of the artifact"),
    "no checksum of the weights": (drop("model.safetensors", "files"), "lists no model.safetensors"),
    "a class renamed": (rename_class, "classes is ['rage'"),
    "a class renamed in one place": (put(["rage", *"abcdefg"], "classes"), "classes is ['rage'"),
    "a class removed": (remove_class, "classes is ['contempt'"),
    "classes by number": (put(list(range(8)), "classes"), "classes is [0, 1"),
    "another size": (resize, "model.image_size is 48 where the artifact was made with 32"),
    "another size in one place": (put(48, "preprocessing", "image_size"), "preprocessing.image_size is 48 where"),
    "another colour order": (put("rgb", "config", "preprocess", "color_order"), "color_order"),
    "fewer experts chosen": (put(1, "config", "moe", "top_k"), "moe.top_k is 1 where the artifact was made with 2"),
    "an expert removed": (put(3, "config", "moe", "num_experts"), "moe.num_experts is 3 where"),
    "a value that no config takes": (put(-1, "config", "model", "image_size"), "model.image_size=-1 must be above 0"),
    "a value of another type": (put("32", "config", "model", "image_size"), "model.image_size='32' is not a whole"),
    "an unknown setting": (put(1, "config", "model", "depth"), "unknown config key model.depth"),
    "a setting that is not finite": (put(float("nan"), "config", "preprocess", "std"), "preprocess.std=nan"),
    "another digest": (put("0" * 64, "digest"), "its digest is not that of model.safetensors"),
    "another dtype": (put("bfloat16", "dtype"), "dtype is 'bfloat16' where the artifact was made with 'float32'"),
    "no step": (drop("step"), "'step' is missing, or no int"),
    "a step that is a text": (put("8", "step"), "'step' is missing, or no int"),
    "a later format": (put(2, "format"), "has format 2, this version reads format 1"),
    "a format that is a list": (put([1], "format"), "has format [1], this version"),
    "a run's own config": (lambda f: edit(f, lambda meta: meta.pop("format")), "has no format number"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
    "endless brackets": (lambda f: (f / "config.json").write_text("[" * 100_000), "cannot be read"),
    "bytes of nothing": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "cannot be read"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "has no format number"),
    "weights with NaN": (lambda f: rewrite(f, nan), "head/bias has values that are not finite"),
    "a transposed weight": (lambda f: rewrite(f, transpose), "shape of head/kernel: (8, 32), the network has (32, 8)"),
    "a missing weight": (lambda f: rewrite(f, lambda t: t.pop("head/bias")), "missing: head/bias (8,)"),
    "a weight too many": (lambda f: rewrite(f, lambda t: t.update(more=t["head/bias"])), "unknown: more (8,)"),
    "a thousand million experts": (many_experts, "tensors for a network of 1000000"),
    "weights of someone else": (foreign, "it was not written by `expressnet export`"),
    "weights in float64": (
        lambda f: rewrite(f, lambda t: t.update({name: value.astype(np.float64) for name, value in t.items()})),
        "its values are F64",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_wrong_is_said_in_one_line(made, what):
    artifact.read(made)
    damage, words = BROKEN[what]
    damage(made)
    with pytest.raises(artifact.ArtifactError) as caught:
        artifact.read(made)
    assert words in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_a_path_that_is_no_folder(made, tmp_path):
    for path in (tmp_path / "nothing", made / "model.onnx"):
        with pytest.raises(artifact.ArtifactError, match="it is no folder"):
            artifact.read(path)


def test_people_may_edit_the_model_card_and_add_files(made):
    before = artifact.read(made).meta
    (made / "README.md").write_text("my own words")
    (made / "notes.txt").write_text("...")
    assert artifact.read(made).meta == before


def mutated(rng, data):
    """Some bytes changed, cut out, doubled or put in."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at, length = int(rng.integers(len(data) + 1)), int(rng.integers(1, 9))
        how = rng.integers(4)
        if how == 0:
            data[at : at + length] = rng.bytes(length)
        elif how == 1:
            del data[at : at + length]
        elif how == 2:
            data[at:at] = data[at : at + length]
        else:
            data[at : at + 1] = bytes([b'0123456789"[]{},:-\x00\xff'[rng.integers(20)]])
    return bytes(data)


def test_ten_thousand_mutated_weight_files(tmp_path):
    path, rng = tmp_path / "x.safetensors", np.random.default_rng(0)
    artifact.write_weights(path, {"a/b": np.ones((2, 3), np.float32), "c": np.zeros(4, np.float32)}, "float32", {})
    whole, read = path.read_bytes(), 0
    for _ in range(10_000):
        path.write_bytes(mutated(rng, whole))
        try:
            found, _, _ = artifact.read_weights(path)
        except artifact.ArtifactError as error:
            assert "\n" not in str(error)
        else:
            read += 1
            assert all(value.dtype == np.float32 for value in found.values())
    assert 0 < read < 9_000


def test_a_thousand_mutated_configs(made):
    whole, rng, read = (made / "config.json").read_bytes(), np.random.default_rng(1), 0
    for _ in range(1_000):
        (made / "config.json").write_bytes(mutated(rng, whole))
        try:
            artifact.read(made)
        except artifact.ArtifactError as error:
            assert "\n" not in str(error)
        else:
            read += 1
    assert 0 < read < 900


def test_each_model_of_an_artifact_is_one_of_its_own(made):
    found = artifact.read(made)
    first, second = (artifact.filled(found.config, found.weights) for _ in range(2))
    first.head.bias[...] = first.head.bias[...] + 1
    assert not np.array_equal(first.head.bias[...], second.head.bias[...])
    assert isinstance(first, nnx.Module)
