"""Runs through the command line: to the end, killed and resumed, evaluated, inspected."""

import json
import signal
import time

import numpy as np
import pytest
from PIL import Image

from tests.conftest import TINY, expressnet, start


def train(workdir, data_dir, *extra):
    return ["train", f"--config={TINY}", "--workdir", workdir, "--data_dir", data_dir, "--json", *extra]


def records(workdir, kind):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def digest(workdir):
    done = expressnet("inspect", workdir, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["digest"]


def until_checkpoint(process, workdir, step):
    """Waits for a checkpoint at or after `step`; fails where the run ends first."""
    while not any(p.name.isdigit() and int(p.name) >= step for p in (workdir / "checkpoints").glob("*")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir):
    """A run that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    done = expressnet(*train(workdir, data_dir))
    assert done.returncode == 0, done.stderr
    return workdir, done


def test_a_run_leaves_everything_that_it_promises(finished):
    workdir, done = finished
    summary = json.loads(done.stdout)
    assert summary == json.loads((workdir / "summary.json").read_text())
    assert summary["result"] == "finished after 24 steps" and summary["best_step"] in (8, 16, 24)
    assert [r["step"] for r in records(workdir, "train")] == list(range(2, 25, 2))
    assert [r["step"] for r in records(workdir, "validation")] == [8, 16, 24]
    best = max(records(workdir, "validation"), key=lambda r: r["accuracy"])
    assert summary["validation"]["accuracy"] == best["accuracy"]
    assert "left" in done.stderr and "images/s" in done.stderr
    assert json.loads((workdir / "config.json").read_text())["batch_size"] == 16
    assert "experts/kernel" in (workdir / "parameters.txt").read_text()
    assert Image.open(workdir / "curves.png").size[0] > 300 and Image.open(workdir / "experts.png").size[0] > 300
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit())
    assert steps[-2:] == [20, 24] and summary["best_step"] in steps and len(steps) <= 3


def test_tensorboard_reads_the_events(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished[0] / "events"))
    events.Reload()
    assert {"train/loss", "train/moe_cnn/max_load", "validation/accuracy"} <= set(events.Tags()["scalars"])
    found = [(e.step, e.value) for e in events.Scalars("train/loss")]
    assert found == [(r["step"], pytest.approx(r["loss"], rel=1e-6)) for r in records(finished[0], "train")]


def test_the_same_command_on_a_finished_run_changes_nothing(finished, data_dir):
    workdir, _ = finished
    before = {p: p.stat().st_mtime_ns for p in (workdir / "checkpoints").rglob("*")}
    text = (workdir / "metrics.jsonl").read_text()
    done = expressnet(*train(workdir, data_dir))
    assert done.returncode == 0 and json.loads(done.stdout)["result"] == "finished after 24 steps"
    assert {p: p.stat().st_mtime_ns for p in (workdir / "checkpoints").rglob("*")} == before
    assert (workdir / "metrics.jsonl").read_text() == text


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_ends_with_the_same_parameters_bit_for_bit(finished, tmp_path, data_dir, how):
    workdir = tmp_path / "run"
    process = start(*train(workdir, data_dir))
    until_checkpoint(process, workdir, 4)
    process.send_signal(how)
    _, err = process.communicate()
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 75, signal.SIGINT: 130}[how], err
    if how != signal.SIGKILL:
        assert "everything saved at step" in err.splitlines()[-1] and "Traceback" not in err
    done = expressnet(*train(workdir, data_dir))
    assert done.returncode == 0, done.stderr
    assert "going on from step" in done.stderr
    assert digest(workdir) == digest(finished[0])
    for kind in ("train", "validation"):
        mine, theirs = records(workdir, kind), records(finished[0], kind)
        assert len({r["step"] for r in mine}) == len(mine)
        losses = {r["step"]: r["loss"] for r in theirs}
        # A record of an interval that the interruption cut is an average over its end, not over all of it.
        same = [r["loss"] == losses[r["step"]] for r in mine]
        assert same[-1] and sum(same) >= len(same) - 1


def test_a_checkpoint_goes_from_eight_devices_to_one(tmp_path, data_dir, finished):
    workdir = tmp_path / "run"
    command = train(workdir, data_dir)
    process = start(*command, "--config.mesh.expert=4", devices=8)
    until_checkpoint(process, workdir, 8)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75
    done = expressnet(*command)
    assert done.returncode == 0, done.stderr
    mine, theirs = ([r["loss"] for r in records(w, "validation")] for w in (workdir, finished[0]))
    np.testing.assert_allclose(mine, theirs, rtol=1e-2)


@pytest.fixture(scope="module")
def evaluated(finished, data_dir):
    """The summary of the test split, with all that can be asked for."""
    parts = ["--robustness", "--saliency"]
    done = expressnet("evaluate", "--workdir", finished[0], "--data_dir", data_dir, "--json", *parts)
    assert done.returncode == 0, done.stderr
    assert all(
        f"\n{word}" in done.stderr for word in ("occlusion ", "mean ", "what would change the answer, by branch: ")
    )
    return json.loads(done.stdout)


def test_evaluate_writes_text_json_and_pictures(finished, evaluated):
    workdir, result = finished[0], evaluated
    promised = {"accuracy", "mean_class_accuracy", "macro_f1", "examples", "classes", "confusion", "per_class"}
    assert promised <= set(result)
    confusion = np.array(result["confusion"])
    assert confusion.sum() == result["examples"] == 64
    assert result["accuracy"] == pytest.approx(np.trace(confusion) / 64)
    (folder,) = (workdir / "evaluation").glob("*test")
    assert json.loads((folder / "summary.json").read_text()) == result
    assert "accuracy" in (folder / "summary.txt").read_text()
    assert result["asked"] == "test" and result["chosen_on"] is False
    for name in ("confusion.png", "predictions.png", "robustness.png", "corruptions.png", "saliency.png"):
        assert min(Image.open(folder / name).size) > 200


def test_what_took_long_is_kept_for_the_same_checkpoint_alone(finished, evaluated, data_dir):
    command = ["evaluate", "--workdir", finished[0], "--data_dir", data_dir, "--json"]
    assert json.loads(expressnet(*command).stdout) == evaluated
    (folder,) = (finished[0] / "evaluation").glob("*test")
    (folder / "summary.json").write_text(json.dumps(evaluated | {"step": evaluated["step"] + 1}))
    assert json.loads(expressnet(*command).stdout) == evaluated | {"robustness": None, "saliency": None}
    assert {path.stem for path in folder.glob("*.png")} & {"robustness", "corruptions", "saliency"} == set()


def test_an_evaluation_that_is_interrupted_keeps_all_that_was_found_before(finished, data_dir, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("expressnet_jax.evaluation.robustness.measure", interrupted)
    command = [
        "evaluate",
        "--workdir",
        finished[0],
        "--data_dir",
        data_dir,
        "--split",
        "train",
        "--robustness",
        "--json",
    ]
    done = expressnet(*command)
    (folder,) = (finished[0] / "evaluation").glob("*train")
    found = json.loads((folder / "summary.json").read_text())
    assert done.returncode == 130 and "all but what was to come of robustness is in" in json.loads(done.stdout)["error"]
    assert found["examples"] == 160 and found["robustness"] is None and (folder / "confusion.png").exists()


def test_evaluating_the_held_out_part_repeats_the_run_s_own_figure(finished, data_dir):
    workdir, _ = finished
    done = expressnet("evaluate", "--workdir", workdir, "--data_dir", data_dir, "--split", "validation", "--json")
    result = json.loads(done.stdout)
    accuracies = {r["step"]: r["accuracy"] for r in records(workdir, "validation")}
    best = next(r for r in records(workdir, "validation") if r["step"] == result["step"])
    assert result["accuracy"] == best["accuracy"] == max(accuracies.values())
    assert result["loss"] == pytest.approx(best["loss"], rel=1e-6)
    assert "chosen by its accuracy on these examples" in done.stderr
    assert result["chosen_on"] is True and result["depth"]["calibration"]["temperature"] is None


def test_a_temperature_is_fitted_on_none_of_the_pictures_that_it_is_judged_by(finished, data_dir):
    command = ["evaluate", "--workdir", finished[0], "--data_dir", data_dir, "--json", "--split"]
    both = json.loads(expressnet(*command, "test+validation").stdout)
    assert both["chosen_on"] is True and both["depth"]["calibration"]["temperature"] is None
    apart = json.loads(expressnet(*command, "test").stdout)
    assert apart["chosen_on"] is False and apart["depth"]["calibration"]["fitted_on"].endswith("/validation")


def test_evaluating_on_another_data_set_goes_by_name_and_by_shared_classes(finished, data_dir, tmp_path):
    workdir, _ = finished
    for number, folder in enumerate(("sad", "angry", "happy")):  # as FER-2013, which has no contempt
        for i in range(4):
            path = tmp_path / "fer" / "test" / folder / f"PublicTest_{number}{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (48, 48), np.uint8)).save(path)
    where = ["--data_dir", tmp_path / "data"]
    assert expressnet("data", "prepare", "fer2013", "--from", tmp_path / "fer", *where).returncode == 0
    asked = ["--data", "fer2013", "--split", "public_test", *where, "--json"]
    done = expressnet("evaluate", "--workdir", workdir, *asked)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert "not in this data set: contempt" in done.stderr
    assert result["asked"] is None  # by the run's own study
    assert result["chosen_on"] is None  # the run's own data are not in this folder
    assert result["classes"] == ["anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"]
    truths = dict(zip(result["classes"], np.sum(result["confusion"], axis=1), strict=True))
    assert {name: count for name, count in truths.items() if count} == {"sadness": 4, "anger": 4, "happiness": 4}


def test_inspect_of_a_run_and_of_its_config_agree(finished):
    workdir, _ = finished
    run = json.loads(expressnet("inspect", workdir, "--json").stdout)
    config = json.loads(expressnet("inspect", f"--config={TINY}", "--json").stdout)
    assert {key: run[key] for key in config} == config
    assert run["parameters"] == sum(run["parts"].values())
    assert run["preprocessing"]["image_size"] == 32 and len(run["digest"]) == 64 and len(run["classes"]) == 8


def test_inspect_compares_two(finished, tmp_path):
    workdir, _ = finished
    steps = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal())
    first, last = (workdir / "checkpoints" / str(step) for step in (steps[0], steps[-1]))
    same = json.loads(expressnet("inspect", last, last, "--json").stdout)
    assert same["difference"]["same_weights"] and set(same["difference"]["largest_difference"].values()) == {0.0}
    done = expressnet("inspect", first, last, "--json")
    found = json.loads(done.stdout)
    assert (found["first"]["kind"], found["first"]["step"], found["second"]["step"]) == (
        "checkpoint",
        steps[0],
        steps[-1],
    )
    assert not found["difference"]["same_weights"] and found["difference"]["settings"] == []
    assert found["difference"]["largest_difference"]["head"] > 0 and "the weights differ" in done.stderr
    missing = expressnet("inspect", workdir / "checkpoints" / "999")
    assert missing.returncode == 1 and f"has no checkpoint of step 999; it has {steps[0]}" in missing.stderr


def test_inspect_counts_the_published_network():
    for name, parameters in (("fer2013:paper", 35_931_871), ("synthetic_faces:paper", 35_932_896)):
        found = json.loads(expressnet("inspect", f"--config={name}", "--json").stdout)
        assert (found["parameters"], found["batch_stats"]) == (parameters, 55_120)
        assert found["parts"]["cnnfe1"] == 8_619_824 and found["parts"]["moe_cnn"] == 1_052_676
        assert found["flops_per_image"] == pytest.approx(2 * 17.3e9, rel=5e-3)  # 17.3 GMAC by the layers' sizes


def test_an_early_stop_stops_and_stays_stopped(tmp_path, data_dir):
    # A rate at which the validation loss grows at once.
    command = train(tmp_path / "run", data_dir, "--config.early_stop.patience=1", "--config.optimizer.learning_rate=10",
                    "--config.eval_every=1steps", "--config.optimizer.name=sgd")  # fmt: skip
    done = expressnet(*command)
    assert done.returncode == 1 and "expressnet: the run diverged: the loss is" in done.stderr.splitlines()[-1]
    command.append("--config.recovery.explosion=1e9")  # as somebody may want it
    done = expressnet(*command)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    assert result.startswith("stopped early: no lower validation loss in 1 evaluation")
    steps = [r["step"] for r in records(tmp_path / "run", "validation")]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) < 24
    assert json.loads(expressnet(*command).stdout)["result"] == result
    assert [r["step"] for r in records(tmp_path / "run", "validation")] == steps


def test_gradients_that_stay_non_finite_end_the_run(tmp_path, data_dir):
    done = expressnet(*train(tmp_path / "run", data_dir, "--config.optimizer.learning_rate=1e38",
                             "--config.optimizer.name=sgd", "--config.optimizer.max_nonfinite=3"))  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "not finite" in last and "clip_norm" in last and "Traceback" not in done.stderr


def test_a_run_starts_from_another_with_more_experts(finished, tmp_path, data_dir):
    before, _ = finished
    start = f"--config.init.run={before}"
    done = expressnet(
        *train(tmp_path / "grown", data_dir, start, "--config.moe.num_experts=6", "--config.total=2steps")
    )
    assert done.returncode == 0, done.stderr
    kept = [r["loss"] for r in records(tmp_path / "grown", "train")]
    fresh = [r["loss"] for r in records(before, "train")]
    assert kept[0] < fresh[0] - 0.05  # it goes on from what was learnt
    assert expressnet("inspect", tmp_path / "grown", "--json").returncode == 0
    fewer = expressnet(
        *train(tmp_path / "fewer", data_dir, f"--config.init.run={before}", "--config.moe.num_experts=2")
    )
    assert fewer.returncode == 1 and "has 4 experts, more than moe.num_experts=2" in fewer.stderr
    misfit = expressnet(*train(tmp_path / "misfit", data_dir, start, "--config.moe.hidden=8"))
    assert misfit.returncode == 1 and "does not fit this network" in misfit.stderr and "Traceback" not in misfit.stderr
    assert not (tmp_path / "misfit").exists()
