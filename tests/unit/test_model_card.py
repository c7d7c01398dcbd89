"""The model card: every part that a run may have or lack, and one line for each text of a stranger."""

import pytest
import yaml

from expressnet_jax.config import files as config_files
from expressnet_jax.config import to_dict
from expressnet_jax.export import model_card
from tests.conftest import TINY

FIGURES = {"precision": 0.5, "recall": 0.25, "f1": 0.3333, "examples": 1000}
RUN = {
    "name": "a | b\nc", "seed": 0, "result": "finished", "steps": 8, "best_step": 8, "best_epoch": 2.5,
    "training_time": "1:02", "devices": "1 x cpu", "jax": "0.10", "training_examples": 160,
    "validation": {"accuracy": 0.5, "mean_class_accuracy": 0.25}, "started_from": {"weights": "w.h5"},
    "evaluations": [{
        "split": "faces/test", "accuracy": 0.5, "accuracy_interval": [0.4, 0.6], "mean_class_accuracy": 0.3,
        "macro_f1": 0.2, "examples": 2000, "per_class": {"an|ger": FIGURES},
    }],
    "data": {
        "name": "faces", "also": "more=1", "validation": "validation", "layout": "csv\nfile", "protocol": "public",
        "counts": {"train": {"anger": 2000, "fear": 3}, "test": {"anger": 1}}, "notes": ["one note"], "skipped": 1234,
    },
}  # fmt: skip
LESS = {
    **RUN, "steps": None, "training_examples": None, "validation": None, "evaluations": [], "started_from": {},
    "data": {"name": "faces", "also": "", "validation": "held out", "unknown": "not here"},
}  # fmt: skip
LOWER = {"largest_difference": 0.01234, "mean_difference": 0.001, "same_answer": 0.999, "pictures": 1, "accuracy": None}


def card(run, **more):
    meta = {
        "run": run, "config": to_dict(config_files.load(TINY)), "classes": ["anger", "fear"], "dtype": "float32",
        "weights": "ema", "step": 8, "digest": "abc", "compared": {}, "quantized": {}, "real_pictures": 1, "faces": "",
        "calibration": None, "stored": None,
    }  # fmt: skip
    return model_card.card({**meta, **more}, {"model.onnx": 1_234_567}, ("probabilities", "logits"))


@pytest.mark.parametrize(
    ("stored", "line"),
    [(None, '.convert("RGB"))[None]'), ([48, 40, 3], '.convert("RGB").resize((40, 48), Image.Resampling.BILINEAR))['),
     ([48, 40, 1],
      '.convert("RGB").resize((40, 48), Image.Resampling.BILINEAR).convert("L").convert("RGB"))[None]')],
)  # fmt: skip
def test_the_lines_bring_a_picture_to_what_the_training_pictures_were(stored, line):
    compared = {"pictures": 1, "batches": [1], "largest_difference": {"logits": 0.0}}
    text = card(RUN, stored=stored, compared={"onnx": compared})
    assert f'images = np.asarray(Image.open("face.jpg"){line}' in text
    assert ("stored in grey, at 40 x 48 pixels" in text) == (stored == [48, 40, 1])


