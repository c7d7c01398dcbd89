"""`audit` counts what the fixtures hold, by hand, wherever the pictures lie."""

import io
import json
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipelines.audit import audit
from data_pipelines.audit import findings as audit_findings
from data_pipelines.audit import page as audit_page
from data_pipelines.builders import builder_class
from data_pipelines.common.errors import DataError, UsageError
from data_pipelines.prepare import prepare
from data_pipelines.sources import open_source
from tests.disk import write

NO_CLASSES = dict.fromkeys(("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"), 0)


def noise(seed: int, shape: tuple[int, ...] = (48, 48)) -> np.ndarray:
    """No two of these are alike; coarse enough to be seen when it is reduced."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, *shape[2:]), dtype=np.uint8))
    return np.asarray(coarse.resize(shape[1::-1], Image.Resampling.BICUBIC))


def encode(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


GREY_IN_COLOUR = np.repeat(noise(8)[..., None], 3, 2)
NEARLY_FLAT = np.where(np.arange(48) < 24, 100, 102).astype(np.uint8) * np.ones((48, 1), np.uint8)

#: Every finding once or a few times.
FILES = {
    "train/happy/Training_1.png": encode(noise(1)),
    "train/happy/Training_2.bmp": encode(noise(1), "BMP"),
    "train/sad/Training_3.tif": encode(noise(1), "TIFF"),
    "test/happy/PublicTest_4.png": encode(noise(1)),
    "train/fear/Training_5.png": encode(noise(2)),
    "test/fear/PublicTest_6.jpg": encode(noise(2), "JPEG", quality=50),
    "train/angry/Training_7.png": encode(np.zeros((48, 48), np.uint8)),
    "train/angry/Training_8.png": encode(NEARLY_FLAT),
    "train/neutral/Training_9.jpg": encode(noise(3), "JPEG")[:-200],
    "train/neutral/Training_10.png": encode(noise(4, (48, 48, 3))),
    "train/neutral/Training_11.png": encode(GREY_IN_COLOUR),
    "test/neutral/PublicTest_12.png": encode(noise(5, (40, 50))),
    "test/surprise/PublicTest_13.png": encode(noise(6)[:, ::-1]),
    "train/disgust/Training_14.png": encode(noise(6)),
    "train/disgust/Training_15.png": b"",
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return audit.audit(str(write(tmp_path_factory.mktemp("fer"), FILES)))


def names(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["name"].rpartition("/")[2] for entry in entries]


def test_what_was_looked_at(report: dict[str, Any]) -> None:
    assert (report["kind"], report["data_set"], report["layout"]) == ("path", "fer2013", "folders")
    assert report["all"]["pictures"] == 13
    train, test = report["splits"]["train"], report["splits"]["public_test"]
    assert train["classes"] == NO_CLASSES | {
        "happiness": 2, "sadness": 1, "fear": 1, "anger": 2, "neutral": 2, "disgust": 1
    }  # fmt: skip
    assert test["classes"] == NO_CLASSES | {"happiness": 1, "fear": 1, "neutral": 1, "surprise": 1}
    assert (train["grey"], train["colour"], train["colour_without_colour"]) == (7, 1, 1)
    assert (test["grey"], test["colour"], test["colour_without_colour"]) == (4, 0, 0)
    assert train["imbalance"] is None  # no picture of surprise
    assert json.loads(json.dumps(report)) == report


def test_exact_duplicates(report: dict[str, Any]) -> None:
    found = report["exact_duplicates"]
    assert (found["pictures"], found["total"], found["conflicting"], found["equal_files"]) == (3, 1, 1, 1)
    assert found["leaks"] == [{"split": "public_test", "like": "train", "pictures": 1}]
    (group,) = found["listed"]
    assert group["size"] == 4
    assert group["splits"] == {"train": 3, "public_test": 1}
    assert group["labels"] == {"happiness": 3, "sadness": 1}
    # one of each split and label first
    assert names(group["pictures"]) == ["Training_1.png", "Training_3.tif", "PublicTest_4.png", "Training_2.bmp"]


def test_near_and_mirrored_duplicates(report: dict[str, Any]) -> None:
    for finding, pair in (
        ("near_duplicates", ["Training_5.png", "PublicTest_6.jpg"]),
        ("mirrored", ["Training_14.png", "PublicTest_13.png"]),
    ):
        found = report[finding]
        assert (found["pictures"], found["total"]) == (1, 1)
        assert found["leaks"] == [{"split": "public_test", "like": "train", "pictures": 1}]
        assert names(found["listed"][0]["pictures"]) == pair
    assert report["near_duplicates"]["conflicting"] == 0
    assert report["mirrored"]["conflicting"] == 1


def test_findings_in_single_pictures(report: dict[str, Any]) -> None:
    assert names(report["blank"]["listed"]) == ["Training_7.png", "Training_8.png"]
    assert report["blank"]["of_one_level"] == 1
    assert names(report["colour_without_colour"]["listed"]) == ["Training_11.png"]
    (odd,) = report["odd_sizes"]["listed"]
    assert (odd["name"], odd["width"], odd["height"]) == ("test/neutral/PublicTest_12.png", 50, 40)
    assert report["sizes"]["most_common"] == [
        {"width": 48, "height": 48, "pictures": 12},
        {"width": 50, "height": 40, "pictures": 1},
    ]
    truncated, empty = report["unusable"]["listed"][::-1]
    assert truncated["path"].endswith("Training_9.jpg") and "cannot be decoded" in truncated["why"]
    assert empty["path"].endswith("Training_15.png") and "no JPEG" in empty["why"]


def test_a_colour_picture_is_blank_if_all_its_channels_are(tmp_path: Path) -> None:
    flat = np.full((48, 48, 3), (200, 30, 90), np.uint8)
    red_only = flat.copy()
    red_only[:24, :, 0] = 0
    files = {"train/sad/Training_1.png": encode(flat), "train/sad/Training_2.png": encode(red_only)}
    assert names(audit.audit(str(write(tmp_path, files)))["blank"]["listed"]) == ["Training_1.png"]


def test_without_a_common_size_none_is_odd(tmp_path: Path) -> None:
    sides = (40, 40, 48, 56)
    files = {f"train/sad/Training_{n}.png": encode(noise(n, (50, side))) for n, side in enumerate(sides)}
    report = audit.audit(str(write(tmp_path, files)))
    assert report["odd_sizes"]["total"] == 0
    assert [size["width"] for size in report["sizes"]["most_common"]] == [40, 48, 56]
    assert report["sizes"]["smallest"] == {"width": 40, "height": 50}
    assert report["sizes"]["largest"] == {"width": 56, "height": 50}


def test_mean_and_deviation_over_all_pixels(report: dict[str, Any]) -> None:
    """Against numpy, on pictures of different sizes; a grey one has three equal channels."""

    def pixels(start: str) -> np.ndarray:
        decoded = [
            np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float).reshape(-1, 3) / 255
            for name, data in FILES.items()
            if name.startswith(start) and not re.search("_(9|15)[.]", name)
        ]
        return np.concatenate(decoded)

    for part, start in ((report["splits"]["train"], "train"), (report["all"], "t")):
        expected = pixels(start)
        assert part["mean"] == pytest.approx(expected.mean(), abs=1e-6)
        assert part["deviation"] == pytest.approx(expected.std(), abs=1e-6)
        for place, channel in enumerate(part["channels"]):
            assert channel["mean"] == pytest.approx(expected[:, place].mean(), abs=1e-6)
            assert channel["deviation"] == pytest.approx(expected[:, place].std(), abs=1e-6)
        assert len(part["channels"]) == 3
    assert report["splits"]["public_test"]["mean"] == pytest.approx(pixels("test").mean(), abs=1e-6)
    assert len(report["splits"]["public_test"]["channels"]) == 1


def test_leaks_are_counted_for_each_pair_of_splits(tmp_path: Path) -> None:
    """A, B: in all three splits; C: twice in private; D: in public and, changed a little, in private."""
    a, b, c, d = (encode(noise(seed)) for seed in range(4))
    pictures = {"Training": [a, b, b], "PublicTest": [a, a, b, d], "PrivateTest": [a, b, b, b, c, c]}
    pictures["PrivateTest"].append(encode(noise(3), "JPEG", quality=60))
    folders = ("sad", "happy", "fear", "angry")
    files = {
        f"{'train' if usage == 'Training' else 'test'}/{folders[number % 4]}/{usage}_{number}.png": data
        for usage, group in pictures.items()
        for number, data in enumerate(group)
    }
    report = audit.audit(str(write(tmp_path, files)))
    leaks = {(leak["split"], leak["like"]): leak["pictures"] for leak in report["exact_duplicates"]["leaks"]}
    assert leaks == {
        ("public_test", "train"): 3, ("private_test", "train"): 4, ("private_test", "public_test"): 4
    }  # fmt: skip
    assert report["exact_duplicates"]["pictures"] == 14 - 5
    assert report["exact_duplicates"]["total"] == 3
    near = {(leak["split"], leak["like"]): leak["pictures"] for leak in report["near_duplicates"]["leaks"]}
    assert near == {key: int(key == ("private_test", "public_test")) for key in leaks}


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_and_a_prepared_data_set_give_the_same_findings(kind: str, tmp_path: Path) -> None:
    """The archive has its members in reverse; preparing brings pictures to one size, so the odd one stays away."""
    files = {name: data for name, data in FILES.items() if "_12." not in name}
    root = write(tmp_path / "fer", files)
    packed = tmp_path / f"fer.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(packed, "w") as archive:
            for name in reversed(files):
                archive.write(root / name, name)
    else:
        with tarfile.open(packed, "w") as tar:
            for name in reversed(files):
                tar.add(root / name, name)
    here = audit.audit(str(root))
    there = audit.audit(str(packed))
    assert here.pop("what") != there.pop("what")
    assert here == there
    prepare("fer2013", str(packed), data_dir=str(tmp_path / "data"))
    prepared = audit.audit("fer2013", data_dir=str(tmp_path / "data"))
    assert prepared["kind"] == "prepared" and "results on the same files" in prepared["protocol"]
    for key in ("splits", "near_duplicates", "mirrored", "blank", "sizes", "colour_without_colour", "unusable"):
        assert prepared[key] == here[key]
    exact = prepared["exact_duplicates"]
    # BMP and TIFF are stored as PNG, so that other files may be equal
    assert {**exact, "equal_files": 1} == here["exact_duplicates"]


def test_lists_are_cut_with_their_true_number_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_findings, "LISTED", 2)
    monkeypatch.setattr(audit_findings, "MEMBERS", 3)
    flat = {f"train/sad/Training_{n}.png": encode(np.full((48, 48), 10 * (n // 4), np.uint8)) for n in range(20)}
    report = audit.audit(str(write(tmp_path / "fer", flat)))
    assert (report["blank"]["total"], report["blank"]["cap"], len(report["blank"]["listed"])) == (20, 2, 2)
    exact = report["exact_duplicates"]
    assert (exact["pictures"], exact["total"], exact["cap"], len(exact["listed"])) == (15, 5, 2, 2)
    assert [(group["size"], len(group["pictures"])) for group in exact["listed"]] == [(4, 3), (4, 3)]
    audit_page.write(report, tmp_path / "page.html")
    text = re.sub("<[^>]*>", "", (tmp_path / "page.html").read_text())
    assert "(all 2 among the first 2 groups)" in text and "Shown: 2 of 20." in text


def test_text(report: dict[str, Any]) -> None:
    text = audit.describe(report)
    for line in (
        "exact duplicates: 3 in 1 group, 1 of them with different labels; 1 equal file",
        "  1 picture of public_test equal to one of train",
        "near duplicates: 1 in 1 group, 0 of them with different labels",
        "blank, with a standard deviation below 2 of 255: 2, 1 of them of one level",
        "  test/neutral/PublicTest_12.png (public_test, neutral, 50x40)",
        "unusable: 2",
        "sizes: 48x48 (12), 50x40 (1)",
    ):
        assert line in text.splitlines()
    assert "--html FILE" in text
    assert re.search(r"^  train +9 +2 +1 +1 +2 +2 +1 +0 +-$", text, re.MULTILINE)


def test_nothing_to_audit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file or folder, and no name of a data set; known names: fer2013"):
        audit.audit(str(tmp_path / "missing"))
    with pytest.raises(DataError, match=r"fer2013 is not prepared in .* run: expressnet data prepare fer2013"):
        audit.audit("fer2013", data_dir=str(tmp_path))
    with pytest.raises(UsageError, match="there is no data set 'fer2013/big'"):
        audit.audit("fer2013/big", data_dir=str(tmp_path))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.md").write_text("nothing")
    with pytest.raises(
        DataError, match=r"no builder recognises this: .*; fer2013: no FER-2013 recognised; rafdb: .* docs/data.md"
    ) as error:
        audit.audit(str(tmp_path / "empty"))
    assert "\n" not in str(error.value) and len(str(error.value)) < 400 + len(str(tmp_path))
    (tmp_path / "empty" / "readme.md").unlink()
    with pytest.raises(DataError, match=r"empty: there is no file in it; .* docs/data.md") as error:
        audit.audit(str(tmp_path / "empty"))
    assert len(str(error.value)) < 200 + len(str(tmp_path))
    root = write(tmp_path / "fer", {"train/sad/Training_1.png": b"x"})
    with pytest.raises(DataError, match=r"no usable picture among 1 \(the first: train/sad/Training_1.png: no JPEG"):
        audit.audit(str(root))


def test_a_name_beats_a_path_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write(tmp_path / "here", {"fer2013/train/sad/Training_1.png": encode(noise(1))}).parent / "here")
    with pytest.raises(DataError, match="fer2013 is not prepared"):
        audit.audit("fer2013", data_dir=str(tmp_path))
    for path in ("./fer2013", "fer2013/train/.."):
        assert audit.audit(path)["all"]["pictures"] == 1


def test_the_most_specific_builder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every builder that reads files is tried, those for one data set before the one for any."""
    classes = ("angry", "fear", "happy", "sad")
    root = write(tmp_path / "fer", {f"train/{name}/Training_1.png": encode(noise(1)) for name in classes})
    name, builder, plan = audit.recognise(open_source(root))
    assert (name, builder.name, plan.layout) == ("fer2013", "fer2013", "folders")
    tried: list[str] = []

    def refuse(self: Any, source: Any) -> None:
        tried.append(type(self).__name__)
        raise DataError("expected something else")

    expected = {name: builder_class(name) for name in audit.BUILDERS if builder_class(name).NEEDS_SOURCE}
    for cls in expected.values():
        monkeypatch.setattr(cls, "plan", refuse)
    with pytest.raises(DataError, match="fer2013: expected something else"):
        audit.recognise(open_source(root))
    assert sorted(tried) == sorted(cls.__name__ for cls in expected.values())
    assert tried.index("FerPlus") < tried.index("Fer2013") and tried[-1] == "Folder"


def test_folders_with_few_of_its_classes_are_no_data_set_of_fixed_classes(tmp_path: Path) -> None:
    for name in ("train/happy/a.png", "test/happy/b.png"):
        write(tmp_path, {name: encode(noise(1))})
        assert audit.recognise(open_source(str(tmp_path)))[0] == "folder"
    write(tmp_path, {f"train/{name}/c.png": encode(noise(2)) for name in ("angry", "fear", "sad")})
    assert audit.recognise(open_source(str(tmp_path)))[0] == "fer2013"
