"""Digests of a checkpoint that came from elsewhere: nothing outside is looked at, and nothing is waited for."""

import errno
import json
import os

import pytest

from data_pipelines.common.errors import DataError
from expressnet_jax.checkpoint import digests


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "8"
    (folder / "record").mkdir(parents=True)
    (folder / "state").write_bytes(b"weights")
    digests.write(folder)
    return folder


def test_what_was_written_has_no_problem(checkpoint):
    assert json.loads((checkpoint / digests.FILE).read_text()).keys() == {"state"}
    assert digests.problem(checkpoint) == ""
    (checkpoint / "state").write_bytes(b"Weights")
    assert digests.problem(checkpoint).startswith("state is not what was written")


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "state/../../secret"])
def test_no_file_outside_is_read(checkpoint, name):
    (checkpoint.parent / "secret").write_text("x")
    (checkpoint / digests.FILE).write_text(json.dumps({name: "0"}))
    assert digests.problem(checkpoint).endswith("which is no file of a checkpoint")


def test_a_link_and_a_pipe_are_no_files(checkpoint):
    (checkpoint / "state").unlink()
    (checkpoint / "state").symlink_to("/etc/hostname")
    assert digests.problem(checkpoint).endswith("which is no file of a checkpoint")
    (checkpoint / "state").unlink()
    os.mkfifo(checkpoint / "state")
    assert digests.problem(checkpoint) == "state is no file"


@pytest.mark.parametrize("name", ["record/digests.json", "record/metadata", "state"])
def test_a_disk_that_does_not_answer_is_no_damage(checkpoint, monkeypatch, name):
    if name == "record/metadata":
        (checkpoint / "record" / "digests.json").unlink()
        (checkpoint / name).write_text("{}")
    path_open = type(checkpoint).open

    def opened(path, *arguments, **settings):
        if path == checkpoint / name:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return path_open(path, *arguments, **settings)

    monkeypatch.setattr(type(checkpoint), "open", opened)
    monkeypatch.setattr(type(checkpoint), "read_text", lambda path, **_: opened(path).read())
    with pytest.raises(DataError, match=r"Stale file handle.*which is no damage"):
        digests.problem(checkpoint)


def test_a_folder_that_became_a_file_is_damage(checkpoint):
    (checkpoint / "record" / "digests.json").write_text('{"state/weights": "0"}')
    assert digests.problem(checkpoint) == "state/weights is missing"


@pytest.mark.parametrize("content", ["[]", "{", '{"state": 3}', '{"state": null}'])
def test_digests_that_are_none_are_a_problem(checkpoint, content):
    (checkpoint / digests.FILE).write_text(content)
    assert digests.problem(checkpoint)
