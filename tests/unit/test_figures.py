"""The figures as files: real PNGs that follow their data and never lie half-written."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from expressnet_jax.evaluation.metrics import summarize
from expressnet_jax.figures.pictures import MAX_PICTURES, predictions_figure
from expressnet_jax.figures.plots import confusion_figure, training_figure


def pixels(path):
    """The picture's RGB values, once it is known to be a PNG that decodes whole and is worth looking at."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        width, height = picture.size
        assert 300 <= width <= 4000 and 200 <= height <= 8000
        values = np.asarray(picture.convert("RGB")).astype(int)
    assert values.std() > 5  # not blank
    return values


def has_colour(values, red, green, blue):
    return bool((np.abs(values - [red, green, blue]).sum(axis=-1) < 6).any())


def differ(one, other):
    return one.shape != other.shape or bool((one != other).any())


# Confusion matrices


def drawn_confusion(path, counts, names=None, title="test"):
    names = names or [f"class{i}" for i in range(len(counts))]
    confusion_figure(summarize(counts, names), path, title)
    return pixels(path)


@pytest.mark.parametrize("size", [1, 2, 8, 20])
def test_confusion_of_any_number_of_classes(tmp_path, size):
    drawn_confusion(tmp_path / "c.png", np.eye(size, dtype=int) * 10 + 1)


def test_confusion_follows_its_counts(tmp_path):
    one = drawn_confusion(tmp_path / "a.png", [[9, 1], [2, 8]])
    assert differ(one, drawn_confusion(tmp_path / "b.png", [[9, 1], [8, 2]]))
    assert not differ(one, drawn_confusion(tmp_path / "c.png", [[9, 1], [2, 8]]))


def test_confusion_is_shaded_by_row(tmp_path):
    """Ten times the examples of one class change its numbers, not its colour."""
    few = drawn_confusion(tmp_path / "few.png", [[5, 5], [0, 0]])
    many = drawn_confusion(tmp_path / "many.png", [[50, 50], [0, 0]])

    def shade(values):
        colours, counts = np.unique(values.reshape(-1, 3), axis=0, return_counts=True)
        blue = (colours[:, 2] > colours[:, 0] + 40) & (counts > 2000)
        return {tuple(colour) for colour in colours[blue]}

    assert shade(few) == shade(many) != set()


def test_confusion_greys_the_classes_without_examples(tmp_path):
    def grey(counts):
        return (drawn_confusion(tmp_path / "c.png", counts) == 0xDD).all(axis=-1).mean()

    assert grey([[1, 1], [0, 0]]) > 0.05 > 10 * grey([[1, 1], [1, 1]])


def test_names_and_titles_are_no_formulas(tmp_path):
    drawn_confusion(tmp_path / "c.png", np.eye(2, dtype=int), [r"$\nothing$", "a" * 100], r"$\frac$ " + "t" * 500)


# Grids of predictions

NAMES = ["anger", "happiness", "sadness"]


def grid(number=6, channels=3, height=48, width=48):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (number, height, width, channels), dtype=np.uint8)
    labels = np.arange(number) % 3
    return images, labels, np.eye(3)[labels] * 0.7 + 0.1


@pytest.mark.parametrize("shape", [(1, 1, 48, 48), (5, 3, 64, 40), (13, 1, 20, 60), (30, 3, 8, 8)])
def test_grid_of_pictures(tmp_path, shape):
    images, labels, probabilities = grid(*shape)
    predictions_figure(images, labels, labels, probabilities, NAMES, tmp_path / "p.png")
    pixels(tmp_path / "p.png")


def test_grid_follows_pictures_and_predictions(tmp_path):
    images, labels, probabilities = grid()
    variants = {
        "base": (images, labels, probabilities),
        "pictures": (255 - images, labels, probabilities),
        "predictions": (images, (labels + 1) % 3, probabilities),
        "probabilities": (images, labels, probabilities / 2),
    }
    drawn = {}
    for name, (pictures, predictions, chances) in variants.items():
        predictions_figure(pictures, labels, predictions, chances, NAMES, tmp_path / "p.png")
        drawn[name] = pixels(tmp_path / "p.png")
    assert all(differ(drawn["base"], other) for name, other in drawn.items() if name != "base")


def test_wrong_predictions_are_marked_by_colour_and_by_ink(tmp_path):
    images, labels, probabilities = grid()
    black = np.zeros_like(images)
    vermillion = (0xD5, 0x5E, 0x00)
    predictions_figure(black, labels, labels, probabilities, NAMES, tmp_path / "right.png")
    predictions_figure(black, labels, (labels + 1) % 3, probabilities, NAMES, tmp_path / "wrong.png")
    right, wrong = pixels(tmp_path / "right.png"), pixels(tmp_path / "wrong.png")
    assert has_colour(wrong, *vermillion) and not has_colour(right, *vermillion)
    # A reader who sees no colour still finds more ink: the thicker frame and the line with the true class.
    assert (wrong.sum(axis=-1) < 600).sum() > (right.sum(axis=-1) < 600).sum() * 1.02


