"""A study through the command line: planned, stopped, gone on with, one of its runs failing, and its page."""

import json
import signal
import time

import pytest

from tests.conftest import TINY, expressnet, start

SWEEP = "optimizer.learning_rate=1e-3,1e30"  # the second one's gradients stop being finite
SETTINGS = ("--config.total=60steps", "--config.eval_every=30steps", "--config.save_every=30steps",
            "--config.optimizer.max_nonfinite=2", "--config.log_every=1steps")  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory, data_dir):
    """The folder of a study of two settings, two seeds each, that was stopped in its first run and gone on with."""
    out = tmp_path_factory.mktemp("study") / "rates"
    command = ("ablate", f"--config={TINY}", "--sweep", SWEEP, "--seeds", 2, "--out", out)
    command = (*command, "--data_dir", data_dir, *SETTINGS)
    process = start(*command, "--json")
    deadline = time.monotonic() + 300
    records = out / "runs" / "0" / "metrics.jsonl"
    # It has taken a step, and so has something to save.
    while not (records.exists() and records.stat().st_size) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=300)
    stopped = {"code": process.returncode, "said": said, "left": (out / "runs" / "1").exists()}
    return out, command, stopped, expressnet(*command, "--json")


def test_a_study_that_is_stopped_says_so_and_has_begun_nothing_else(study):
    _, _, stopped, _ = study
    assert stopped["code"] == 75, stopped["said"]
    assert "stopped by SIGTERM" in stopped["said"] and "run 0" in stopped["said"] and not stopped["left"]
    assert "2 settings with seeds 0, 1" in stopped["said"]  # the plan comes first
    assert "4 of 4 to train, about " in stopped["said"]


def test_the_same_command_finishes_what_is_missing_and_records_what_fails(study):
    out, _, _, done = study
    found = json.loads(done.stdout)
    assert done.returncode == 1  # two runs failed
    assert found["counts"] == {"planned": 4, "done": 2, "failed": 2, "missing": 0, "unfinished": 0, "not evaluated": 0}
    assert "not finite" in json.loads((out / "runs" / "1.failed").read_text())["why"]
    assert "going on from step" in (out / "runs" / "0.log").read_text()
    good, bad = found["arms"]
    assert good["done"] == 2 and bad["done"] == 0 and bad["metrics"]["accuracy"] is None
    summaries = [json.loads(next((out / "runs" / n).glob("evaluation/*/summary.json")).read_text()) for n in ("0", "2")]
    assert good["metrics"]["accuracy"]["values"] == [one["accuracy"] for one in summaries]
    (compared,) = found["comparisons"]
    assert compared["verdict"] == "not enough runs" and compared["difference"] is None
    assert not any(word in " ".join(found["conclusion"]) for word in ("better", "worse"))


def test_the_page_of_a_study_with_failed_runs_says_so(study):
    out, *_ = study
    page = (out / "report.html").read_text()
    assert "not finite" in page and "failed" in page
    low, high = json.loads(study[3].stdout)["arms"][0]["metrics"]["accuracy"]["interval"]
    assert f'data-value="{low!r}"' in page and f'data-value="{high!r}"' in page
    assert "http://" not in page and "https://" not in page


def test_another_study_is_not_mixed_in(study, data_dir):
    out, command, *_ = study
    done = expressnet(*command, "--config.total=50steps")
    assert done.returncode == 1 and "holds another study" in done.stderr and len(done.stderr.splitlines()) == 1
    # Without its settings: as planned. On another split nothing is evaluated yet.
    done = expressnet("ablate", "--out", out, "--plan", "--split", "test", "--data_dir", data_dir, "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0 and "2 of 4 to train" in done.stderr
    assert found["counts"]["not evaluated"] == 2 and found["study"]["split"] == "test"


def test_only_what_is_trained_is_evaluated_where_nothing_may_be_trained(study, data_dir):
    out, *_ = study
    (out / "runs" / "1.failed").unlink(missing_ok=True)
    more = ("--data_dir", data_dir, "--evaluate_only", "--split", "test", "--json")
    done = expressnet("ablate", "--out", out, *more)
    assert json.loads(done.stdout)["counts"]["done"] == 2, done.stderr
    assert not (out / "runs" / "1.failed").exists() and not (out / "runs" / "1" / "summary.json").exists()
    assert all((out / "runs" / n / "evaluation" / "synthetic_faces_tiny_test").is_dir() for n in ("0", "2"))


def test_runs_of_another_config_are_not_taken_for_the_studys(study, data_dir):
    out, *_ = study
    path = out / "runs" / "2" / "config.json"
    before, checkpoints = path.read_text(), path.with_name("checkpoints")
    aside = checkpoints.rename(path.with_name("aside"))  # which know the config too
    path.write_text(before.replace('"batch_size": 16', '"batch_size": 8'))
    done = expressnet("ablate", "--out", out, "--plan", "--data_dir", data_dir)
    path.write_text(before)
    aside.rename(checkpoints)
    assert done.returncode == 1 and "batch_size: 8 -> 16" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_split_that_is_not_there_is_said_before_anything_is_trained(tmp_path, data_dir):
    command = ("ablate", f"--config={TINY}", "--sweep", SWEEP, "--out", tmp_path / "s", "--data_dir", data_dir)
    done = expressnet(*command, "--split", "validatoin")
    assert done.returncode == 1 and "no split 'validatoin'" in done.stderr and not (tmp_path / "s").exists()
    other = ("--sweep", "data.validation_split=validation,test")
    done = expressnet(*command[:2], *other, *command[4:])
    assert done.returncode == 1 and "not the same examples" in done.stderr and not (tmp_path / "s").exists()


def test_report_of_runs_and_its_tables(study, tmp_path):
    out, *_ = study
    page, tables = tmp_path / "runs.html", tmp_path / "tables"
    done = expressnet("report", out / "runs" / "0", out / "runs" / "2", "--out", page, "--tables", tables, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [run["state"] for run in found["runs"]] == ["done", "done"] and found["study"] is None
    assert page.read_text().count("<img") >= 2 and list(tables.glob("*.csv")) and list(tables.glob("*.tex"))
    done = expressnet("report", out / "runs" / "0", "--out", page, "--no_pictures")
    assert done.returncode == 0 and "<img" not in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ablate", f"--config={TINY}", "--out", "x"), "--sweep, --list and --study"),
        (("ablate", "--out", "nowhere"), "no study in nowhere"),
        (("ablate", "--sweep", "moe.top_k=1,2", "--out", "x"), "go with --config"),
        (("ablate", f"--config={TINY}", "--sweep", "moe.top_q=1,2", "--out", "x"), "did you mean moe.top_k"),
        (("ablate", f"--config={TINY}", "--sweep", "moe.top_k=1,2", "--seeds", "0", "--out", "x"), "at least 1"),
        (("ablate", "--study", "expert", "--out", "x"), "no study 'expert'"),
        (("report", "nowhere", "--out", "x.html"), "no run in nowhere"),
        (("report", ".", "--out", "no/folder/x.html"), "there is no folder"),
    ],
)
def test_mistakes_are_one_line(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = expressnet(*arguments)
    assert done.returncode == (1 if "nowhere" in words or "no folder" in words else 2) and words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not list(tmp_path.iterdir())
