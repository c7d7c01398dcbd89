"""What a user may get wrong: one line, the promised exit code, and nothing half-written."""

import errno
import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import TINY, environment, expressnet


def one_line(done, code, *words):
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("expressnet: ") and all(word in last for word in words), last
    assert not done.stdout


def test_no_data_names_the_command_and_where_to_ask(tmp_path):
    done = expressnet("train", "--config=fer2013_small", "--workdir", tmp_path / "run", "--data_dir", tmp_path)
    one_line(done, 1, "fer2013", "expressnet data prepare fer2013 --from", "Kaggle")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config=fer2013_smal"], ["fer2013_smal", "did you mean fer2013_small"]),
        (["--config=fer2013_small", "--config.moe.num_expert=8"], ["moe.num_expert", "did you mean moe.num_experts"]),
        (["--config=fer2013_small", "--config.batch_size=many"], ["batch_size", "many"]),
        (["--config=fer2013_small", "--config.seed"], ["--config.seed=VALUE"]),
        (["--config=fer2013_small", "--workdr=x"], ["--workdr=x", "did you mean --workdir"]),
        ([], ["--config"]),
    ],
)
def test_a_wrong_command_line(tmp_path, arguments, words):
    one_line(expressnet("train", *arguments, "--workdir", tmp_path / "run"), 2, *words)
    assert not (tmp_path / "run").exists()


def test_wrong_uses_of_the_other_commands(tmp_path, data_dir):
    one_line(expressnet("evaluate", "--workdir", tmp_path / "nothing"), 1, "no run in", "config.json")
    one_line(expressnet("inspect"), 2, "--config")
    one_line(expressnet("inspect", tmp_path, "--config.seed=1"), 2, "--config.KEY=VALUE")
    one_line(expressnet("evaluate", "--workdir", tmp_path, "--config.seed=1"), 2, "--config.seed")
    one_line(expressnet("fly"), 2, "fly", "train")
    one_line(expressnet("data", "prepare", "fer2031", "--data_dir", tmp_path), 2, "fer2013")
    one_line(expressnet("data", "prepare", "fer2013", "--data_dir", tmp_path), 2, "--from PATH", "Kaggle")
    one_line(
        expressnet("data", "prepare", "fer2013", "--data_dir", "gs://bucket/x"), 2, "--data_dir", "mount the bucket"
    )
    one_line(expressnet("data", "audit", "fer2013", "--data_dir", ""), 2, "--data_dir", "it is empty")
    one_line(expressnet("report", tmp_path, "--out", tmp_path), 1, "is a folder; name a file")
    one_line(expressnet("report", tmp_path / "x", "--out", tmp_path / "a.html"), 1, "no run in")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["train"], ["evaluate"], ["inspect"], ["data", "prepare"]])
def test_help_has_an_example(command):
    done = expressnet(*command, "--help")
    assert done.returncode == 0 and f"example: expressnet {' '.join(command)}" in " ".join(done.stdout.split())


def test_an_empty_or_unknown_split(tmp_path, data_dir):
    command = ["train", f"--config={TINY}", "--workdir", tmp_path / "run", "--data_dir", data_dir]
    one_line(expressnet(*command, "--config.data.train_split=trian"), 1, "trian", "train, validation, test")
    one_line(expressnet(*command, "--config.batch_size=5000"), 1, "fewer than batch_size=5000")
    one_line(
        expressnet(*command, "--config.data.classes=cat,dog"), 1, "fewer than two of them in data.classes (cat, dog)"
    )
    assert not (tmp_path / "run").exists()


def test_a_folder_that_belongs_to_something_else_is_left_alone(tmp_path, data_dir):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1.txt").write_text("do not touch")
    done = expressnet("train", f"--config={TINY}", "--workdir", folder, "--data_dir", data_dir)
    one_line(done, 1, "thesis", "--workdir")
    assert [p.name for p in folder.iterdir()] == ["chapter1.txt"]


