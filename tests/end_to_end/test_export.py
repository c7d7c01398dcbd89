"""Exports of a run: every graph, loaded by its own runtime, answers as the run's checkpoint is evaluated."""

import importlib.util
import io
import json
import math
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
import yaml
from flax import nnx
from PIL import Image
from safetensors.numpy import load_file

from data_pipelines import splits
from data_pipelines.common.errors import DataError
from expressnet_jax.checkpoint.manager import CheckpointError
from expressnet_jax.config import ConfigError
from expressnet_jax.config import files as config_files
from expressnet_jax.evaluation import of_run as report
from expressnet_jax.export import artifact, inspection, onnx_format, web
from expressnet_jax.export.from_run import export
from expressnet_jax.models import canonical, preprocess
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.runs import folder as run_folder
from expressnet_jax.runs import restore, state
from expressnet_jax.train import loop
from tests import browser
from tests.conftest import ROOT, TINY, environment
from tests.unit.test_web_page import package as stand_in

BATCHES = [(1, 32, 32), (7, 45, 20), (256, 32, 32)]
GRAPHS = {"stablehlo": "model.stablehlo", "onnx": "model.onnx"}
if importlib.util.find_spec("tensorflow"):  # the extra savedmodel
    GRAPHS["savedmodel"] = "saved_model"


@pytest.fixture(scope="module")
def run(tmp_path_factory, data_dir):
    """A short run with validation at step 2 and 4, its evaluation on the test split, and averaged weights."""
    workdir = tmp_path_factory.mktemp("runs") / "short"
    config = config_files.load(TINY, [("total", "4steps"), ("eval_every", "2steps"), ("save_every", "2steps"),
                                      ("optimizer.learning_rate", "0.02")])  # fmt: skip
    loop.train(config, workdir, data_dir=str(data_dir))
    report.evaluate_run(workdir, data_dir=str(data_dir))
    return workdir


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory, data_dir):
    out, package = tmp_path_factory.mktemp("artifacts") / "model", ROOT / web.PACKAGE
    with pytest.MonkeyPatch.context() as patch:
        if not package.exists():
            package, digest = stand_in(tmp_path_factory.mktemp("package"))
            patch.setattr(web, "INTEGRITY", digest)
        said = export(
            run, ["safetensors", *GRAPHS, "web"], out, calibrated=False, data_dir=str(data_dir), onnxruntime_web=package
        )
    return out, said


@pytest.fixture(scope="module")
def checkpoint(run):
    """The run's best weights by canonical name, and its answers: network and preprocessing as they are evaluated."""
    config = run_folder.read_config(run)
    restored, _ = restore.restore_best(config, run, meshes.for_evaluation(config))
    network = nnx.merge(state.graph(config), *state.weights(restored))

    @jax.jit
    def answer(images):
        output = network(preprocess.preprocess(images, config.model.image_size, config.preprocess))
        return {
            "probabilities": jax.nn.softmax(output.logits), "logits": output.logits,
            "features": jnp.concatenate([output.features["moe_cnn"], output.features["moe_expression"]], -1),
            "experts_cnn": output.routing["moe_cnn"].chosen,
            "experts_expression": output.routing["moe_expression"].chosen,
        }  # fmt: skip

    return canonical.to_canonical(network), answer


def runtime(out, name):
    """The graph as somebody without this project runs it."""
    path = out / GRAPHS[name]
    if name == "stablehlo":
        return jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)
    if name == "savedmodel":
        import tensorflow as tf

        loaded = tf.saved_model.load(str(path))
        return lambda images: loaded.signatures["serving_default"](images=tf.constant(images))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {"images": images}), strict=True))


def pictures(b, h, w, c=3):
    return np.random.default_rng(b).integers(0, 256, (b, h, w, c), np.uint8)