def test_grey_pictures_look_like_their_rgb_copies(tmp_path):
    images, labels, probabilities = grid(channels=1)
    predictions_figure(images, labels, labels, probabilities, NAMES, tmp_path / "grey.png")
    predictions_figure(np.repeat(images, 3, 3), labels, labels, probabilities, NAMES, tmp_path / "rgb.png")
    assert (tmp_path / "grey.png").read_bytes() == (tmp_path / "rgb.png").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((6, 8, 8, 3), np.float32)}, r"uint8 .*float32 \(6, 8, 8, 3\)"),
        ({"images": np.zeros((6, 8, 8, 4), np.uint8)}, r"\(6, 8, 8, 4\)"),
        ({"images": np.zeros((0, 8, 8, 3), np.uint8)}, "0 pictures"),
        ({"images": np.zeros((MAX_PICTURES + 1, 8, 8, 3), np.uint8)}, f"{MAX_PICTURES + 1} pictures"),
        ({"labels": np.zeros(5, int)}, r"labels of shape \(5,\), expected \(6,\)"),
        ({"labels": np.full(6, -1)}, "labels from -1"),
        ({"predictions": np.full(6, 3)}, "predictions from 3 to 3, but there are 3 classes"),
        ({"probabilities": np.zeros((6, 2))}, r"\(6, 2\), expected \(6, 3\)"),
    ],
)
def test_grid_refuses_what_does_not_fit(tmp_path, change, message):
    images, labels, probabilities = grid()
    arguments = {"images": images, "labels": labels, "predictions": labels, "probabilities": probabilities} | change
    with pytest.raises(ValueError, match=message):
        predictions_figure(**arguments, classes=NAMES, path=tmp_path / "p.png")
    assert not list(tmp_path.iterdir())


# Curves


def train_record(step, **values):
    return {"kind": "train", "step": step, "epoch": step / 10, "loss": 2 / step, "accuracy": 1 - 1 / step} | values


def validation_record(step, **values):
    return {"kind": "validation", "step": step, "epoch": step / 10, "loss": 3.0, "accuracy": 0.4} | values


TRAIN = [train_record(step) for step in range(1, 31)]
VALIDATION = [validation_record(step, loss=2 - step / 20, accuracy=0.4 - abs(step - 20) / 100) for step in (10, 20, 30)]


def curves(path, records):
    training_figure(records, path)
    return pixels(path)


def drawn_axes(monkeypatch, path, records):
    """The two axes that a call draws, caught on their way to the file."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
    training_figure(records, path)
    return figures[0].axes


@pytest.mark.parametrize(
    "records",
    [[], TRAIN[:1], TRAIN, VALIDATION[:1], VALIDATION, TRAIN + VALIDATION, [train_record(s) for s in range(1, 500)]],
    ids=["none", "one step", "no evaluation yet", "one evaluation", "no training", "both", "long"],
)
def test_curves_of_any_run(tmp_path, records):
    curves(tmp_path / "c.png", records)


def test_curves_follow_their_records(tmp_path):
    base = curves(tmp_path / "a.png", TRAIN + VALIDATION)
    assert differ(base, curves(tmp_path / "b.png", TRAIN + VALIDATION[:2]))
    assert differ(base, curves(tmp_path / "b.png", TRAIN[:20] + VALIDATION))
    assert not differ(base, curves(tmp_path / "b.png", VALIDATION + TRAIN))


def test_best_epoch_is_that_of_the_highest_validation_accuracy(tmp_path, monkeypatch):
    axes = drawn_axes(monkeypatch, tmp_path / "c.png", TRAIN + VALIDATION)
    for panel, value in zip(axes, (1.0, 0.4), strict=True):
        (star,) = [line for line in panel.lines if line.get_marker() == "*"]
        assert star.get_xydata().tolist() == [[2.0, value]]


def test_of_a_step_recorded_twice_the_last_record_holds(tmp_path):
    stale = [train_record(step, loss=9.0) for step in range(20, 31)] + [validation_record(30, loss=0.0)]
    curves(tmp_path / "resumed.png", stale + TRAIN + VALIDATION)
    curves(tmp_path / "straight.png", TRAIN + VALIDATION)
    assert (tmp_path / "resumed.png").read_bytes() == (tmp_path / "straight.png").read_bytes()


def test_missing_and_infinite_values_are_left_out(tmp_path, monkeypatch):
    bad = [validation_record(40, accuracy=float("nan")), validation_record(50, loss=float("-inf"), accuracy=None)]
    more = [train_record(31, loss=None), train_record(32, loss=float("inf")), {"kind": "note", "text": "no step"}]
    loss, _ = drawn_axes(monkeypatch, tmp_path / "c.png", TRAIN + more + VALIDATION + bad)
    (star,) = [line for line in loss.lines if line.get_marker() == "*"]
    assert star.get_xydata().tolist() == [[2.0, 1.0]]
    pixels(tmp_path / "c.png")


# Files


def test_missing_folders_are_made_and_no_other_file_stays(tmp_path):
    curves(tmp_path / "a" / "b" / "c.png", TRAIN)
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["c.png"]


@pytest.mark.parametrize("existing", [True, False])
def test_a_write_that_fails_leaves_the_old_picture_or_none(tmp_path, monkeypatch, existing):
    path = tmp_path / "c.png"
    if existing:
        training_figure(TRAIN, path)
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}

    def full_disk(self, target, **options):
        target.write_bytes(b"\x89PNG half a pic")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full_disk)
    with pytest.raises(OSError, match="No space left"):
        training_figure(VALIDATION, path)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before


def test_pyplot_stays_out(tmp_path):
    """pyplot picks a display and keeps every figure alive: neither belongs in a training job."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom expressnet_jax.figures import charts, pictures, plots\n"
        f"plots.training_figure([], Path({str(tmp_path / 'c.png')!r}))\n"
        "assert charts.dots('d', [charts.Dots('arm', [0.5], None, None)])\n"
        "assert not {'matplotlib.pyplot', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
