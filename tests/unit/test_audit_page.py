"""The page of `audit` shows what was found, in one file that needs nothing else, and survives hostile names."""

import base64
import html.parser
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipelines.audit import audit
from data_pipelines.audit import page as audit_page
from data_pipelines.common.errors import DataError
from tests.disk import write
from tests.page_tree import Parser, rows, values
from tests.unit.test_audit import FILES, encode, noise

CLASSES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return audit.audit(str(write(tmp_path_factory.mktemp("fer"), FILES)))


class Page(html.parser.HTMLParser):
    """Tags, attributes and text of a page; unclosed and unexpected ends are errors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if self.open[-1:] != ["style"] else ""

    def images(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == "img"]


def test_page(report: dict[str, Any], tmp_path: Path) -> None:
    audit_page.write(report, tmp_path / "one.html")
    audit_page.write(report, tmp_path / "two.html")
    data = (tmp_path / "one.html").read_bytes()
    assert data == (tmp_path / "two.html").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.html", "two.html"]
    text = data.decode()
    page = Page(text)
    assert "prefers-color-scheme: dark" in text and "http://" not in text and "https://" not in text
    # 4 equal, 2 nearly equal, 2 mirrored, 2 blank, 1 odd, 1 without colour
    assert len(page.images()) == 12
    for image in page.images():
        assert image["alt"] and "_" in image["alt"]
        kind, _, encoded = str(image["src"]).partition(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
            assert max(picture.size) <= 96
    headings = [tag for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == "h1" and headings.count("h1") == 1 and {"h2", "h3"} < set(headings) | {"h1"}
    for part in ("Exact duplicates: 3", "Unusable: 2", "50x40", "pictures; read as fer2013, layout: "):
        assert part in page.text
    assert re.search("1 pictures? of public_test equal (to )?one of train", page.text)
    (policy,) = (str(tag["content"]) for _, tag in page.tags if tag.get("http-equiv") == "Content-Security-Policy")
    assert (
        "default-src 'none'" in policy and "script-src" not in policy and "script" not in [tag for tag, _ in page.tags]
    )


def test_numbers_of_the_page_are_the_report_s(report: dict[str, Any], tmp_path: Path) -> None:
    audit_page.write(report, tmp_path / "page.html")
    root = Parser((tmp_path / "page.html").read_bytes().decode("ascii")).root
    found, classes, pixels = (rows(root, key) for key in ("found", "classes", "pixels"))
    for row, key in zip(found, audit.TITLES, strict=True):
        kind = report[key]
        assert values(row["pictures"]) == [kind["pictures"] if key in audit.DUPLICATES else kind["total"]]
        groups = [kind["total"], kind["conflicting"]] if key in audit.DUPLICATES else []
        assert [x for title in ("groups", "labels differ") for x in values(row[title])] == groups
    for split, counted in report["splits"].items():
        assert [values(row[split]) for row in classes[: len(CLASSES)]] == [
            [count, count / counted["pictures"]] for count in counted["classes"].values()
        ]
        assert values(classes[-2][split]) == [counted["pictures"]] and classes[-2]["class"].text == "all"
        assert values(classes[-1][split]) == [counted["imbalance"]] * bool(counted["imbalance"])
    for part, measured in {**report["splits"], "all": report["all"]}.items():
        shown = {row["pixels, 0 to 1"].text: values(row[part]) for row in pixels}
        assert shown["mean"] == [measured["mean"]] and shown["standard deviation"] == [measured["deviation"]]
        assert shown["pictures in grey"][0] + shown["pictures in colour"][0] == measured["pictures"]
        assert shown.get("mean, green", []) == [one["mean"] for one in (measured["channels"] * 2)[1:2]] * (
            "mean, green" in shown
        )


def test_page_shows_the_right_pictures(report: dict[str, Any], tmp_path: Path) -> None:
    audit_page.write(report, tmp_path / "page.html")
    shown = {str(image["alt"]): str(image["src"]) for image in Page((tmp_path / "page.html").read_text()).images()}
    for name, data in FILES.items():
        for source in (source for alt, source in shown.items() if alt.startswith(f"{name}:")):
            with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as image:
                there = np.asarray(image.convert("RGB"), float)
            here = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float)
            assert there.shape == here.shape and abs(there - here).mean() < 6


HOSTILE = "train/sad/Training_<script>alert(1)<img src=x onerror=alert(2)>\"'&amp;\x1b[31m\u202etxt.png"


def test_hostile_names(tmp_path: Path) -> None:
    flat = encode(np.zeros((48, 48), np.uint8))
    files = {HOSTILE: flat, "train/happy/Training_2.png": flat, HOSTILE.replace("_", "_2"): b"broken"}
    report = audit.audit(str(write(tmp_path / "<b>fer", files)))
    assert report["exact_duplicates"]["listed"][0]["pictures"][1]["name"] == HOSTILE
    text = audit.describe(report)
    assert "\x1b" not in text and "\u202e" not in text and r"\x1b[31m\u202etxt.png" in text
    audit_page.write(report, tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    assert not {"script", "b"} & {tag for tag, _ in page.tags}
    assert all(set(image) == {"src", "alt"} and str(image["src"]).startswith("data:") for image in page.images())
    assert any("<script>alert(1)<img src=x onerror=alert(2)>\"'&amp;" in str(image["alt"]) for image in page.images())
    assert "<b>fer" in page.text and r"\x1b[31m" in page.text


def test_page_without_findings_and_with_pictures_that_are_gone(tmp_path: Path) -> None:
    root = write(tmp_path / "fer", {f"train/sad/Training_{n}.png": encode(noise(n)) for n in range(3)})
    audit_page.write(audit.audit(str(root)), tmp_path / "page.html")
    assert Page((tmp_path / "page.html").read_text()).images() == []
    again = write(root, {"train/sad/Training_3.png": encode(noise(1)), "train/sad/Training_4.png": encode(noise(1))})
    report = audit.audit(str(again))
    (root / "train/sad/Training_3.png").unlink()
    (root / "train/sad/Training_4.png").write_bytes(b"broken")
    audit_page.write(report, tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    assert len(page.images()) == 1
    assert page.text.count("gone") == 2


def test_page_stays_small(tmp_path: Path) -> None:
    """Forty groups of ten: some from all over the list are shown, the others are counted."""
    files = {f"train/{CLASSES[n % 7]}/Training_{n}_{k}.png": encode(noise(n)) for n in range(40) for k in range(10)}
    report = audit.audit(str(write(tmp_path / "fer", files)))
    assert report["exact_duplicates"]["pictures"] == 360
    audit_page.write(report, tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    assert "(12 of 40)" in page.text and page.text.count("and 4 more") == 12
    assert len(page.images()) == 12 * 6
    labels = {str(image["alt"]).split("/")[1] for image in page.images()}
    assert labels == set(CLASSES)


def test_page_that_cannot_be_written(report: dict[str, Any], tmp_path: Path) -> None:
    for path, why in ((tmp_path, "name a file"), (tmp_path / "missing" / "page.html", "no folder")):
        with pytest.raises(DataError, match=why):
            audit_page.write(report, path)
    page = tmp_path / "page.html"
    page.write_text("before")
    with pytest.raises(DataError, match="no file or folder"):
        audit_page.write({**report, "what": str(tmp_path / "gone")}, page)
    assert page.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
