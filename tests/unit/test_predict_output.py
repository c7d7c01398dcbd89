"""Results as lines, JSON, a table and drawn pictures: whole, harmless, and never over an input."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from data_pipelines.common.errors import DataError
from expressnet_jax.predict import output as predict_output
from expressnet_jax.predict import recognizer as predict
from expressnet_jax.predict.recognizer import Pictured, Prediction


def picture():
    return Image.new("RGB", (48, 48), (0, 0, 90))


def answered(path, classes=("happy", "sad"), **more):
    probabilities = dict(zip(classes, (0.75, 0.25), strict=True))
    experts = {"moe_cnn": (2, 0), "moe_expression": (1, 3)}
    first = Prediction(classes[0], probabilities, (5, 6, 70, 80), 0.875, experts)
    return Pictured(path, (first, dataclasses.replace(first, box=None, score=None)), **more)


class Told:
    """A model that says what it was told to."""

    def __init__(self, *results, classes=("happy", "sad")):
        self.results, self.classes = results, classes

    def answers(self, sources):
        yield from zip(sources, self.results, strict=True)


def table(tmp_path, *results, classes=("happy", "sad")):
    told = Told(*results, classes=classes)
    predict_output.run(told, [str(tmp_path / str(i)) for i in range(len(results))], csv_file=tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))


def test_the_table_has_a_row_for_each_face_and_each_failure(tmp_path):
    header, first, second, third, failed = table(
        tmp_path, answered("a,\n\"b\".jpg", note="a note"), answered("v.mp4", time=1.5), Pictured("x.jpg", (), "broken")
    )[:5]  # fmt: skip
    assert header == [
        "path", "time", "face", "left", "top", "width", "height", "score", "label", "probability",
        "probability_happy", "probability_sad", "experts_cnn", "experts_expression", "note", "error",
    ]  # fmt: skip
    assert first == [
        "a,\n\"b\".jpg", "", "0", "5", "6", "70", "80", "0.875", "happy", "0.7500000", "0.7500000", "0.2500000",
        "2 0", "1 3", "a note", "",
    ]  # fmt: skip
    assert second[2:8] == ["1", "", "", "", "", ""] and third[:2] == ["v.mp4", "1.5"]
    assert len(failed) == len(header)


def test_cells_that_would_be_formulas_are_quoted(tmp_path):
    names, classes = ["=1+2.jpg", "+x", "-x", "@x", "\tx", "plain=.jpg"], ("=cmd", "b")
    results = [answered(name, classes) for name in names]
    found = table(tmp_path, *results, Pictured("x", (), "=error"), classes=classes)
    assert [row[0] for row in found[1:-1:2]] == [f"'{name}" for name in names[:-1]] + names[-1:]
    assert found[1][8] == "'=cmd" and found[-1][-1] == "'=error"
    assert not any(cell.startswith(("=", "+", "-", "@", "\t")) for row in found for cell in row)
    (hidden,) = {row[0] for row in table(tmp_path, answered("a; =1+2;\uff20SUM.jpg"))[1:]}
    assert hidden == "a; '=1+2;'\uff20SUM.jpg"  # Excel parts lines at semicolons where the locale has a decimal comma


def test_a_table_is_whole_or_not_there(tmp_path):
    class Failing(Told):
        def answers(self, sources):
            yield next(iter(sources)), answered("a")
            raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        predict_output.run(Failing(), [str(tmp_path)], csv_file=tmp_path / "t.csv")
    assert list(tmp_path.iterdir()) == []
    picture().save(tmp_path / "a.png")
    with pytest.raises(DataError, match="one of the pictures"):
        predict_output.run(Told(), [str(tmp_path)], csv_file=tmp_path / "a.png")


def test_names_that_are_no_text_and_escapes_on_the_screen(tmp_path, capsys):
    name = "a\x1b[31m\udcff\nb.jpg"
    predict_output.run(Told(answered(name)), [str(tmp_path / name)])
    shown = capsys.readouterr().out
    assert "a\\x1b[31m\\udcff\\nb.jpg" in shown and "\x1b" not in shown
    assert table(tmp_path, answered(name))[1][0] == name


def test_drawn_copies_have_boxes_and_the_inputs_stay_as_they_are(tmp_path):
    inputs = tmp_path / "in"
    names = ["a.png", "sub/b.png", "c.webp", "sub/" + "n" * 250 + ".tif", "größe \u4e09.png"]
    for name in names:
        (inputs / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (300, 200), (0, 0, 90)).save(inputs / name)
    before = {path: path.read_bytes() for path in inputs.rglob("*") if path.is_file()}
    long = ("expression of " * 40, "\u60b2\u3057\u3044")
    results = [answered(name, long) for name in sorted(names)]
    told = Told(*results, classes=long)
    for _ in range(2):  # what an earlier run has drawn is replaced
        assert predict_output.run(told, [str(inputs)], draw=tmp_path / "out") == 0
    assert {path: path.read_bytes() for path in before} == before
    drawn = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert drawn == {"a.png", "sub/b.png", "c.webp.png", "sub/" + "n" * 250 + "..png", "größe \u4e09.png"}
    pixels = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert pixels.shape == (200, 300, 3)
    for x, y in ((5, 40), (74, 40), (40, 85)):
        assert tuple(pixels[y, x]) == predict_output.COLOUR
    assert tuple(pixels[50, 40]) == tuple(pixels[190, 290]) == (0, 0, 90)


def test_small_pictures_are_drawn_large_enough_to_read():
    one = Prediction("happiness", {"happiness": 1.0}, (8, 30, 20, 10), 1.0, {})
    drawn = np.asarray(predict_output.annotated(Image.new("L", (48, 48)), Pictured("", (one,))))
    assert drawn.shape == (192, 192, 3) and tuple(drawn[4 * 35, 4 * 8]) == predict_output.COLOUR


def test_nothing_is_drawn_over_what_is_there(tmp_path, capsys):
    inputs, out = tmp_path / "in", tmp_path / "out"
    inputs.mkdir(), out.mkdir()
    picture().save(inputs / "a.jpg")
    picture().save(out / "a.jpg")
    there = (out / "a.jpg").read_bytes()
    assert predict_output.run(Told(answered("a")), [str(inputs)], draw=out) == 0
    assert (out / "a.jpg").read_bytes() == there and "was not drawn by" in capsys.readouterr().err
    for among in (inputs, inputs / "drawn"):
        for paths in ([inputs], [inputs / "a.jpg", inputs]):
            with pytest.raises(DataError, match="folder of its own"):
                predict_output.run(Told(), list(map(str, paths)), draw=among)
    for path in (inputs / "a.jpg", inputs / "*.jpg"):
        with pytest.raises(DataError, match="folder of its own"):
            predict_output.run(Told(), [str(path)], draw=inputs)
    for pattern, refused in (("**/*.jpg", True), ("*", True), ("dr*/*.jpg", True), ("*.jpg", False)):
        if refused:
            with pytest.raises(DataError, match="folder of its own"):
                predict_output.run(Told(), [str(inputs / pattern)], draw=inputs / "drawn")
        else:
            assert predict_output.run(Told(answered("a")), [str(inputs / pattern)], draw=inputs / "drawn") == 0
    with pytest.raises(predict.PredictError, match="every 0"):
        predict_output.run(Told(), [], every=0)


def test_equal_names_from_two_folders_are_both_drawn(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        picture().save(tmp_path / folder / "a.jpg")
    predict_output.run(
        Told(answered("a"), answered("b")), [str(tmp_path / "x"), str(tmp_path / "y")], draw=tmp_path / "d"
    )
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["a-2.jpg", "a.jpg"]


def test_the_json_document_grows_as_pictures_are_answered(tmp_path):
    stream = io.StringIO()

    class Slow(Told):
        def answers(self, sources):
            for number, pair in enumerate(zip(sources, self.results, strict=True)):
                assert stream.getvalue().count('"path"') == number
                yield pair

    results = [answered("a", time=2.5), Pictured("b", (), "broken"), answered("c", note="a note")]
    assert predict_output.run(Slow(*results), ["x", "y", "z"], json=stream) == 0
    first, second, third = json.loads(stream.getvalue())
    assert first == {
        "path": "a", "time": 2.5, "faces": [
            {"box": box, "score": score, "label": "happy", "probabilities": {"happy": 0.75, "sad": 0.25},
             "experts": {"moe_cnn": [2, 0], "moe_expression": [1, 3]}}
            for box, score in (([5, 6, 70, 80], 0.875), (None, None))
        ],
    }  # fmt: skip
    assert second == {"path": "b", "error": "broken"} and third["note"] == "a note"
    stream = io.StringIO()
    assert predict_output.run(Told(), [], json=stream) == 1 and json.loads(stream.getvalue()) == []


def test_a_run_that_ends_early_leaves_a_document_that_can_be_read():
    class Stopped(Told):
        def answers(self, sources):
            yield next(iter(sources)), answered("a")
            raise KeyboardInterrupt

    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        predict_output.run(Stopped(), ["x"], json=stream)
    assert len(json.loads(stream.getvalue())) == 1
    stream = io.StringIO()
    assert predict_output.run(Stopped(), ["camera:0"], json=stream) == 0  # its only end
    assert len(json.loads(stream.getvalue())) == 1
