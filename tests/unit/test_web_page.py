"""The page for browsers, as a folder: what is in it, what it may load, names of strangers, its runtime's package."""

import base64
import hashlib
import io
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest

from expressnet_jax.config import ConfigError
from expressnet_jax.export import web
from tests import page_tree

META: dict[str, Any] = {
    "run": {"name": "a<b>", "data": {"name": "fer2013"}}, "config": {"model": {"image_size": 48}}, "step": 8,
    "classes": ['<img src="x">', "fear & awe", "\u00e9tonnement"], "stored": [48, 40, 1], "digest": "abc", "faces": "",
}  # fmt: skip


def package(folder: Path) -> tuple[Path, str]:
    """An archive as npm makes them, with more in it than a page needs, and its sha512."""
    path = folder / web.PACKAGE
    with tarfile.open(path, "w:gz") as archive:
        for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm", "ort.all.js", "../out.js"):
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    return path, base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def page(folder: Path, **changes: Any) -> str:
    (folder / "model.onnx").write_bytes(bytes(2_600_000))
    web.write(folder, META | changes, {"a.mjs": b"a", "b.wasm": b"b"}, "the network")
    return (folder / "index.html").read_text()


def test_a_page_loads_only_what_lies_beside_it(tmp_path: Path) -> None:
    text = page(tmp_path)
    root = page_tree.Parser(text).root
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"index.html", "page.js", "model.onnx", "onnxruntime/a.mjs", "onnxruntime/b.wasm"}
    (policy,) = [one.get("content") for one in root if one.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(maxsplit=1) for rule in policy.split(";"))
    assert rules == {
        "default-src": "'none'", "img-src": "data:", "style-src": "'unsafe-inline'", "base-uri": "'none'",
        "form-action": "'none'", "script-src": "'self' 'wasm-unsafe-eval'", "connect-src": "'self'",
    }  # fmt: skip
    places = {one.get(key) for one in root for key in ("src", "href", "srcset", "action")} - {""}
    assert places == {"page.js", "data:,", "#main"}
    script = (tmp_path / "page.js").read_text()
    assert re.findall(r'from "(.*)";', script) == [f"./onnxruntime/{web.FILES[0]}"] and '"model.onnx"' in script
    assert set(re.findall(r"(?:https?:|wss?:|)//\w+", text + script)) == {"http://localhost"}


def test_what_a_page_says(tmp_path: Path) -> None:
    root = page_tree.Parser(page(tmp_path)).root
    assert [one.text for one in root if one.get("class") == "class"] == META["classes"]
    assert [one.text for one in root.all("title", "h1")] == ["a<b>: facial expressions"] * 2 and not root.all("img")
    (app,) = [one for one in root if one.get("id") == "app"]
    data = {key: value for key, value in app.attributes.items() if key.startswith("data-")}
    assert data == {"data-height": "48", "data-width": "40", "data-channels": "1", "data-longest": "512"}
    text = " ".join(root.text.split())
    for words in (
        "Loading the network (3 MB).", "40 x 48 pixels in grey.", "taken whole from fer2013.", "no picture leaves",
        "One face, upright and cropped.", "the network at 48 pixels, step 8, digest abc.", "python -m http.server",
    ):  # fmt: skip
        assert words in text, words
    ids = {one.get("id") for one in root} - {""}
    script = (tmp_path / "page.js").read_text()
    (listed,) = re.findall(r"\[([^\]]*)\]\.map\(find\)", script)
    assert set(re.findall(r'find\("(\w+)"\)', script)) | set(re.findall(r'"(\w+)"', listed)) <= ids


@pytest.mark.parametrize(
    ("changes", "data", "words", "missing"),
    [
        ({"stored": None, "faces": None}, ("0", "0", "3"), "What the network sees.", "raining pictures"),
        (
            {"stored": [64, 64, 3], "faces": "haar, eyes level, 64 px"},
            ("64", "64", "3"),
            "cut out by haar, eyes",
            "grey",
        ),
    ],
)
def test_what_is_not_known_is_left_out(changes: Any, data: Any, words: str, missing: str, tmp_path: Path) -> None:
    root = page_tree.Parser(page(tmp_path, **changes)).root
    (app,) = [one for one in root if one.get("id") == "app"]
    assert tuple(app.get(f"data-{key}") for key in ("height", "width", "channels")) == data
    text = " ".join(root.text.split())
    assert words in text and missing not in text


def test_the_package_is_the_published_one_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, digest = package(tmp_path)
    monkeypatch.chdir(tmp_path)
    for given in (path, None):
        with pytest.raises(
            ConfigError, match=r"is not onnxruntime-web .* \(another sha512\); `npm pack onnxruntime-web@"
        ):
            web.runtime(given)
    for given in (tmp_path, tmp_path / "none.tgz"):
        with pytest.raises(ConfigError, match=r"no file .*; `npm pack onnxruntime-web@.* --onnxruntime_web"):
            web.runtime(given)
    monkeypatch.setattr(web, "INTEGRITY", digest)
    assert web.runtime(None) == web.runtime(path) == {name: name.encode() for name in web.FILES}