def test_all_that_is_known_is_on_the_card():
    accuracy = {"examples": 1, "quantized": 0.5, "float32": 0.625}
    error = {"before": 0.0944, "after": 0.0061}
    text = card(
        RUN, dtype="bfloat16", rounding=0.00123, faces="haar, eyes level, 40 px",
        calibration={"temperature": 0.8181, "split": "a\nb", "examples": 2874, "ece": error},
        quantized={"model.int8.onnx": {**LOWER, "accuracy": accuracy}},
        compared={"onnx": {"pictures": 264, "batches": [1, 7, 256], "largest_difference": {"logits": 1.234e-6}}},
    )  # fmt: skip
    for part in (
        "# a / b c: facial expressions, ExpressNet-MoE\n", "Outputs by name: `probabilities`, `logits`.",
        "faces cut out by haar, eyes level, 40 px.\n", "| model.onnx | 1.2 MB |\n",
        "the temperature 0.818, at which 2,874 examples of a b are the likeliest; their calibration error falls from "
        "9.44 % to 0.61 %.\n",
        "on 264 pictures in batches of 1, 7, 256.",
        "logits 1.2e-06.\n",
        "the same class for 99.9 % of 1 picture; accuracy on 1 validation picture 50.00 % against 62.50 %",
        "Rounding the weights to bfloat16 changed probabilities by at most 0.0012;",
        "- data set: faces, and also more=1\n",
        "- layout: csv file\n", "- train: 2,003 pictures (anger 2,000, fear 3)\n- test: 1 picture (anger 1)\n",
        "as unusable: 1,234\n- note: one note\n- trained on 160 examples; validated on validation\n", "- time: 1:02\n",
        "which chose this checkpoint among those of the run: accuracy 0.5000, mean class accuracy 0.2500.\n",
        "faces/test, 2,000 examples: accuracy 50.00 % (95 % interval 40.00 to 60.00)",
        "| an/ger | 0.500 | 0.250 | 0.333 | 1,000 |\n", "training started from, weights: w.h5; licence: unknown",
    ):  # fmt: skip
        assert part in text, part
    assert "\n\n\n" not in text and text.endswith("without a face.\n")


@pytest.mark.parametrize("faces", ["", None])
def test_what_is_not_known_is_said_to_be_unknown(faces):
    said = "whole, as the data set has them" if faces == "" else "unknown, since the data set was not there"
    text = card(LESS, real_pictures=0, faces=faces, weights="raw", quantized={"model.float16.onnx": LOWER})
    for part in (
        f"training pictures were: {said}",
        "as trained (not averaged)", "Not calibrated", "Only random pictures were compared",
        "its loss of accuracy was not measured",
        "- layout, protocol and counts: unknown (not here)\n- trained on unknown examples; validated on held out\n",
        "- steps: unknown\n", "Validation of this checkpoint: unknown.\n", "Results by class: unknown;",
        "- no weights from elsewhere: training began from random ones\n",
    ):  # fmt: skip
        assert part in text, part
    assert "\n\n\n" not in text and "Rounding" not in text


def metadata(text):
    start, front, rest = text.split("---\n", 2)
    assert start == "" and rest.startswith("\n# ")
    return yaml.safe_load(front)


def test_the_metadata_are_what_hugging_face_reads():
    found = metadata(card(RUN, compared={"onnx": {"pictures": 1, "batches": [1], "largest_difference": {}}}))
    assert found["license"] == "unknown" and found["library_name"] == "expressnet_jax" and "onnx" in found["tags"]
    assert found["metrics"] == ["accuracy", "f1", "recall"]
    (model,) = found["model-index"]
    assert model["results"] == [{
        "task": {"type": "image-classification", "name": "facial-expression recognition"},
        "dataset": {"type": "faces", "name": "faces", "split": "test"},
        "metrics": [
            {"type": "accuracy", "name": "accuracy", "value": 0.5}, {"type": "f1", "name": "macro F1", "value": 0.2},
            {"type": "recall", "name": "mean class accuracy (macro recall)", "value": 0.3},
        ],
    }]  # fmt: skip


def test_the_metadata_have_no_figure_that_there_is_not():
    found = metadata(card(LESS))
    assert set(found) == {"license", "library_name", "pipeline_tag", "tags"} and "onnx" not in found["tags"]


@pytest.mark.parametrize(
    "name", ["a: b", "---", "x\n---\ny", "'", "\x1b[31m\x85\ud800", "!!python/name:os", "é", "- [", "1"]
)
def test_a_name_cannot_break_the_metadata(name):
    evaluation = {**RUN["evaluations"][0], "split": f"{name}/test"}
    found = metadata(card({**RUN, "name": name, "evaluations": [evaluation]}))
    assert found["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.5
    assert isinstance(found["model-index"][0]["name"], str)
