"""What a tracker is told of a run, by the tracker's own reader; and that nothing of it ends a run."""

import json
import sys

import pytest

from expressnet_jax.config import ConfigError
from expressnet_jax.config import files as config_files
from expressnet_jax.runs import tracking
from tests.conftest import TINY, expressnet

RECORDS = [
    ("train", {"step": 2, "loss": 2.5, "accuracy": float("nan"), "moe_cnn/load": [0.25, 0.75], "classes": [[1, 2]]}),
    ("validation", {"step": 2, "loss": 2.25}),
    ("train", {"step": 4, "loss": 1.5}),
    ("train", {"step": 1, "loss": 3.5}),  # rolled back
]
#: A library in the place of wandb, whose `LATE` is where it fails.
FAKE = """
import time
LOGGED = []
class Settings:
    def __init__(self, **_): pass
class Run:
    id = "x1"
    def define_metric(self, *_, **__): pass
    def log(self, values):
        LOGGED.append(values)
        ACTION("log")
    def finish(self, exit_code): ACTION("finish")
def ACTION(where):
    if where == WHERE:
        WHAT
def init(**_):
    ACTION("init")
    return Run()
"""


@pytest.fixture(scope="module")
def config():
    return config_files.load(TINY)


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    for name, value in {"WANDB_MODE": "offline", "WANDB_PROJECT": "", "MLFLOW_EXPERIMENT_NAME": "ours"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_PROJECT")
    monkeypatch.setattr(tracking, "_PATIENCE", 300)  # however busy this machine is
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my run").mkdir()
    return tmp_path / "my run"


def track(name, workdir, config, records, error=None):
    with tracking.tracked(name, workdir, config) as write:
        for kind, record in records:
            write(kind, record)
        if error:
            raise error


def known(workdir):
    return json.loads((workdir / tracking.FILE).read_text())


def test_mlflow_is_told_all_and_goes_on_with_its_run(workdir, config):
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    track("mlflow", workdir, config, RECORDS)
    client, name = mlflow.MlflowClient(), known(workdir)["mlflow"]
    run = client.get_run(name)
    assert run.info.run_name == "my run" and run.info.status == "FINISHED"
    assert client.get_experiment(run.info.experiment_id).name == "ours"
    assert run.data.params == {
        key: str(value) for key, value in config_files.flat(config_files.to_dict(config)).items()
    }
    assert set(run.data.metrics) == {"train/loss", "validation/loss", "train/moe_cnn/load/0", "train/moe_cnn/load/1"}
    with pytest.raises(KeyError):
        track("mlflow", workdir, config, [("train", {"step": 5, "loss": 1.0})], KeyError("lost"))
    assert known(workdir) == {"mlflow": name} and client.get_run(name).info.status == "FAILED"
    found = {(one.step, one.value) for one in client.get_metric_history(name, "train/loss")}
    assert found == {(1, 3.5), (2, 2.5), (4, 1.5), (5, 1.0)}
    assert len(client.search_runs([run.info.experiment_id])) == 1


def test_wandb_is_told_all_and_goes_on_with_its_run(workdir, config):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    track("wandb", workdir, config, RECORDS)
    name = known(workdir)["wandb"]
    track("wandb", workdir, config, [("train", {"step": 5, "loss": 1.0})])
    assert known(workdir) == {"wandb": name}
    records = [
        record for path in sorted(workdir.glob(f"wandb/offline-run-*/run-{name}.wandb")) for record in _read(path)
    ]
    runs = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert {run.run_id for run in runs} == {name} and {run.display_name for run in runs} == {"my run"}
    assert {run.project for run in runs} == {"expressnet_jax"}
    given = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert given["moe"]["num_experts"] == config.moe.num_experts and given["batch_size"] == config.batch_size
    rows = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    rows = [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows]
    assert rows == [
        {"step": 2, "train/loss": 2.5, "train/moe_cnn/load/0": 0.25, "train/moe_cnn/load/1": 0.75},
        {"step": 2, "validation/loss": 2.25}, {"step": 4, "train/loss": 1.5}, {"step": 1, "train/loss": 3.5},
        {"step": 5, "train/loss": 1.0},
    ]  # fmt: skip


def _read(path):
    """The records of an offline run: 7 bytes, then LevelDB's log format, in blocks of 32 KiB; each is a protobuf."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at < len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts, at = parts + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Makes `import wandb` give a library that does `what` where it is asked for."""

    def make(where, what):
        (tmp_path / "fake").mkdir()
        code = FAKE.replace("WHERE", repr(where)).replace("WHAT", what)
        (tmp_path / "fake" / "wandb.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path / "fake")
        monkeypatch.delitem(sys.modules, "wandb", raising=False)

    yield make
    sys.modules.pop("wandb", None)


@pytest.mark.parametrize("where", ["init", "log", "finish"])
@pytest.mark.parametrize("what", ["raise OSError('no network\\nat all')", "raise SystemExit(3)", "time.sleep(10**6)"])
def test_a_tracker_that_fails_is_one_warning(where, what, workdir, config, fake, capsys, monkeypatch):
    fake(where, what)
    monkeypatch.setattr(tracking, "_PATIENCE", 2 if "sleep" in what else 300)
    track("wandb", workdir, config, RECORDS)
    (line,) = capsys.readouterr().err.splitlines()
    said = {"O": "(no network at all)", "S": "(3)", "s": "has not taken all within"}
    assert line.startswith("warning: wandb ") and said[what[6] if what[0] == "r" else "s"] in line
    assert (workdir / tracking.FILE).exists() == (where != "init")


def test_a_training_goes_on_without_its_tracker(workdir, data_dir, fake):
    fake("log", "if len(LOGGED) == 2: raise OSError('no network')")
    settings = [
        f"--config.{one}"
        for one in ("total=6steps", "eval_every=6steps", "save_every=6steps", "model.network=backbone")
    ]
    done = expressnet(
        "train", "--config", TINY, *settings, "--workdir", workdir, "--data_dir", data_dir, "--track=wandb"
    )
    assert done.returncode == 0 and done.stderr.count("warning: wandb tracks this run no further (no network)") == 1
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [record["kind"] for record in records] == ["train", "train", "train", "validation"]
    for record, told in zip(records, sys.modules["wandb"].LOGGED, strict=False):
        assert told["step"] == record["step"] and told["train/loss"] == record["loss"]
    assert len(sys.modules["wandb"].LOGGED) == 2 and known(workdir) == {"wandb": "x1"}


def test_an_error_of_the_run_is_its_own(workdir, config, fake, capsys):
    fake("finish", "raise OSError('no network')")
    with pytest.raises(KeyError, match="lost"):
        track("wandb", workdir, config, RECORDS, KeyError("lost"))
    assert capsys.readouterr().err.count("warning") == 1


def test_a_library_that_is_not_there_is_said_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("wandb", "mlflow"):
        (tmp_path / name).mkdir()  # which their libraries leave where they work; it can be imported
        monkeypatch.setattr("sys.path", [str(tmp_path)])
        monkeypatch.delitem(sys.modules, name, raising=False)
        with pytest.raises(ConfigError, match=rf"pip install 'expressnet_jax\[{name}\]'"):
            tracking.check(name)
    with pytest.raises(ConfigError, match="did you mean wandb"):
        tracking.check("wandbb")
    tracking.check(None)
