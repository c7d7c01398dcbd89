"""The ground floor: text, tables, files and threads that both packages use."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from data_pipelines.common import files, tables, text, threads
from data_pipelines.common.errors import DataError


def test_counts_and_times_read_as_a_person_would_write_them():
    assert [text.counted(n, "picture") for n in (0, 1, 2000)] == ["0 pictures", "1 picture", "2,000 pictures"]
    assert text.counted(2, "class", "classes") == "2 classes"
    assert [text.span(s) for s in (0, 65, 3723.4)] == ["0:00", "1:05", "1:02:03"]


def test_long_names_are_cut_with_a_mark():
    assert text.shorten("surprise", 8) == "surprise"
    assert text.shorten("surprised", 8) == "surpris\u2026"


def test_a_strangers_text_cannot_steer_the_terminal():
    assert text.shown("a\x1b[31mb\nc") == "a\\x1b[31mb\\nc"
    assert len(text.shown("x" * 5000, text.LONG)) == text.LONG + 3
    assert text.one_line(ValueError("two\n  lines")) == "two lines"
    assert text.reason(ValueError("two\n  lines"), 5) == "two l" and text.reason(ValueError()) == "ValueError"
    skipped = [{"path": "a.png", "why": "empty"}, {"path": "b.png", "why": "cut"}]
    assert text.first_of(skipped) == " (the first: a.png: empty)" and text.first_of([]) == ""


def test_a_line_of_json_has_null_for_what_json_has_no_number_for():
    assert json.loads(text.json_line({"a": [float("nan"), (1.5, float("inf"))]})) == {"a": [None, [1.5, None]]}


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / ("n" * 255)
    files.write_text(path, "first")
    with pytest.raises(RuntimeError), files.replacing(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_and_not_what_it_leads_to(tmp_path: Path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("kept")
    link.symlink_to(target)
    files.write_text(link, "new")
    assert target.read_text() == "kept" and link.read_text() == "new" and not link.is_symlink()


def test_a_lock_is_held_against_another_process_and_gone_with_it(tmp_path: Path):
    path = tmp_path / ".lock"
    code = f"import fcntl, sys; f = open({str(path)!r}, 'w'); fcntl.flock(f, fcntl.LOCK_EX); "
    code += "print(1, flush=True); sys.stdin.read()"
    assert not files.is_locked(path)
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdout.readline()
        assert files.is_locked(path)
        with pytest.raises(OSError, match="busy"), files.locked(path, OSError("busy")):
            pass
        other.kill()
    with files.locked(path, OSError("busy")):
        assert not list(tmp_path.glob("*.part"))
    assert not files.is_locked(path)


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    new, old, aside = tmp_path / "new", tmp_path / "old", tmp_path / "aside"
    for folder in (new, old):
        folder.mkdir()
        (folder / "name").write_text(folder.name)
    rename = Path.rename
    monkeypatch.setattr(
        Path, "rename", lambda self, to: (_ for _ in ()).throw(OSError) if self == new else rename(self, to)
    )
    with pytest.raises(OSError):
        files.replace_folder(new, old, aside=aside)
    assert (old / "name").read_text() == "old"
    monkeypatch.undo()
    files.replace_folder(new, old, aside=aside)
    assert (old / "name").read_text() == "new" and (aside / "name").read_text() == "old"


@pytest.mark.parametrize("cell", ["=1", "+a", "-a", "@a", "\t=1", "\r=1", "\n=1", "a;=1", 'a; "=1', "\uff1d1"])
def test_no_cell_is_a_formula(cell, tmp_path: Path):
    with (tmp_path / "t.csv").open("w", newline="") as stream:
        tables.CsvWriter(stream).rows([["name", None, 1.5, "-2.5e3"], [cell, "", 2, "x"]])
    with (tmp_path / "t.csv").open(newline="") as stream:
        first, second = csv.reader(stream)
    assert first == ["name", "", "1.5", "-2.5e3"]
    assert "'" in second[0] and second[0].replace("'", "") == cell


def test_columns_are_aligned():
    assert tables.aligned([["a", "b"], ["long", "1"]]) == ["a     b", "long  1"]


def test_threads_keep_the_order_and_the_bound():
    under_way, most, lock = set(), 0, threading.Lock()

    def work(n: int) -> int:
        nonlocal most
        with lock:
            under_way.add(n)
            most = max(most, len(under_way))
        return n * n

    done = []
    for n, square in threads.ordered(work, range(50), workers=4, full=lambda waiting: len(waiting) > 5):
        with lock:
            under_way.discard(n)
        done.append((n, square))
    assert done == [(n, n * n) for n in range(50)]
    assert most <= 7  # five that wait, the one taken, and the one handed out


def test_an_error_in_a_thread_ends_the_work():
    def fail(n: int) -> int:
        if n == 3:
            raise ValueError("three")
        return n

    seen = []
    with pytest.raises(ValueError, match="three"):
        seen += [n for n, _ in threads.ordered(fail, iter(range(10)), workers=2)]


def test_json_that_cannot_be_read_is_one_line_with_the_path(tmp_path: Path):
    path = tmp_path / "a.json"
    with pytest.raises(FileNotFoundError):
        files.read_json(path)
    for content in (b"", b"{", b'"\xff"', b"[" * 100_000, b"9" * 5000):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.json cannot be read: .") as caught:
            files.read_json(path)
        assert "\n" not in str(caught.value)
    path.write_text("[1, 2]")
    assert files.read_json(path) == [1, 2]
    with pytest.raises(DataError, match="at most 5 bytes"):
        files.read_json(path, largest=5)
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path, tmp_path / "pipe"):  # a pipe would keep its reader waiting
        with pytest.raises(DataError, match="it is no file"):
            files.read_json(other)
    with pytest.raises(DataError, match=r"b\.json cannot be read: Not a directory$"):  # in words, without the number
        files.read_json(path / "b.json")


def test_a_file_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    old = tmp_path / "old"
    old.write_text("kept")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nowhere")
    for good in (old, tmp_path / "new", tmp_path / "dangling"):
        files.check_file("--csv", good)
    refused = {
        tmp_path: "is a folder; name a file", tmp_path / "pipe": "neither a file nor a folder",
        tmp_path / "no" / "x": "there is no folder", old / "x": "there is no folder",
        tmp_path / ("x" * 256): "256 bytes",
    }  # fmt: skip
    for path, words in refused.items():
        with pytest.raises(DataError, match=f"--csv {path}.*{words}"):
            files.check_file("--csv", path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the superuser may write nearly everywhere
    with pytest.raises(DataError, match=f"nothing can be written in {tmp_path}; allow it"):
        files.check_file("--csv", old)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "old", "pipe"]


def test_a_folder_that_cannot_be_made_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("kept")
    for good in (tmp_path, tmp_path / "new" / "newer", Path("new"), Path(".")):
        files.check_folder("--out", good)
    for bad in ("file", "file/new/newer"):
        with pytest.raises(DataError, match=f"^--out {bad}: {tmp_path}/file is no folder"):
            files.check_folder("--out", Path(bad))
    with pytest.raises(DataError, match="256 bytes are too long for a name"):
        files.check_folder("--out", Path("x" * 256, "run"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(DataError, match=f"^--out new: nothing can be written in {tmp_path};"):
        files.check_folder("--out", Path("new"))
    assert os.listdir() == ["file"]


@pytest.mark.parametrize("text", ["gs://b/x", "s3://b", "GS://b/x", "gs:/b/x", "file:///tmp", "https://a.b/c.zip"])
def test_an_address_is_no_path(text: str):
    assert text in files.elsewhere(text) and "mount the bucket" in files.elsewhere(text)


@pytest.mark.parametrize("text", ["", "x", "/a/b", "./gs:/b", "runs/gs://b", "camera:0", "fer2013:paper", "k=gs://b"])
def test_a_path_is_no_address(text: str):
    assert files.elsewhere(text) == ""


def test_an_error_of_the_system_is_told_in_words():
    error = OSError(21, "Is a directory", "x")
    assert text.reason(error) == "Is a directory: x" and text.reason(error, named=Path("x")) == "Is a directory"
    assert text.reason(OSError(28, "No space left")) == "No space left"
    assert text.reason(OSError("no\nspace")) == "no space" and text.reason(OSError()) == "OSError"


def test_the_first_few_of_some_things():
    assert text.some([]) == "" and text.some(["a"]) == "a" and text.some("abc", 3) == "a, b, c"
    assert text.some(list("abcd")) == "a and 3 more" and text.some(range(2000), 2, "; ") == "0; 1 and 1,998 more"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_rewrites_one_line_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    with text.Progress("training", 30, 10, unit="steps", own=True) as bar:
        bar.at(20, "step 20/30  loss 2.1  0:10 left")
        text.say("validation")
        text.show("a result")
    said = screen.getvalue()
    assert capsys.readouterr().out == "a result\n" and said.count("\n") == 1 and "\rvalidation\n" in said
    assert " 67 %|" in said and "| 0:10 left  step 20/30  loss 2.1" in said
    assert said.endswith("\r") and not said.split("\r")[-2].strip()  # nothing is left of it


def test_progress_is_a_line_now_and_then_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with text.Progress("training", 30, unit="steps", own=True) as bar:
        bar.at(20, "step 20/30  loss 2.1  0:10 left")
    assert capsys.readouterr().err == "step 20/30  loss 2.1  0:10 left\n"
    assert list(text.counting("abc", "short", 3, unit="cases")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""  # what is short says nothing
    monkeypatch.setattr(text, "EVERY", 0.05)
    with text.Progress("pictures of train", 2000, 500) as bar:
        bar.update(750)
        time.sleep(0.3)
    assert re.match(
        r"(pictures of train: 0:00 so far, 1,250 of 2,000 pictures, about 0:0\d left\n)+", capsys.readouterr().err
    )
    with text.Progress("compiling", unit=""):  # with nothing to count, the time goes on all the same
        time.sleep(0.3)
    assert re.fullmatch(r"(compiling: 0:00 so far\n)+", capsys.readouterr().err)
    with text.Progress("compiling", unit="", hidden=True):
        time.sleep(0.2)
    assert capsys.readouterr().err == ""


def test_work_goes_on_where_nobody_reads_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `2>&1 | head`, or with a terminal that is gone."""
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w", buffering=1) as screen, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", screen)
        for _ in range(2):
            text.say("a line")
        assert sys.stderr.name == os.devnull
        sys.stderr.close()
        with pytest.raises(BrokenPipeError):
            screen.write("a line\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), writes)  # what is left in its buffer can be written
