"""What the commands are given to read and write: found in the parser itself, so that no new option is forgotten."""

import argparse
import os
from pathlib import Path

import pytest

from data_pipelines import prepare
from data_pipelines.common.errors import UsageError
from expressnet_jax import cli
from expressnet_jax.commands import common
from expressnet_jax.config import ConfigError
from expressnet_jax.config import files as config_files
from tests.conftest import TINY


def commands(parser, words=()):
    """(words, parser) of each command."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield list(words), parser
    for group in groups:
        for name, below in group.choices.items():
            yield from commands(below, [*words, name])


def arguments(*kinds):
    """[command, argument, kind] of all that take a value; of those with one of some types, where such are given."""
    found = []
    for words, parser in commands(cli.parser()):
        for action in parser._actions:
            if action.nargs != 0 and (not kinds or action.type in kinds):
                found.append([words, (*action.option_strings, "")[0], action])
    return found


ALL, PATHS = arguments(), arguments(common.path, common.local)
#: What takes a name or a pattern of ours beside a path, or only such a name, by its own rules; and commands.
OTHERS = {"--config", "--codes", "--study", "--against", "--sweep", "--baseline", "--split", "--data", "--formats",
          "--faces", "--topology", "--gpus", "paths", "name", "what"}  # fmt: skip


def one(argument, value):
    return [*argument[0], *([argument[1]] if argument[1] else []), value]


def named(argument):
    return "-".join([*argument[0], argument[1].lstrip("-") or argument[2].dest])


def test_the_parser_was_looked_through():
    options = {(*words, option) for words, option, _ in ALL}
    for known in ("train --workdir", "data prepare --from", "report --tables", "predict --draw", "plan --plot",
                  "data audit --html", "export --out", "ablate --list", "data audit "):  # fmt: skip
        assert tuple(known.split(" ")) in options


def test_every_text_is_a_path_or_known_to_be_none():
    free = {option or action.dest for _, option, action in ALL if action.type is None and not action.choices}
    assert free == OTHERS


@pytest.mark.parametrize("argument", ALL, ids=named)
@pytest.mark.parametrize("address", ["gs://bucket/x", "s3://bucket/x", "gs:/bucket/x"])
def test_an_address_is_refused_by_every_command(argument, address, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    calls = [one(argument, address)] + ([[*argument[0], f"{argument[1]}={address}"]] if argument[1] else [])
    for words in calls:
        assert cli.main(words) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"expressnet: {argument[1]} {address}".replace("  ", " ")), said
        assert "mount the bucket" in said and said.count("\n") == 1 and not os.listdir()


@pytest.mark.parametrize("argument", PATHS, ids=named)
@pytest.mark.parametrize(("value", "why"), [("", "it is empty"), ("a\udcff/b", "is not UTF-8")])
def test_a_path_that_no_library_takes_is_refused(argument, value, why, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(one(argument, value)) == 2
    said = capsys.readouterr().err
    assert why in said and said.count("\n") == 1 and not os.listdir()


@pytest.mark.parametrize("key", ["init.run", "init.weights", "init.backbone"])
def test_a_config_names_no_address_either(key, monkeypatch, capsys):
    with pytest.raises(ConfigError, match=f"{key}=gs://bucket/run is no path .* mount the bucket"):
        config_files.load(TINY, [(key, "gs://bucket/run")])
    with pytest.raises(ConfigError, match=f"{key}='.*' is not UTF-8"):
        config_files.load(TINY, [(key, "a\udcff")])
    assert cli.main(["train", f"--config={TINY}", f"--config.{key}=gs://bucket/run", "--workdir", "x"]) == 2
    assert f"--config.{key} gs://bucket/run" in capsys.readouterr().err


@pytest.mark.parametrize(("value", "why"), [("gs://bucket/data", "mount the bucket"), ("a\udcff", "is not UTF-8")])
def test_nor_does_the_variable_of_data_sets(value, why, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", value)
    for call in (lambda: prepare.prepare("synthetic_faces/tiny", None), lambda: prepare.read_info("fer2013")):
        with pytest.raises(UsageError, match=f"^TFDS_DATA_DIR=.*{why}"):
            call()
    assert not os.listdir()


#: Commands whose inputs are not there either: that an output is what they refuse shows that it is looked at first.
OUTPUTS = [
    ("train --config={tiny} --data_dir nowhere --workdir {}", "--workdir", "folder"),
    ("ablate --out {}", "--out", "folder"),
    ("export --workdir nowhere --out {}/a", "--out", "folder"),
    ("report nowhere --out p.html --tables {}", "--tables", "folder"),
    ("report nowhere --out {}", "--out", "file"),
    ("predict nowhere --model nowhere --draw {}", "--draw", "folder"),
    ("predict nowhere --model nowhere --csv {}", "--csv", "file"),
    ("plan --config nowhere --gpus h100:8 --plot {}", "--plot", "file"),
    ("data audit nowhere --html {}", "--html", "file"),
    ("data prepare fer2013 --from nowhere --data_dir {}", "--data_dir", "folder"),
]


@pytest.mark.parametrize(("command", "option", "kind"), OUTPUTS)
def test_an_output_that_cannot_be_written_is_refused_first(command, option, kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("kept")
    Path("folder").mkdir()
    for bad in ("file", "file/below") if kind == "folder" else ("folder", "file/below", "missing/below"):
        assert cli.main(command.format(bad, tiny=TINY).split()) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"expressnet: {option} ") and said.count("\n") == 1 and "folder" in said, said
    assert sorted(os.listdir()) == ["file", "folder"] and Path("file").read_text() == "kept"


def test_pairs_without_a_peer_are_refused(capsys):
    assert cli.main(["bench", "step", f"--config={TINY}", "--pairs", "2"]) == 2
    assert "--pairs goes with --against" in capsys.readouterr().err
    assert cli.main(["bench", "step", f"--config={TINY}", "--against", "x", "--pairs", "0"]) == 2
    assert "--pairs=0 must be at least 1" in capsys.readouterr().err
