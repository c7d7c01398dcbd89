"""The Python API: docs/python.md runs, its functions are those of the commands, and mistakes are one line."""

import inspect
import re
import subprocess
import sys

import ml_collections
import numpy as np
import pytest

import expressnet_jax
from data_pipelines.common.errors import Failure
from expressnet_jax import cli
from expressnet_jax.config import ConfigError
from tests.conftest import ROOT, TINY, environment

BLOCKS = re.findall(r"(?ms)^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text())


def test_the_page_does_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"docs/python.md, block {number + 1}", "exec"), names)
    used = set(re.findall(r"expressnet_jax\.(\w+)\(", "".join(BLOCKS)))
    assert used == {name for name in expressnet_jax.__all__ if not name.startswith("_")}
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "(8, 8)" and names["losses"][-1] < names["losses"][0] / 2
    assert said[2] == f"{names['summary']['best_step']} {names['summary']['validation']['accuracy']}"
    assert len(said) == 9 and len(set(said[5:])) == 1, said  # an array, a picture and two paths: the same answer
    answers = [one.predict(names["images"][0])[0].faces for one in (names["model"], names["same"])]
    assert answers[0] == answers[1]


def test_importing_the_subpackages_leaves_the_functions():
    code = (
        "import expressnet_jax; from expressnet_jax.train import loop; from expressnet_jax.export import from_run; "
        "import expressnet_jax.export.artifact; from expressnet_jax import train, export; "
        "print(*(callable(f) and f.__module__ for f in (train, export, expressnet_jax.train, expressnet_jax.export)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", code], env=environment(), capture_output=True, text=True
    )
    assert done.stdout.split() == ["expressnet_jax"] * 4, done.stderr


def test_every_argument_is_named_and_has_a_type():
    for name in expressnet_jax.__all__[1:]:
        function = getattr(expressnet_jax, name)
        assert "Raises:" in function.__doc__
        for parameter in inspect.signature(function).parameters.values():
            assert parameter.annotation is not inspect.Parameter.empty, (name, parameter)
            assert parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def test_the_commands_call_these_functions(tmp_path, monkeypatch):
    asked = {}

    def answer(name):
        def called(*arguments, **options):
            asked[name] = (arguments, options)
            raise ConfigError("enough")

        return called

    for name in ("train", "export", "load"):
        monkeypatch.setattr(expressnet_jax, name, answer(name))
    out = str(tmp_path / "a")
    assert cli.main(["train", "--config", TINY, "--workdir", out, "--track", "mlflow"]) == 2
    assert cli.main(["export", "--workdir", out, "--out", out, "--formats", "onnx", "--raw"]) == 2
    assert cli.main(["predict", "x.jpg", "--model", out, "--batch", "3"]) == 2
    assert asked["train"][1]["track"] == "mlflow" and asked["export"][1]["raw"] and asked["load"][1]["batch_size"] == 3


def test_every_form_of_a_config_is_the_same_config(tmp_path):
    tree = ml_collections.ConfigDict({"data": {"classes": ("a", "b")}, "moe": {"top_k": 3}})
    wanted = expressnet_jax.load_config("synthetic_faces:paper", {"data.classes": "a,b", "moe.top_k": "3"})
    for form in (tree, tree.to_dict(), {"data": tree.data, "moe": tree.moe}, ml_collections.FrozenConfigDict(tree)):
        found = expressnet_jax.load_config(form)
        assert found.moe == wanted.moe and found.data.classes == ("a", "b")
    file = tmp_path / "own.py"
    file.write_text((ROOT / "configs" / "synthetic_faces.py").read_text())
    assert expressnet_jax.load_config(file) == expressnet_jax.load_config("synthetic_faces")
    assert expressnet_jax.load_config(found, {"seed": 7, "model.preset": "small"}).model.preset == "small"


@pytest.mark.parametrize(
    ("config", "overrides", "said"),
    [
        ({"moe": {"topk": 1}}, {}, "unknown config key moe.topk; did you mean top_k?"),
        ({1: 2}, {}, "unknown config key 1"),
        ({"data": {"classes": ("a", "b")}}, {"batch_size": 2.5}, "batch_size=2.5 is not a whole number"),
        ({"data": {"classes": ("a", "b")}}, {"seed": np.int64(3)}, "is not a whole number"),
        ({"data": 3}, {}, "config key data is a section"),
        (
            ml_collections.ConfigDict({"seed": ml_collections.config_dict.required_placeholder(int)}),
            {},
            "seed has no value",
        ),
        (3, {}, "a int is no config"),
        ("nothing", {}, "no config 'nothing'"),
        ("synthetic_faces", {"moe.top_k": 9}, "moe.top_k=9 is more than moe.num_experts=4"),
    ],
)
def test_a_wrong_config_is_one_line(config, overrides, said):
    with pytest.raises(ConfigError) as caught:
        expressnet_jax.load_config(config, overrides)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_other_mistakes_are_one_line(tmp_path):
    for call, said in (
        (lambda: expressnet_jax.load("gs://bucket/model"), "path: gs:/"),
        (lambda: expressnet_jax.train("synthetic_faces", ""), "workdir: it is empty"),
        (lambda: expressnet_jax.evaluate(tmp_path / "none"), "no run in"),
        (lambda: expressnet_jax.export(tmp_path, tmp_path / "a", "onnx,onnxx"), "no 'onnxx'"),
        (lambda: expressnet_jax.train("synthetic_faces", tmp_path, track="x"), "track='x'; one of wandb, mlflow"),
        (lambda: expressnet_jax.create_model("synthetic_faces", seed=-1), "seed=-1"),
    ):
        with pytest.raises(Failure) as caught:
            call()
        assert said in str(caught.value) and "\n" not in str(caught.value)
