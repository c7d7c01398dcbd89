"""`data prepare --faces`: faces are cut out once, pictures without one kept whole and listed, crops left alone."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines import prepare as prepare_module
from data_pipelines import splits
from data_pipelines.builders.folder import Folder
from data_pipelines.common.errors import DataError
from data_pipelines.faces.crop import Faces
from data_pipelines.labels import EMOTIONS
from data_pipelines.prepare import describe, prepare
from data_pipelines.synthetic import draw, sample_factors

FRONTAL = [
    i for i in range(60)
    if abs(sample_factors(3, i).yaw) < 8 and sample_factors(3, i).covering == "none"
][:6]  # fmt: skip


def photograph(number: int) -> Image.Image:
    """A drawn face of 160 pixels, off the middle of a larger picture."""
    whole = np.full((300, 400, 3), 128, np.uint8)
    whole[70:230, 200:360] = draw(dataclasses.replace(sample_factors(3, number), roll=0.0), 160)
    return Image.fromarray(whole)


@pytest.fixture
def source(tmp_path: Path) -> str:
    folder = tmp_path / "photographs" / "train" / "happy"
    folder.mkdir(parents=True)
    for number in FRONTAL:
        photograph(number).save(folder / f"{number:02}.png")
    Image.new("RGB", (400, 300), (10, 90, 40)).save(folder / "nobody.png")
    return str(tmp_path / "photographs")


def middle(split: splits.Split, position: int) -> np.ndarray:
    return split.load(np.array([position]))["image"][0].astype(float)


def test_faces_are_cut_out_and_pictures_without_one_kept_whole(source: str, tmp_path: Path) -> None:
    report = prepare("folder", source, data_dir=str(tmp_path / "data"), side=96, faces=Faces("haar"))
    faces = report["faces"]
    assert faces["whole"] == ["train/happy/nobody.png"] and faces["found"] == len(FRONTAL)
    assert faces["detector"] == "haar, published margins, 96 px"
    assert "1 picture without one kept whole\n  train/happy/nobody.png" in describe(report)
    split = splits.open_split("folder", "train", EMOTIONS, data_dir=str(tmp_path / "data"))
    assert split.shape == (96, 96, 3) and len(split) == len(FRONTAL) + 1
    for position in range(len(FRONTAL)):  # whole, the face would be a sixth of the picture, on flat grey
        picture = middle(split, position)
        assert np.mean(np.abs(picture - 128).max(axis=-1) < 3) < 0.35
    whole = middle(split, len(FRONTAL))
    assert np.ptp(whole, axis=(0, 1)).max() == 0


def test_the_form_belongs_to_the_data_set(source: str, tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    prepare("folder", source, data_dir=data, side=96, faces=Faces("haar"))
    assert prepare("folder", source, data_dir=data, side=96, faces=Faces("haar"))["already_prepared"]
    with pytest.raises(prepare_module.DataError, match=r"another form \(--size 96, faces: haar, published.*eyes level"):
        prepare("folder", source, data_dir=data, side=96, faces=Faces("haar", align=True))


def test_crops_are_not_cropped_again_unless_asked(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Folder.plan
    monkeypatch.setattr(Folder, "plan", lambda self, found: dataclasses.replace(plan(self, found), aligned=True))
    report = prepare("folder", source, data_dir=str(tmp_path / "a"), side=96, faces=Faces("haar"))
    assert report["faces"] == {} and any("--recrop does it" in note for note in report["notes"])
    report = prepare("folder", source, data_dir=str(tmp_path / "b"), side=96, faces=Faces("haar", recrop=True))
    assert report["faces"]["found"] == len(FRONTAL)


@pytest.mark.parametrize(
    ("faces", "side", "why"),
    [
        (Faces("mtcnn"), 0, "no face detector 'mtcnn'; known: haar, yunet, blazeface"),
        (Faces("yunet"), 0, "yunet needs a model file"),
        (Faces("yunet", "nowhere.onnx"), 0, "nowhere.onnx"),
        (None, 4, "--size 4: pictures are stored with 8 to 512 pixels a side"),
    ],
)
def test_mistakes(faces: Faces | None, side: int, why: str, source: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=why):
        prepare("folder", source, data_dir=str(tmp_path / "data"), side=side, faces=faces)
    assert not (tmp_path / "data").exists()