def agree(found, expected):
    assert set(found) == set(expected)
    for name in expected:
        value, wanted = np.asarray(found[name]), np.asarray(expected[name])
        assert value.shape == wanted.shape and value.dtype == wanted.dtype, name
        if name.startswith("experts"):
            assert np.array_equal(value, wanted), name
        else:
            np.testing.assert_allclose(value, wanted, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_answers_as_the_checkpoint_in_any_batch_and_size(exported, checkpoint, name):
    graph = runtime(exported[0], name)
    for shape in BATCHES:
        agree(graph(pictures(*shape)), checkpoint[1](pictures(*shape)))
    spread = np.asarray(checkpoint[1](pictures(*BATCHES[2]))["probabilities"]).std(0).max()
    assert spread > 1e-3  # or all of this would show nothing


@pytest.mark.parametrize(
    ("name", "package"), [("onnx", "onnxruntime"), ("savedmodel", "tensorflow"), ("stablehlo", "jax")]
)
def test_the_lines_on_the_card_run_without_this_package(
    exported, checkpoint, name, package, tmp_path, monkeypatch, capsys
):
    pytest.importorskip(package, reason=f"{package} is not installed")
    blocks = re.findall(r"(?ms)^```python\n(.*?)^```", (exported[0] / "README.md").read_text())
    assert len(blocks) == len(GRAPHS)
    (block,) = (block for block in blocks if GRAPHS[name] in block)
    for path in exported[0].iterdir():
        (tmp_path / path.name).symlink_to(path)
    (image,) = pictures(1, 45, 20)
    Image.fromarray(image).save(tmp_path / "face.jpg", "png")
    monkeypatch.chdir(tmp_path)
    for module in ("expressnet_jax", "data_pipelines"):
        monkeypatch.setitem(sys.modules, module, None)
    names = {}
    exec(compile(block, f"the card's lines for {name}", "exec"), names)
    height, width, channels = json.loads((exported[0] / "config.json").read_text())["stored"]
    assert channels == 3
    fitting = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    expected = checkpoint[1](fitting[None])["probabilities"]
    np.testing.assert_allclose(names["probabilities"], expected, atol=1e-5)
    assert names["classes"] == exported[1]["classes"] and f"'{names['classes'][0]}': " in capsys.readouterr().out


def test_the_cards_metadata_have_the_figures_of_the_evaluation(exported, run):
    (folder,) = (run / "evaluation").iterdir()
    evaluation = json.loads((folder / "summary.json").read_text())
    metadata = yaml.safe_load((exported[0] / "README.md").read_text().split("---\n")[1])
    (result,) = metadata["model-index"][0]["results"]
    assert result["dataset"] == {"type": "synthetic_faces/tiny", "name": "synthetic_faces/tiny", "split": "test"}
    assert {one["type"]: one["value"] for one in result["metrics"]} == {
        "accuracy": pytest.approx(evaluation["accuracy"], abs=1e-6),
        "f1": pytest.approx(evaluation["macro_f1"], abs=1e-6),
        "recall": pytest.approx(evaluation["mean_class_accuracy"], abs=1e-6),
    }


def test_a_grey_picture_three_times_is_what_training_made_of_it(exported, checkpoint):
    grey = pictures(16, 48, 48, 1)
    expected = checkpoint[1](grey)
    for name in GRAPHS:
        agree(runtime(exported[0], name)(np.repeat(grey, 3, -1)), expected)


def test_the_weights_come_back_and_answer_the_same(exported, checkpoint):
    out, said = exported
    found = artifact.read(out)
    weights, answer = checkpoint
    assert said["digest"] == found.meta["digest"] == canonical.digest(weights)
    assert all(np.array_equal(found.weights[name], weights[name]) for name in weights)
    again = jax.jit(lambda images: artifact.answer(found.config)(artifact.filled(found.config, found.weights), images))
    agree(again(pictures(8, 48, 48)), answer(pictures(8, 48, 48)))


def test_what_is_said_of_an_export(exported, run):
    out, said = exported
    assert json.loads(json.dumps(said)) == said
    files = {"README.md", "config.json", "model.safetensors", "web", *GRAPHS.values()}
    assert {path.name for path in out.iterdir()} == files
    assert said["step"] == json.loads((run / "summary.json").read_text())["best_step"] and said["weights"] == "ema"
    for found in said["compared"].values():
        assert found["batches"] == [1, 7, 256, 64] and found["largest_difference"]["probabilities"] <= 1e-5
    meta = json.loads((out / "config.json").read_text())
    assert meta["faces"] == "" and meta["real_pictures"] == 64 and meta["run"]["seed"] == 0
    assert {name for name in said["files"] if name.startswith("web/")} == {
        "web/index.html", "web/page.js", "web/model.onnx", *(f"web/onnxruntime/{name}" for name in web.FILES),
    }  # fmt: skip
    assert (out / "web" / "model.onnx").read_bytes() == (out / "model.onnx").read_bytes()
    here = [str(ROOT).encode(), str(run.parent).encode(), str(out.parent).encode()]
    for path in filter(Path.is_file, out.rglob("*")):
        assert not any(folder in path.read_bytes() for folder in here), f"{path.name} names a folder of this machine"


@pytest.mark.skipif(not browser.find(), reason="no Chromium on this machine")
@pytest.mark.skipif(not (ROOT / web.PACKAGE).exists(), reason=f"no {web.PACKAGE} in the repository's folder (npm pack)")
def test_a_page_answers_as_onnxruntime_does_and_asks_nobody_else(exported, tmp_path):
    out, files = exported[0], {}
    height, width, channels = artifact.read_meta(out)["stored"]
    for name, w, h in (("own", width, height), ("large", 301, 199), ("small", 20, 31), ("wide", 700, 50)):
        coarse = Image.fromarray(pictures(w, 6, 5)[0]).resize((w, h), Image.Resampling.BICUBIC)
        noise = np.random.default_rng(h).integers(-30, 30, (h, w, 3))
        stream = io.BytesIO()
        Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)).save(stream, "PNG")
        files[f"/given/{name}.png"] = stream.getvalue()
    given = [(name, drop, {}, (width, height), channels) for name, drop in (("own", 0), ("small", 1), ("large", 0))]
    grey = {"height": 37, "width": 24, "channels": 1}
    given += [("large", 0, grey, (24, 37), 1), ("wide", 1, {"height": 0, "width": 0, "channels": 3}, (512, 37), 3)]
    work = (
        Path(__file__)
        .with_name("work_the_page.js")
        .read_text()
        .replace("GIVEN", json.dumps([(f"{name}.png", drop, settings) for name, drop, settings, *_ in given]))
    )
    found, asked = browser.run(out / "web", work, files, tmp_path)
    assert "error" not in found, found
    graph, answers = runtime(out, "onnx"), []
    for (name, _, _, size, channels), answer, seen in zip(given, found["answers"], found["seen"], strict=True):
        picture = Image.open(io.BytesIO(files[f"/given/{name}.png"])).resize(size, Image.Resampling.BILINEAR)
        picture = picture.convert("L").convert("RGB") if channels == 1 else picture
        assert seen == [*size[::-1], *np.asarray(picture).ravel().tolist()], name
        answers.append(graph(np.asarray(picture)[None])["probabilities"][0])
        np.testing.assert_allclose(answer, answers[-1], atol=1e-5, err_msg=name)
    assert np.std(answers, 0).max() > 1e-3
    assert found["camera"] == "Stop the camera" and found["off"] == ["Use the camera", None]
    assert found["bad"] == "a.txt is no picture that this browser can read."
    there = {
        f"/tested/{path.relative_to(out / 'web').as_posix()}" for path in (out / "web").rglob("*") if path.is_file()
    }
    assert {address for address in asked if address.startswith("/tested/")} == there
    assert all("/tested/" in name and name.startswith("http://127.0.0.1:") for name in found["loaded"])
    assert [address for address in asked if "outside.test" in address] == ["http://outside.test/allowed"]


