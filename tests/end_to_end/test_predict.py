"""`expressnet predict`, from pictures good and bad to what it prints, writes and draws."""

import csv
import io
import json
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from data_pipelines.synthetic import draw, sample_factors
from expressnet_jax.config import files as config_files
from expressnet_jax.predict import inputs as predict_inputs
from expressnet_jax.predict import output as predict_output
from expressnet_jax.predict import recognizer as predict
from tests.conftest import TINY, environment, expressnet
from tests.unit.test_predict import FRONTAL, photograph, write_artifact


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return write_artifact(tmp_path_factory.mktemp("artifact"), config_files.load(TINY, []))


@pytest.fixture(scope="module")
def model(artifact):
    return predict.load(artifact, batch_size=16)


def face(number=0, side=48):
    return Image.fromarray(draw(sample_factors(3, FRONTAL[number]), side))


def run(model, *paths, **options):
    """(exit code, what is in the JSON document)."""
    stream = io.StringIO()
    code = predict_output.run(model, list(map(str, paths)), json=stream, **options)
    return code, json.loads(stream.getvalue())


def bomb():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(10_000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def mixed_folder(folder):
    """Good and bad pictures; returns the names of both."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = face()
    image.save(folder / "good.png")
    image.convert("L").save(folder / "grey.jpg")
    image.convert("P").save(folder / "palette.png")
    image.convert("RGBA").save(folder / "alpha.webp")
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.rotate(90).save(folder / "turned.png", exif=exif)
    Image.new("RGB", (1, 1)).save(folder / "1x1.png")
    image.save(folder / "animated.png", save_all=True, append_images=[face(1)])
    (folder / "text.jpg").write_text("no picture")
    (folder / "truncated.png").write_bytes((folder / "good.png").read_bytes()[:500])
    (folder / "bomb.png").write_bytes(bomb())
    Image.fromarray(np.zeros((9, 9), np.float32)).save(folder / "floats.tif")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    good = {"good.png", "grey.jpg", "palette.png", "alpha.webp", "cmyk.jpg", "turned.png", "1x1.png", "animated.png"}
    return good, {"text.jpg", "truncated.png", "bomb.png", "floats.tif", "gone.jpg"}


def test_bad_pictures_are_one_line_each_and_the_others_are_answered(model, tmp_path):
    good, bad = mixed_folder(tmp_path)
    code, found = run(model, tmp_path, tmp_path / "not there")
    assert code == 0
    results = {entry["path"].rpartition("/")[2]: entry for entry in found}
    assert {name for name, entry in results.items() if "error" in entry} == {*bad, "not there"}
    assert {name for name, entry in results.items() if "faces" in entry} == good
    for name in bad:
        assert set(results[name]) == {"path", "error"} and "\n" not in results[name]["error"]
    same = results["good.png"]["faces"][0]["probabilities"]
    for name in ("turned.png", "animated.png", "alpha.webp"):
        assert results[name]["faces"][0]["probabilities"] == pytest.approx(
            same, abs=0.05 * name.endswith("webp") + 1e-5
        )
    assert "first" in results["animated.png"]["note"]
    (answer,) = results["good.png"]["faces"]
    assert set(answer) == {"box", "score", "label", "probabilities", "experts"} and answer["box"] is None
    assert answer["label"] == max(same, key=same.get) and sum(same.values()) == pytest.approx(1, abs=1e-5)


def test_a_picture_that_vanishes_after_it_was_listed(model, tmp_path, monkeypatch):
    face().save(tmp_path / "a.png")
    face().save(tmp_path / "b.png")
    listed = list(predict_inputs.find(tmp_path))
    monkeypatch.setattr(predict_inputs, "find", lambda _: listed)
    (tmp_path / "a.png").unlink()
    code, found = run(model, tmp_path)
    assert code == 0 and "any more" in found[0]["error"] and found[1]["faces"]


def test_where_nothing_can_be_answered_the_code_is_1(model, tmp_path, capsys):
    (tmp_path / "x.jpg").touch()
    assert run(model, tmp_path, "no*thing") == (
        1, [{"path": str(tmp_path / "x.jpg"), "error": run(model, tmp_path)[1][0]["error"]},
            {"path": "no*thing", "error": "no file matches this pattern"}],
    )  # fmt: skip
    assert predict_output.run(model, ["missing.jpg"]) == 1
    assert "missing.jpg  no answer: there is no such file" in capsys.readouterr().out


def test_the_command_answers_faces_frames_and_draws_them(artifact, tmp_path):
    cv2 = pytest.importorskip("cv2")
    (tmp_path / "photos").mkdir()
    crowd = photograph(FRONTAL[:4], 2)
    Image.fromarray(crowd).save(tmp_path / "photos" / "four.png")
    Image.new("RGB", (200, 200)).save(tmp_path / "photos" / "nobody.png")
    writer = cv2.VideoWriter(str(tmp_path / "photos" / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (320, 320))
    for _ in range(7):
        writer.write(crowd[..., ::-1])
    writer.release()
    done = expressnet(
        "predict", tmp_path / "photos", tmp_path / "missing.jpg", "--model", artifact, "--faces", "haar", "--every", 5,
        "--json", "--csv", tmp_path / "t.csv", "--draw", tmp_path / "drawn",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    four, nobody, first, second, missing = json.loads(done.stdout)
    assert len(four["faces"]) >= 3 and all(len(face["box"]) == 4 for face in four["faces"])
    assert nobody["error"] == "no face found" and "no such file" in missing["error"]
    assert (first["time"], second["time"]) == (0.0, 0.5) and len(first["faces"]) >= 3
    with (tmp_path / "t.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == sum(len(entry.get("faces", "-")) for entry in (four, nobody, first, second, missing))
    left, top, _, height = four["faces"][0]["box"]
    pixels = np.asarray(Image.open(tmp_path / "drawn" / "four.png"))
    assert tuple(pixels[top + height // 2, left]) == predict_output.COLOUR
    assert {path.name for path in (tmp_path / "drawn" / "v.avi").iterdir()} == {"000000.jpg", "000005.jpg"}
    assert "Traceback" not in done.stderr and "5 pictures" in done.stderr


def test_mistakes_of_a_command_are_one_line(artifact, tmp_path):
    face().save(tmp_path / "a.png")
    for arguments, code, said in (
        ([tmp_path / "a.png", "--model", tmp_path], 1, "config.json"),
        ([tmp_path / "a.png", "--model", artifact, "--faces", "eagle"], 2, "haar"),
        ([tmp_path / "a.png", "--model", artifact, "--batch", "0"], 2, "batch of 0"),
        ([tmp_path / "b.png", "--model", artifact], 1, "no such file"),
    ):
        done = expressnet("predict", *arguments)
        assert done.returncode == code and said in done.stderr + done.stdout, done.stderr
        assert "Traceback" not in done.stderr


def test_what_training_cut_out_and_prediction_cannot_is_said_in_one_line(tmp_path):
    artifact = write_artifact(tmp_path / "a", config_files.load(TINY, []), faces="yunet, published margins, 40 px")
    face().save(tmp_path / "a.png")
    done = expressnet("predict", tmp_path / "a.png", "--model", artifact)
    assert done.returncode == 0
    (answer,), (warning, summary) = done.stdout.splitlines(), done.stderr.splitlines()
    assert warning.startswith("expressnet: the network was trained on faces cut out by yunet") and "--faces" in warning
    assert "/a.png  " in answer
    assert summary.startswith("1 picture; 1 face: ")


def test_the_package_is_there_at_once_and_loads_when_asked(artifact):
    code = (
        "import sys, expressnet_jax; assert not {'jax', 'numpy', 'PIL'} & set(sys.modules); "
        "(only,) = expressnet_jax.load(sys.argv[1], batch_size=1).predict('missing.jpg'); print(only.error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(artifact)], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("there is no such file"), done.stderr