def test_a_run_folder_of_another_config_is_refused_with_the_difference(tmp_path, data_dir):
    command = ["train", f"--config={TINY}", "--workdir", tmp_path / "run", "--data_dir", data_dir]
    assert expressnet(*command, "--config.total=2steps").returncode == 0
    before = (tmp_path / "run" / "config.json").read_text()
    done = expressnet(*command, "--config.total=2steps", "--config.moe.top_k=1")
    one_line(done, 1, "another config", "moe.top_k: 2 -> 1", "--workdir")
    assert (tmp_path / "run" / "config.json").read_text() == before
    same = expressnet(*command, "--config.total=2steps", "--config.log_every=1steps", "--json")
    assert same.returncode == 0 and json.loads(same.stdout)["result"].startswith("finished")


def test_a_damaged_checkpoint_is_one_line_and_the_run_goes_on(tmp_path, data_dir):
    command = ["train", f"--config={TINY}", "--workdir", tmp_path / "run", "--data_dir", data_dir]
    assert expressnet(*command, "--config.total=2steps").returncode == 0
    for path in (tmp_path / "run" / "checkpoints" / "2" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    evaluated = expressnet("evaluate", "--workdir", tmp_path / "run", "--data_dir", data_dir)
    one_line(evaluated, 1, "checkpoints/2 is damaged", "there is no other one")
    again = expressnet(*command, "--config.total=2steps")
    assert again.returncode == 0 and again.stderr.count("checkpoint 2 is damaged and was set aside") == 1


def test_what_is_in_the_way_of_an_evaluation_or_damaged_is_one_line(tmp_path, data_dir):
    run, data = tmp_path / "run", shutil.copytree(data_dir, tmp_path / "data")
    trained = expressnet("train", f"--config={TINY}", "--workdir", run, "--data_dir", data, "--config.total=2steps")
    assert trained.returncode == 0, trained.stderr
    (run / "evaluation").write_text("in the way")
    command = ["evaluate", "--workdir", run, "--data_dir", data]
    one_line(expressnet(*command), 1, "--workdir", "evaluation is no folder")
    assert (run / "evaluation").read_text() == "in the way"
    (run / "evaluation").unlink()
    train, test = (next(data.rglob(f"*-{split}.array_record*")) for split in ("train", "test"))
    whole = train.read_bytes()
    train.write_bytes(bytes(len(whole)))
    done = expressnet(*command)  # which needs only the test split
    assert done.returncode == 0 and f"without what needs the run's own data: {train}: cannot be read" in done.stderr
    train.write_bytes(whole)
    test.write_bytes(bytes(test.stat().st_size))
    done = expressnet(*command)
    one_line(done, 1, f"{test}: cannot be read", "run: expressnet data prepare synthetic_faces/tiny", "--overwrite")
    test.unlink()
    one_line(expressnet(*command), 1, f"{test} cannot be read: No such file or directory; run: expressnet data prepare")


def limited(arguments, kilobytes):
    """The command line where no file may grow beyond a size: writing fails as on a full disk."""
    return subprocess.run(
        ["bash", "-c", f'ulimit -f {kilobytes}; exec "$@"', "bash", sys.executable, "-m", "expressnet_jax.cli"]
        + [str(argument) for argument in arguments],
        env=environment() | {"JAX_ENABLE_COMPILATION_CACHE": "false"},
        capture_output=True,
        text=True,
    )


def test_a_disk_that_takes_no_more_ends_preparing_with_nothing_left(tmp_path):
    done = limited(["data", "prepare", "synthetic_faces/tiny", "--data_dir", tmp_path / "data"], 20)
    one_line(done, 1, os.strerror(errno.EFBIG))
    assert not (tmp_path / "data").exists() or not list((tmp_path / "data").rglob("*.array_record*"))


def test_a_disk_that_takes_no_more_ends_training_with_one_line(tmp_path, data_dir):
    done = limited(["train", f"--config={TINY}", "--workdir", tmp_path / "run", "--data_dir", data_dir], 3)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    first, *_, last = said = done.stderr.strip().splitlines()
    assert last.startswith("expressnet: ") and first.startswith("synthetic_faces") and len(said) < 40
    # Once there is room again, the same command goes on.
    again = expressnet("train", f"--config={TINY}", "--workdir", tmp_path / "run", "--data_dir", data_dir, "--json")
    assert again.returncode == 0, again.stderr