def test_the_card_has_the_facts_of_the_run(exported, run):
    card = (exported[0] / "README.md").read_text()
    (folder,) = (run / "evaluation").iterdir()
    evaluation = json.loads((folder / "summary.json").read_text())
    assert evaluation["step"] == exported[1]["step"]
    for name, row in evaluation["per_class"].items():
        assert f"| {name} | {row['precision']:.3f} | {row['recall']:.3f} | {row['f1']:.3f} | 8 |" in card
    assert "train: 160 pictures (anger 20, contempt 20" in card and "trained on 160 examples" in card
    assert "Drawn faces: compare only" in card and "perceived expression" in card and "Article 5(1)(f)" in card
    assert "no weights from elsewhere" in card and "these weights: unknown" in card


def test_probabilities_are_calibrated_by_the_temperature_that_an_evaluation_finds(tmp_path, data_dir):
    config = config_files.load(TINY, [  # one that learns its pictures by heart, and is far too sure
        ("total", "120steps"), ("eval_every", "120steps"), ("save_every", "120steps"), ("label_smoothing", "0"),
        ("augment.flip", "false"), ("augment.crop", "0"), ("augment.shift", "0"), ("augment.rotate", "0"),
        ("augment.brightness", "0"), ("augment.erase", "0"), ("augment.mixup", "0"),
        ("optimizer.learning_rate", "3e-3"), ("model.conv_dropout", "0"), ("model.dense_dropout", "0"),
    ])  # fmt: skip
    loop.train(config, tmp_path / "run", data_dir=str(data_dir))
    expected = report.evaluate_run(tmp_path / "run", data_dir=str(data_dir))[0]["depth"]["calibration"]
    before = export(tmp_path / "run", ["onnx"], tmp_path / "b", calibrated=False, data_dir=str(data_dir))
    said = export(tmp_path / "run", ["onnx"], tmp_path / "a", data_dir=str(data_dir))
    t = said["calibration"]["temperature"]
    assert t == pytest.approx(expected["temperature"], rel=1e-3) and abs(math.log(t)) > 0.1
    assert said["calibration"]["split"] == expected["fitted_on"] and said["calibration"]["examples"] == 64
    assert before["calibration"] is None and before["digest"] != said["digest"]
    scaled, before = (runtime(tmp_path / name, "onnx")(pictures(7, 45, 20)) for name in "ab")
    np.testing.assert_allclose(t * scaled["logits"], before["logits"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scaled["probabilities"], jax.nn.softmax(before["logits"] / t), atol=1e-5)
    assert f"temperature {t:.3g}" in (tmp_path / "a" / "README.md").read_text()


def test_raw_and_rounded_weights_without_the_data_set(run, tmp_path, checkpoint):
    said = export(run, ["safetensors"], tmp_path / "a", step=2, ema=False, dtype="bfloat16", data_dir=str(tmp_path))
    found = artifact.read(tmp_path / "a")
    config = run_folder.read_config(run)
    restored, _ = restore.restore_best(config, run, meshes.for_evaluation(config), step=2)
    raw = canonical.to_canonical(nnx.merge(state.graph(config), restored.params, restored.batch_stats))
    rounded = {name: np.asarray(jnp.asarray(value, jnp.bfloat16), np.float32) for name, value in raw.items()}
    assert said["digest"] == canonical.digest(rounded) != canonical.digest(raw) and said["weights"] == "raw"
    assert all(np.array_equal(found.weights[name], rounded[name]) for name in raw)
    assert all(value.dtype == jnp.bfloat16 for value in load_file(tmp_path / "a" / "model.safetensors").values())
    assert 1e-5 < said["rounding"] < 0.1 and said["real_pictures"] == 0
    card = (tmp_path / "a" / "README.md").read_text()
    assert "Validation of this checkpoint: unknown" in card and "Results by class: unknown" in card
    assert "layout, protocol and counts: unknown" in card and "Only random pictures were compared" in card
    assert found.meta["faces"] is None


@pytest.mark.parametrize(("precision", "largest"), [("float16", 0.01), ("int8", 0.5)])
def test_lower_precision_with_its_measured_loss(run, tmp_path, data_dir, precision, largest):
    said = export(run, ["onnx"], tmp_path / "a", quantize=precision, data_dir=str(data_dir))
    found = said["quantized"][f"model.{precision}.onnx"]
    assert 0 < found["mean_difference"] <= found["largest_difference"] < largest and found["pictures"] == 64
    validation = splits.open_split(
        "synthetic_faces/tiny", "validation", artifact.read(tmp_path / "a").classes, data_dir=str(data_dir)
    )
    batch = validation.load(np.arange(len(validation)))
    for file, key in (("model.onnx", "float32"), (f"model.{precision}.onnx", "quantized")):
        session = onnxruntime.InferenceSession(str(tmp_path / "a" / file), providers=["CPUExecutionProvider"])
        (answers,) = session.run(["probabilities"], {"images": batch["image"]})
        assert found["accuracy"][key] == pytest.approx((answers.argmax(-1) == batch["label"]).mean(), abs=0.02)
    assert "in float32" in (tmp_path / "a" / "README.md").read_text()


def test_a_graph_that_answers_differently_ends_the_export(run, tmp_path, monkeypatch):
    load = onnx_format.load

    def wrong(path):
        run = load(path)
        return lambda images: {k: v + 3e-4 if k == "probabilities" else v for k, v in run(images).items()}

    monkeypatch.setattr(onnx_format, "load", wrong)
    with pytest.raises(artifact.ArtifactError, match=r"onnx: answers .* probabilities by 0.0003 \(allowed: 1e-05\)"):
        export(run, ["onnx"], tmp_path / "a", data_dir=str(tmp_path / "none"))
    monkeypatch.setattr(onnx_format, "load", lambda path: lambda images: {
        k: v[:, ::-1] if k == "experts_cnn" else v for k, v in load(path)(images).items()
    })  # fmt: skip
    with pytest.raises(artifact.ArtifactError, match="onnx: experts_cnn differ for 1 of 1 picture; nothing was"):
        export(run, ["onnx"], tmp_path / "a", data_dir=str(tmp_path / "none"))
    assert list(tmp_path.iterdir()) == []


def test_weights_whose_answers_overflow_are_not_exported(run, tmp_path, data_dir, monkeypatch):
    read = inspection.read_run

    def huge(*arguments, **named):
        found = read(*arguments, **named)
        return found._replace(weights=found.weights | {"head/kernel": np.full_like(found.weights["head/kernel"], 3e38)})

    monkeypatch.setattr(inspection, "read_run", huge)
    with pytest.raises(artifact.ArtifactError, match=r"checkpoint 2 to \d+ of 64 examples .* are not finite"):
        export(run, ["onnx"], tmp_path / "a", data_dir=str(data_dir))
    assert list(tmp_path.iterdir()) == []


def test_only_an_artifact_is_replaced_and_only_when_asked(run, tmp_path):
    out = tmp_path / "a"
    out.mkdir()  # empty: nothing is lost
    first = export(run, ["safetensors"], out, step=2)
    with pytest.raises(DataError, match="add --overwrite"):
        export(run, ["safetensors"], out)
    second = export(run, ["safetensors"], out, step=4, overwrite=True)
    assert first["digest"] != second["digest"] == artifact.read(out).meta["digest"]
    for folder in (run, ROOT):
        with pytest.raises(DataError, match="is there already and is no artifact"):
            export(run, ["safetensors"], folder, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"formats": ["onnxx"]}, "--formats: no 'onnxx'; one of safetensors, stablehlo, onnx, savedmodel, web"),
        ({"dtype": "float16"}, "--dtype: no 'float16'; one of float32, bfloat16"),
        ({"quantize": "int4", "formats": ["onnx"]}, "--quantize: no 'int4'"),
        ({"quantize": "int8"}, "add onnx to --formats"),
        ({"formats": ["web"], "onnxruntime_web": Path("none.tgz")}, "no file none.tgz; `npm pack onnxruntime-web@"),
        ({"quantize": "int8", "formats": ["onnx"]}, "takes its ranges from the training pictures"),
    ],
)
def test_a_request_that_cannot_be_met(run, tmp_path, arguments, words):
    with pytest.raises((ConfigError, DataError), match=words):
        export(run, **{"formats": ["safetensors"], "out": tmp_path / "a", "data_dir": str(tmp_path), **arguments})
    with pytest.raises(CheckpointError, match="no checkpoint of step 3; it has 2, 4"):
        export(run, ["safetensors"], tmp_path / "a", step=3)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_export_leaves_no_artifact(run, tmp_path):
    code = "import sys; from pathlib import Path; from expressnet_jax.export.from_run import export; "
    code += "export(Path(sys.argv[1]), ['stablehlo'], Path(sys.argv[2]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(run), str(tmp_path / "a")],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    staged = tmp_path / ".a.part" / "artifact" / "model.safetensors"
    while not staged.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "a").exists()
    export(run, ["safetensors"], tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
