"""`expressnet bench` through the command line: what it prints, and what it refuses."""

import functools
import json
import sys

import pytest

from expressnet_jax.bench import input as loader
from tests.conftest import TINY, expressnet


@pytest.fixture
def peer(tmp_path):
    """A script with a peer's manners."""
    path = tmp_path / "peer.py"
    path.write_text(
        "import sys\n"
        "assert sys.argv[sys.argv.index('--batch') + 1] == '16', sys.argv\n"
        "print('peer infer images/s 0.5')\n"
        "if '--no-train' not in sys.argv: print('peer train images/s 0.25')\n"
    )
    return path


@pytest.mark.parametrize(("what", "only"), [("step", ""), ("step", "backbone"), ("infer", "")])
def test_step_and_infer_say_speed_memory_and_arithmetic(what, only):
    extra = ["--only", only] if only else []
    done = expressnet("bench", what, f"--config={TINY}", "--repeats=3", "--json", *extra)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["step_ms"]["min"] <= found["step_ms"]["median"] <= found["step_ms"]["max"]
    assert found["images_per_second"] == pytest.approx(1e3 * 16 / found["step_ms"]["median"], rel=0.01)
    assert found["compile_seconds"] > 0 and found["peak_memory_bytes"] > 0 and found["flops_useful"] > 0
    assert found["only"] == (only or "everything")


@pytest.mark.parametrize(("what", "speed"), [("step", 0.25), ("infer", 0.5)])
def test_a_peer_runs_in_turn_and_each_pair_has_its_ratio(peer, what, speed):
    done = expressnet(
        "bench", what, f"--config={TINY}", "--repeats=1", "--json", "--pairs=2", "--against", f"{sys.executable} {peer}"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [pair["peer"] for pair in found["pairs"]] == [speed] * 2
    assert found["pairs"][0]["ratio"] == pytest.approx(found["pairs"][0]["ours"] / speed, rel=0.01)
    assert "pair 2:" in done.stderr


def test_conv_times_every_form_of_every_layer():
    done = expressnet("bench", "conv", f"--config={TINY}", "--repeats=1", "--json")
    assert done.returncode == 0, done.stderr
    layers = json.loads(done.stdout)["layers"]
    assert [row["layer"] for row in layers] == ["cnnfe1/conv1", "cnnfe1/conv2", "cnnfe2/conv1", "cnnfe2/conv2"]
    assert all(row[form]["training_ms"]["median"] > 0 for row in layers for form in ("direct", "fft", "dft"))


def test_input_measures_the_loader_alone(data_dir, monkeypatch):
    monkeypatch.setattr(loader, "measure", functools.partial(loader.measure, seconds=1.0))
    done = expressnet("bench", "input", f"--config={TINY}", "--json", "--data_dir", str(data_dir))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["images_per_second"] > 0 and found["picture"] == [48, 48, 3]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["conv", "--only", "backbone"], "go with step and infer"),
        (["step", "--repeats=0"], "--repeats=0 must be at least 1"),
        (["step", "--hosts=2"], "go with input, not with step"),
        (["step", "--against", " "], "names no command"),
        (["step", "--against", "a 'b"], "No closing quotation"),
        (["input", "--hosts=3"], "batch_size=16 is not divisible by --hosts=3"),
        (["step", "--against", "no_such_program"], "No such file"),
        (["step", "--against", f"{sys.executable} -c 1/0"], "the peer failed (exit code 1): ZeroDivisionError"),
    ],
)
def test_a_wrong_call_is_one_line(arguments, said):
    done = expressnet("bench", *arguments, f"--config={TINY}")
    assert done.returncode in (1, 2)
    assert said in done.stderr and "Traceback" not in done.stderr
