"""Runs beside the published figures: only what may be compared is called comparable."""

import numpy as np
import pytest

from data_pipelines.labels import EMOTIONS, SEVEN
from expressnet_jax.evaluation import metrics
from expressnet_jax.report import paper


def run(split, examples, classes=SEVEN, **more):
    c = len(classes)
    counts = np.full((c, c), 1) + np.diag(np.full(c, 3))
    evaluation = {"split": split, **metrics.summarize(counts, classes), "examples": examples, "chosen_on": False}
    return {"name": "r", "arm": None, "seed": 0, "evaluations": [evaluation | more]}


def test_the_published_figures_agree_with_each_other():
    for one in paper.PUBLISHED:
        assert len(one.per_class_f1) == one.classes and set(one.per_class_f1) <= set(EMOTIONS)
        mean = float(np.mean(list(one.per_class_f1.values())))
        assert mean == pytest.approx(one.macro_f1, abs=0.011)  # two digits each


@pytest.mark.parametrize(
    ("split", "examples", "classes", "comparable", "words"),
    [
        ("fer2013/test", 7178, SEVEN, True, "favours theirs"),
        ("fer2013/public_test+private_test", 7178, SEVEN, True, "favours theirs"),
        ("fer2013/private_test+public_test", 7178, SEVEN, True, "favours theirs"),
        ("fer2013/public_test", 3589, SEVEN, False, "theirs were 7,178"),
        ("fer2013/train (held out)", 7178, SEVEN, False, "other pictures"),
        ("rafdb/test", 3068, SEVEN, True, "favours theirs"),
        ("affectnet/train (held out)", 5635, EMOTIONS, True, "favours theirs"),
        ("affectnet/validation", 4000, EMOTIONS, False, "other pictures"),
    ],
)
def test_only_the_same_pictures_compare(split, examples, classes, comparable, words):
    (found,) = paper.against([run(split, examples, classes)])
    (row,) = found["rows"]
    assert row["comparable"] is comparable and words in row["why"]
    assert set(row["per_class_f1"]) == set(found["per_class_f1"])


def test_a_run_whose_epoch_was_chosen_on_the_test_says_so():
    (found,) = paper.against([run("fer2013/test", 7178, chosen_on=True)])
    assert "neither is an honest estimate" in found["rows"][0]["why"]
    (found,) = paper.against([run("fer2013/test", 7178, chosen_on=None)])
    assert "is not known" in found["rows"][0]["why"]


def test_other_data_and_other_numbers_of_classes_have_no_row():
    assert paper.against([run("ferplus/private_test", 3573)]) is None
    assert paper.against([run("rafdb/test", 3068, EMOTIONS)]) is None
    assert paper.against([]) is None
