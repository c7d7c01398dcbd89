"""Folders as strangers give them: whatever is in their files, a report is made of the rest and says what is not."""

import csv
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.common.errors import DataError
from data_pipelines.common.text import json_line
from expressnet_jax.ablation import shapes
from expressnet_jax.ablation.study import counts
from expressnet_jax.config import ConfigError
from expressnet_jax.evaluation import answers as answering
from expressnet_jax.evaluation import depth, experts
from expressnet_jax.report import collect, number_files, page
from tests import report_folder as folders
from tests.page_tree import Parser

pytestmark = pytest.mark.usefixtures("equal_charts_drawn_once")

SUMMARY = folders.EVALUATION / "summary.json"
DEEP = "a value that is nested deeply"
VALUES: list[Any] = [
    None, True, 5, -7, 0.5, 1e308, -1e308, 10**400, -(10**400), float("nan"), float("inf"), "x", "", [], {}, [[]],
    [None], {"a": None}, [5, "x"], DEEP,
]  # fmt: skip


def report(*paths: Path, **options: Any) -> dict[str, Any]:
    return collect.document(paths, **options)


def made(paths: list[Path], out: Path) -> dict[str, Any] | None:
    """The document of the folders, after its page and its tables are written; None where they are refused in a line."""
    try:
        found = report(*paths)
    except (ConfigError, DataError) as error:
        assert str(error)
        return None
    page.write(found, out / "page.html")
    number_files.write_csv(found, out)
    number_files.write_latex(found, out)
    return found


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all that a value holds, lists at their first item only."""
    items = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> str:
    """The value as JSON with something else at a place, or without the place where that is ..."""
    whole = json.loads(json.dumps(value))
    place = whole
    for key in path[:-1]:
        place = place[key]
    if new is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = new
    return json.dumps(whole).replace(json.dumps(DEEP), "[" * 500 + "]" * 500)


def mutations(value: Any, count: int) -> list[str]:
    """So many of all ways to put something else somewhere, always the same."""
    ways = [(path, new) for path in places(value) for new in [..., *VALUES]]
    chosen = random.Random(0).sample(ways, min(count, len(ways)))
    whole = ["", "{", "[]", "5", "null", '"x"', "[" * 100_000, "{}", "\x00", '{"a": ' * 100_000]
    return whole + [changed(value, *way) for way in chosen]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.run(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def test_a_whole_folder(run: Path, tmp_path: Path) -> None:
    found = made([run], tmp_path / "out")
    assert found is not None and not found["notes"]
    (one,) = found["runs"]
    assert one["state"] == "done" and one["name"] == "run" and one["seed"] == 0 and one["parameters"] > 0
    assert one["evaluations"] == [folders.evaluation()]
    assert [picture["src"][:22] for picture in one["pictures"]] == ["data:image/png;base64,"]
    assert one["training"]["images_per_second"] == 102 and one["training"]["best_step"] == 24


@pytest.mark.parametrize(
    ("file", "value", "count"),
    [
        (str(SUMMARY), folders.evaluation, 120),
        ("summary.json", folders.summary, 25),
        ("metrics.jsonl", lambda: folders.records()[0], 25),
        ("metrics.jsonl", lambda: folders.records()[-1], 25),
        ("config.json", lambda: json.loads((Path("run") / "config.json").read_text()), 60),
    ],
)
def test_no_file_of_a_run_breaks_its_report(
    file: str, value: Callable[[], Any], count: int, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    left = {}
    for text in mutations(value(), count):
        (run / file).write_text(text)
        found = made([run], tmp_path / "out")
        left[text] = found and (found["notes"], found["runs"][0]["state"])
    assert len({json.dumps(one) for one in left.values()}) > 1  # not all of them end alike


@pytest.mark.parametrize("file", ["study.json", "runs/0/summary.json", "runs/0/config.json", "runs/0.failed"])
def test_no_file_of_a_study_breaks_its_report(file: str, tmp_path: Path) -> None:
    folders.study(tmp_path / "study")
    path = tmp_path / "study" / file
    value = json.loads(path.read_text()) if path.exists() else {"why": "x", "exit_code": 1}
    if file.endswith("failed"):  # it is looked at where the run is not done
        (tmp_path / "study" / "runs" / "0" / SUMMARY).unlink()
    for text in mutations(value, 12):
        path.write_text(text)
        found = made([tmp_path / "study"], tmp_path / "out")
        # The study itself may be refused; a run of it never takes the others down.
        assert found is not None or file == "study.json", text[:200]


@pytest.mark.parametrize(
    ("place", "new", "said"),
    [
        (("split",), ..., "split is missing"),
        (("accuracy",), 1e308, "accuracy is not a number of sensible size"),
        (("accuracy",), None, "accuracy is not a number of sensible size"),
        (("accuracy_interval",), [0.5], "accuracy_interval has 1 items, not 2"),
        (("per_class",), [], "per_class is not an object"),
        (("per_class", "fear"), {}, "per_class.fear.f1 is missing"),
        (("per_class", "fear"), 3, "per_class.fear is not an object"),
        (("classes",), "abc", "classes is not a list"),
        (("confusion", 0), [1, 2], "confusion is not 7 rows of 7"),
        (("confusion", 0, 0), -1, "confusion[0][0] is not a whole number from 0"),
        (("confusion", 0, 0), 10**400, "confusion[0][0] is not a whole number from 0"),
        (("factors", "light"), [None], "factors.light[0] is not an object"),
        (("depth", "calibration", "before", "bins"), [None], "depth.calibration.before.bins[0] is not an object"),
        (("experts", "moe_cnn", "surest", 0, 0, "label"), 7, "experts.moe_cnn.surest has a label of no class"),
        (("experts", "moe_cnn", "classes"), [], "experts.moe_cnn.classes is not 4 rows of 7"),
        (("experts", "moe_cnn", "importance"), [0.5], "experts.moe_cnn.importance has 1 items, and load 4"),
        (("robustness", "strengths"), [0, 1], "robustness.corruptions.blur is not of 2 strengths"),
        (("examples",), True, "examples is not a whole number from 0"),
        (("more",), DEEP, "it is nested in more than 20 levels"),
    ],
)  # fmt: skip
def test_an_evaluation_that_does_not_fit_is_left_out_and_named(
    place: tuple[Any, ...], new: Any, said: str, run: Path, tmp_path: Path
) -> None:
    (run / SUMMARY).write_text(changed({**folders.evaluation(), "more": 0}, place, new))
    found = made([run], tmp_path / "out")
    assert found is not None and found["runs"][0]["evaluations"] == [] and found["runs"][0]["state"] == "not evaluated"
    assert f"run: {run / SUMMARY} cannot be read: {said}" in found["notes"]
    assert "cannot be read" in (tmp_path / "out" / "page.html").read_text()


@pytest.mark.parametrize("text", ["", "[]", "5", '{"split": ', "[" * 100_000])
def test_an_evaluation_that_is_no_object_is_named(text: str, run: Path, tmp_path: Path) -> None:
    (run / SUMMARY).write_text(text)
    found = made([run], tmp_path / "out")
    assert found is not None and found["runs"][0]["evaluations"] == []
    (note, state) = found["notes"]
    assert note.startswith(f"run: {run / SUMMARY} cannot be read: ") and state == "run: not evaluated"


def test_what_older_versions_did_not_write_may_be_missing(run: Path, tmp_path: Path) -> None:
    parts = ("asked", "step", "chosen_on", "loss", "depth", "experts", "factors", "robustness", "saliency")
    old = {key: value for key, value in folders.evaluation().items() if key not in parts}
    folders.write(run / SUMMARY, old | {"a part of a newer version": [{}]})
    found = made([run], tmp_path / "out")
    assert found is not None and len(found["runs"][0]["evaluations"]) == 1 and not found["notes"]


def test_what_an_evaluation_writes_fits_and_is_looked_at() -> None:
    """All that the parts of an evaluation compute is in the shape: any of it that turns into a text is seen."""
    answers = folders.answers()
    fitted = folders.answers(30)
    found: dict[str, Any] = {"split": "a", "chosen_on": False, "step": 3, **answering.summarize(answers, 0.1)}
    leaked = answers.index < 9
    found |= {"depth": depth.of(answers, fitted=("b", fitted), leaked=leaked), "experts": experts.of(answers)}
    found |= {key: folders.evaluation()[key] for key in ("factors", "robustness", "saliency")}
    found = json.loads(json_line(found))
    assert shapes.evaluation(found) is None
    unseen = {("saliency", "examples"), ("robustness", "examples")}  # not on the page
    for path in set(places(found)) - unseen:
        value: Any = found
        for key in path:
            value = value[key]
        if not isinstance(value, (str, dict, list)) and value is not None:
            assert shapes.evaluation(json.loads(changed(found, path, "x"))), path


def test_records_that_do_not_fit_are_left_out_and_counted(run: Path, tmp_path: Path) -> None:
    good, *others = folders.records()
    bad = [{**good, "images_per_second": None}, {**good, "loss": 1.7e308}, {**good, "epoch": "x"}]
    lost = {**good, "loss": None, "accuracy": None}
    lines = [json.dumps(record) for record in [good, *bad, lost, *others, {"kind": [], "step": 1}]]
    (run / "metrics.jsonl").write_text("\n".join([*lines, "[" * 100_000, '{"kind": "tr']))
    found = made([run], tmp_path / "out")
    assert found is not None and found["runs"][0]["training"]["train"][:2] == [[0.1, 2.0, 0.25], [0.1, None, None]]
    (note,) = found["notes"]
    assert note.startswith("run: 3 of 7 train records in metrics.jsonl cannot be read; of the first, images_per_second")


@pytest.mark.parametrize("text", ["[]", "5", '{"best_step": "x"}', "[" * 100_000])
def test_a_run_s_summary_that_does_not_fit_is_left_out(text: str, run: Path, tmp_path: Path) -> None:
    (run / "summary.json").write_text(text)
    found = made([run], tmp_path / "out")
    assert found is not None and found["runs"][0]["training"]["best_step"] is None
    assert len(found["runs"][0]["evaluations"]) == 1
    (note,) = found["notes"]
    assert note.startswith("run: ") and "summary.json cannot be read" in note
    (run / "summary.json").unlink()  # it is still being trained
    assert report(run)["notes"] == ["run: unfinished"]


def test_a_config_that_is_no_config_is_one_line(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    for text in ["[" * 100_000, changed(config, ("optimizer", "learning_rate"), 10**400), "[]"]:
        (run / "config.json").write_text(text)
        with pytest.raises(DataError, match=r"config\.json cannot be read"):
            report(run)


def test_a_network_of_impossible_size_has_no_size(run: Path, tmp_path: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    for place, size in [(("model", "image_size"), 10**400), (("moe", "num_experts"), 10**9)]:
        (run / "config.json").write_text(changed(config, place, size))
        found = made([run], tmp_path / "out")
        assert found is not None and found["runs"][0]["parameters"] is None
        assert found["runs"][0]["state"] == "done" and len(found["runs"][0]["evaluations"]) == 1


@pytest.mark.parametrize("what", ["no config", "no config that can be read"])
def test_a_run_of_a_study_without_its_config_has_failed(what: str, tmp_path: Path) -> None:
    study = folders.study(tmp_path / "study")
    workdir = study.workdir(study.runs[1])
    if what == "no config":
        (workdir / "config.json").unlink()
    else:
        (workdir / "config.json").write_text('{"seed": "x"}')
    found = made([tmp_path / "study"], tmp_path / "out")
    assert found is not None and [run["state"] for run in found["runs"]] == ["done", "failed"]
    words = {"no config": "has no config.json", "no config that can be read": "seed='x' is not a whole number"}
    assert words[what] in found["runs"][1]["why"]
    assert found["study"]["counts"] == counts(study.outcomes())
    assert found["study"]["counts"]["done"] == 1 and found["study"]["counts"]["failed"] == 1
    assert [arm["done"] for arm in found["study"]["arms"]] == [1, 0]
    (header,) = Parser((tmp_path / "out" / "page.html").read_text()).root.all("header")
    assert "1 of 2 runs done, 1 failed." in header.text and found["runs"][1]["why"] in header.text
    shutil.rmtree(workdir)
    assert [run["state"] for run in report(tmp_path / "study")["runs"]] == ["done", "missing"]


def test_a_run_of_a_study_whose_evaluation_cannot_be_read_is_to_be_evaluated_again(tmp_path: Path) -> None:
    study = folders.study(tmp_path / "study")
    path = study.workdir(study.runs[1]) / SUMMARY
    path.write_text(changed(folders.evaluation(), ("classes",), 5))
    found = made([tmp_path / "study"], tmp_path / "out")
    assert found is not None and [run["state"] for run in found["runs"]] == ["done", "not evaluated"]
    assert f"run 1: {path} cannot be read: classes is not a list" in found["notes"]
    assert found["study"]["counts"] == counts(
        study.outcomes()
    )  # the page and `ablate`, which evaluates it, say the same
    assert [arm["done"] for arm in found["study"]["arms"]] == [1, 0]
    (header,) = Parser((tmp_path / "out" / "page.html").read_text()).root.all("header")
    assert "1 of 2 runs done, 1 not evaluated." in header.text and "classes is not a list" in header.text


def test_runs_of_a_study_are_numbered(tmp_path: Path) -> None:
    folders.study(tmp_path / "study")
    plan = json.loads((tmp_path / "study" / "study.json").read_text())
    for number, words in [(10**400, "whole number from 0"), (-1, "whole number from 0"), (0, "not numbered")]:
        (tmp_path / "study" / "study.json").write_text(changed(plan, ("runs", 1, "number"), number))
        with pytest.raises(DataError, match=words):
            report(tmp_path / "study")


def _link(path: Path, run: Path) -> None:
    path.symlink_to(run.parent / "secret.png")


def _linked_folder(path: Path, run: Path) -> None:
    outside = run.parent / "outside"
    path.parent.rename(outside)
    (outside / path.name).write_bytes(folders.PNG)
    path.parent.symlink_to(outside)


def _large(path: Path, run: Path) -> None:
    path.write_bytes(folders.PNG)
    os.truncate(path, 20_000_001)


@pytest.mark.parametrize(
    "make",
    [
        _link,
        _linked_folder,
        _large,
        lambda path, run: path.symlink_to("/dev/zero"),
        lambda path, run: path.symlink_to("nothing"),
        lambda path, run: os.mkfifo(path),
        lambda path, run: path.mkdir(),
        lambda path, run: path.write_text("<svg onload='alert(1)'>"),
        lambda path, run: path.write_bytes(b""),
    ],
    ids=["link", "linked folder", "large", "endless", "dangling", "pipe", "folder", "other", "empty"],
)
def test_only_pictures_of_the_folder_itself_are_shown(
    make: Callable[[Path, Path], Any], run: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret.png").write_bytes(folders.PNG)
    path = run / folders.EVALUATION / "predictions.png"
    path.unlink()
    make(path, run)
    found = made([run], tmp_path / "out")
    assert found is not None and [picture["src"] for picture in found["runs"][0]["pictures"]] == [""]
    text = (tmp_path / "out" / "page.html").read_text()
    assert "This picture cannot be shown." in text and "<img" not in text


def test_pictures_that_are_not_there_are_not_missed(run: Path) -> None:
    (run / folders.EVALUATION / "predictions.png").unlink()
    assert report(run)["runs"][0]["pictures"] == []


def test_a_run_reached_by_a_link_shows_its_pictures(run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run)
    assert [picture["src"][:9] for picture in report(tmp_path / "link")["runs"][0]["pictures"]] == ["data:imag"]


def test_all_records_are_kept_and_the_page_stays_small(run: Path, tmp_path: Path) -> None:
    sizes = []
    for train, validation in [(2000, 1000), (8000, 4000)]:
        records = folders.records(train, validation)
        (run / "metrics.jsonl").write_text("".join(map(json_line, records)))
        found = made([run], tmp_path / "out")
        assert found is not None
        training = found["runs"][0]["training"]
        assert len(training["train"]) == train and len(training["validation"]) == validation
        assert training["train"][1] == [records[1][key] for key in ("epoch", "loss", "accuracy")]
        with (tmp_path / "out" / "training.csv").open(newline="") as stream:
            assert len(list(csv.DictReader(stream))) == train + validation
        sizes.append((tmp_path / "out" / "page.html").stat().st_size)
    assert sizes[1] < 1.1 * sizes[0]


def test_runs_are_named_by_as_much_as_tells_them_apart(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, other, deep = (tmp_path / name for name in ("a/run", "b/run", "other", "x/a/run"))
    for path in (one, two, other, deep):
        shutil.copytree(whole, path)
    (tmp_path / "link").symlink_to(other)

    def names(*paths: Path) -> list[str]:
        return [run["name"] for run in report(*paths)["runs"]]

    assert names(one) == ["run"] and names(one, other) == ["run", "other"]
    assert names(one, two, other) == ["a/run", "b/run", "other"]
    assert names(one, deep) == [f"{tmp_path.name}/a/run", "x/a/run"]
    assert names(other, tmp_path / "a" / ".." / "other", tmp_path / "link") == ["other"]  # one run, once
    monkeypatch.chdir(one)
    found = report(Path("."))
    assert found["title"] == "Run: run" and found["runs"][0]["name"] == "run"
    assert names(Path("."), Path("../../b/run")) == ["a/run", "b/run"]


def test_whose_pictures_are_shown_is_said(whole: Path, tmp_path: Path) -> None:
    paths = [Path(shutil.copytree(whole, tmp_path / str(n))) for n in range(4)]
    found = report(*paths)
    assert [bool(run["pictures"]) for run in found["runs"]] == [True, True, True, False]
    assert found["notes"] == ["Pictures of the first 3 runs only."]
    assert report(*paths[:3])["notes"] == []
    assert report(*paths, pictures=False)["notes"] == ["Photographs were left out of this page on request."]
    folders.study(tmp_path / "study", seeds=2)
    found = report(tmp_path / "study")
    assert [bool(run["pictures"]) for run in found["runs"]] == [True, False, False, False]
    assert found["notes"] == ["Pictures of run 0 only: the first of the baseline that is done."]
    assert len(report(tmp_path / "study", pictures=False)["notes"]) == 1
