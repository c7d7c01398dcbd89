"""The page of `expressnet report`: well formed, readable by machines that read to people, and true to its document."""

import base64
import copy
import functools
import hashlib
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.common.errors import DataError
from expressnet_jax.report import page
from tests import report_document as documents
from tests.page_tree import Element, Parser, by_id, numbers, rows, values, without

#: A report of nothing but what its shape demands, and one in which not even that is there.
HOLLOW = {"title": None, "runs": [{"name": "a", "state": "done"}, {}], "study": {"arms": [{}]}, "against": [{}]}
REPORTS: dict[str, Callable[[], dict[str, Any]]] = {
    "document": documents.document,
    "single": documents.single,
    "empty": documents.empty,
    "hollow": lambda: copy.deepcopy(HOLLOW),
    "nothing": dict,
}


def parse(report: dict[str, Any]) -> Element:
    return Parser(page.render(report)).root


@functools.cache
def page_of(name: str) -> Element:
    return parse(REPORTS[name]())


def test_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        page.write(documents.document(), tmp_path / "new" / f"{name}.html")
    data = (tmp_path / "new" / "one.html").read_bytes()
    assert data == (tmp_path / "new" / "two.html").read_bytes()
    assert data.decode("ascii") == page.render(documents.document())
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["one.html", "two.html"]
    with pytest.raises(DataError, match=r"new: cannot be written \(.*directory.*\); choose another place"):
        page.write(documents.single(), tmp_path / "new")
    with pytest.raises(DataError, match="cannot be written"):
        page.write(documents.single(), tmp_path / "new" / "one.html" / "page.html")
    assert (tmp_path / "new" / "one.html").read_bytes() == data


@pytest.mark.parametrize("name", REPORTS)
def test_needs_nothing_else(name: str) -> None:
    """No address of another machine is in the page, and its own policy lets only its one script run."""
    text = page.render(REPORTS[name]())
    root = Parser(text).root
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text.replace("alert(1)<//", ""))
    for one in root:
        assert not [key for key in one.attributes if key.startswith("on")]
        assert one.get("href")[:1] in ("", "#")
        assert one.tag == "img" or "src" not in one.attributes
        assert one.get("src").startswith("data:image/") or one.tag != "img"
    (script,) = root.all("script")
    (policy,) = (one.get("content") for one in root.all("meta") if one.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'" and rules["script-src"] == f"'sha256-{digest}'"
    assert rules["img-src"] == "data:"


@pytest.mark.parametrize("name", REPORTS)
def test_structure(name: str) -> None:
    """What screen readers and keyboards go by: landmarks, headings in order, names of tables and pictures."""
    root = page_of(name)
    labelled = [one for one in root if "id" in one.attributes]
    ids = {one.get("id"): one for one in labelled}
    assert len(ids) == len(labelled)
    for one in root:
        for key in ("aria-labelledby", "aria-describedby"):
            for label in one.get(key).split():
                assert ids[label].text.strip()
        if one.get("href"):
            assert one.get("href")[1:] in ids
    levels = [int(one.tag[1]) for one in root if re.fullmatch("h[1-6]", one.tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))
    assert len(root.all("main")) == len(root.all("header")) == 1
    assert root.all("html")[0].get("lang") == "en"
    skip = root.all("a")[0]
    assert skip.get("href") == "#main" and ids["main"].tag == "main"
    for table in root.all("table"):
        assert len(table.all("caption")) == 1
        assert all(one.get("scope") in ("col", "row") for one in table.all("th"))
        columns = len(table.all("thead")[0].all("th"))
        assert all(len(row.all("th", "td")) == columns for row in table.all("tr"))
        assert table.up("div") is not None and table.up("div").get("class") == "wide"  # type: ignore[union-attr]
    for chart in root.all("svg"):
        assert chart.get("role") == "img" and chart.get("viewbox")
        assert [one.tag for one in chart.children[:2] if isinstance(one, Element)] == ["title", "desc"]
    assert all(one.get("alt") for one in root.all("img"))


def _scale(element: Element) -> float:
    """What a number is multiplied by to be shown, as the head of its column, its term or the words after it say."""
    cell, table = element.up("td") or element.up("th"), element.up("table")
    title, caption = "", ""
    if cell is not None and table is not None and cell.parent is not None:
        place = [one for one in cell.parent.children if isinstance(one, Element)].index(cell)
        title, caption = table.all("thead")[0].all("th")[place].text, table.all("caption")[0].text
    elif (term := element.up("dd")) is not None and term.parent is not None:
        title = term.parent.all("dt")[0].text
    elif (sentence := element.up("p")) is not None:
        after = sentence.text.split(element.text, 1)[1]
        title = "%" if after.startswith((" %", " points")) else ""
    return (
        1e-9
        if "GFLOP" in title
        else 100.0
        if re.search("%|points", title) or re.search(r"(F1|Accuracy|class), %\.$", caption)
        else 1.0
    )


@pytest.mark.parametrize("name", REPORTS)
def test_numbers_are_roundings(name: str) -> None:
    """Each number shown is its full value to the digits that it is shown with."""
    root = page_of(name)
    shown = [one for one in root if "data-value" in one.attributes]
    for one in shown:
        value, text = float(one.get("data-value")) * _scale(one), one.text.replace(",", "")
        if text.startswith("< "):
            assert value < float(text[2:])
        else:
            digits = len(text.partition(".")[2])
            assert abs(float(text) - value) <= 0.5000001 * 10**-digits, (one.text, value, one.parent.text)  # type: ignore[union-attr]
    assert (len(shown) > 300) == (name in ("document", "single"))


@pytest.mark.parametrize("value", [10**400, -(10**400), 1e308, -1e308, float("inf"), float("nan"), True, "1"])
def test_what_is_no_number_is_missing(value: Any) -> None:
    report = documents.single()
    (found,) = report["runs"]
    found["evaluations"][0] |= {"accuracy": value, "accuracy_interval": None}
    found["training"]["train"][3][1] = found["seed"] = value
    root = parse(report)
    (row, *_) = rows(root, "all-runs")
    assert row["accuracy, %"].text == row["seed"].text == "-" and "data-value" not in row["accuracy, %"].attributes


def test_study() -> None:
    report = documents.document()
    root = page_of("document")
    study = report["study"]
    shown = rows(root, "arms")
    assert [row["arm"].text[:8] for row in shown] == [arm["name"][:8] for arm in study["arms"]]
    titles = {"accuracy, %": "accuracy", "mean class accuracy, %": "mean_class_accuracy", "macro F1, %": "macro_f1"}
    for row, arm in zip(shown, study["arms"], strict=True):
        assert values(row["parameters"]) == [arm["parameters"]]
        assert values(row["GFLOP an image"]) == [arm["flops_per_image"]]
        assert values(row["seeds done"]) == [arm["done"], len(arm["runs"])]
        assert values(row["images/s"]) == numbers(arm["images_per_second"])
        for title, key in {**titles, "ECE, %": "ece"}.items():
            metric = arm["metrics"][key]
            assert values(row[title]) == numbers([metric["mean"], metric["std"], metric["interval"]])
    for row, arm in zip(rows(root, "arm-runs"), study["arms"], strict=True):
        for title, key in {**titles, "ECE, %": "ece"}.items():
            assert values(row[title]) == arm["metrics"][key]["values"]
    for row, one in zip(rows(root, "comparisons"), study["comparisons"], strict=True):
        assert values(row["difference, points"]) == [one["difference"]]
        assert values(row["interval, points"]) == numbers(one["interval"])
        assert values(row["p"]) == numbers(one["p_value"])
        assert row["verdict"].text == one["verdict"]
    tests = [test for one in study["comparisons"] for test in one["mcnemar"]]
    assert [[x for cell in row.values() for x in values(cell)] for row in rows(root, "mcnemar")] == [
        [test["seed"], test["only_arm"], test["only_baseline"], test["p_value"]] for test in tests
    ]
    assert values(rows(root, "agreement")[0]["moe_cnn"]) == [0.3123456]
    assert rows(root, "agreement")[0]["moe_expression"].text == rows(root, "agreement")[1]["moe_cnn"].text == "-"
    section = by_id(root, "study").parent
    assert section is not None and "simultaneous 95 % intervals" in section.text
    said = [study["question"], *study["conclusion"], study["left_out"][0]["why"]]
    places = [section.text.index(part) for part in said]
    assert places == sorted(places)


def test_what_a_study_s_figures_are_of() -> None:
    """The captions say which seeds are compared, which p-values are not corrected, and what the FLOPs count."""
    root = page_of("document")
    captions = {key: by_id(root, f"{key}-caption").text for key in ("comparisons", "mcnemar", "arms")}
    assert "over all of its seeds that are done" in captions["comparisons"]
    assert "both have" not in captions["comparisons"] and "seeds are not" in captions["comparisons"]
    assert "not corrected for the number of these tests" in captions["mcnemar"]
    assert "GFLOP an image are those of computing all experts" in captions["arms"]
    assert "GFLOP an image, all experts computed" in by_id(root, "run-0").text


def test_published_figures() -> None:
    report = documents.document()
    root = page_of("document")
    paper = report["against"][0]
    shown, classes = rows(root, "published-0"), rows(root, "published-0-classes")
    assert [row["comparable"].text for row in shown] == ["-", "not comparable", "comparable"]
    assert [row["why"].text for row in shown[1:]] == [one["why"] for one in paper["rows"]]
    documented = [{**paper["published"], "per_class_f1": paper["per_class_f1"]}, *paper["rows"]]
    for row, by_class, one in zip(shown, classes, documented, strict=True):
        found = [values(row[title])[0] for title in ("accuracy, %", "macro F1, %", "examples")]
        assert found == [one["accuracy"], one["macro_f1"], one["examples"]]
        assert {label: values(by_class[label])[0] for label in one["per_class_f1"]} == one["per_class_f1"]
    assert len(rows(root, "published-1")) == 2
    assert not [one for one in root if one.get("id") == "published-1-classes"]


def test_runs() -> None:
    """Every figure of every evaluation is in its run's part, and the overview has a row for each."""
    report = documents.document()
    root = page_of("document")
    expected = [(run, one) for run in report["runs"] for one in run["evaluations"] or [{}]]
    for row, (run, one) in zip(rows(root, "all-runs"), expected, strict=True):
        assert row["run"].all("a")[0].get("href") == f"#run-{report['runs'].index(run)}"
        assert values(row["seed"]) == [run["seed"]] and row["state"].text == run["state"]
        assert values(row["accuracy, %"]) == numbers(one.get("accuracy"))
        assert values(row["95 % interval, %"]) == numbers(one.get("accuracy_interval"))
        assert values(row["ECE, %"]) == numbers([one["depth"]["calibration"]["before"]["ece"]] if one else None)
    for place, run in enumerate(report["runs"]):
        part = by_id(root, f"run-{place}")
        shown = set(values(part))
        for one in run["evaluations"]:
            # 0 of 0 examples is no recall; the strengths of corruptions stand in the heads of columns
            unlike = {"strengths", "label"}
            assert set(numbers(without(one, unlike))) <= shown
        if run["training"] and run["training"]["validation"]:
            assert set(numbers(run["training"]["validation"])) <= shown
            assert set(numbers({**run["training"], "train": None})) <= shown
        if run["evaluations"]:
            assert {run["seed"], run["parameters"], run["flops_per_image"]} <= shown
            assert "data.name=fer2013" in part.text and "augment.flip=true" in part.text


def test_matrices() -> None:
    """Rows, columns and shares of the confusion matrix and of the experts' map, which has its document's transpose."""
    report = documents.single()
    found = report["runs"][0]["evaluations"][0]
    root = parse(report)
    key = "run-0-evaluation-0"
    shown = rows(root, f"{key}-confusion")
    counts = [[values(row[label])[0] for label in found["classes"]] for row in shown]
    assert counts == found["confusion"]
    assert [row["true \\ predicted"].text for row in shown] == found["classes"]
    for row, expected in zip(shown, found["confusion"], strict=True):
        for label, count in zip(found["classes"], expected, strict=True):
            cell = row[label].all("span")[0]
            share = count / sum(expected) if sum(expected) else 0.0
            assert cell.get("style") == f"--heat:{share:.3f}"
            assert cell.text == (f"{count}{100 * share:.1f} %" if sum(expected) else "0")
    layer = found["experts"]["moe_cnn"]
    for place, row in enumerate(rows(root, f"{key}-layer-0-map")):
        assert [values(row[str(expert)])[0] for expert in range(4)] == [by[place] for by in layer["classes"]]
    assert rows(root, f"{key}-classes")[1]["recall, %"].text == "-"
    surest = [one for by_expert in layer["surest"] for one in by_expert]
    assert [row["class"].text for row in rows(root, f"{key}-layer-0-surest")] == [
        found["classes"][one["label"]] for one in surest
    ]


def test_says_at_the_top_what_is_not_done() -> None:
    (header,) = page_of("document").all("header")
    assert "9 of 12 runs done, 1 failed, 1 missing, 1 unfinished." in header.text
    for part in ("seed0: failed: loss is NaN at step 40 <b>", "seed1: missing: no folder =1+1", "\u00e9t\u00e9"):
        assert part in header.text
    report = {"runs": [{"name": "a", "state": "not evaluated", "why": "no answers"}, {"name": "b", "state": "done"}]}
    report |= {"notes": ["a: not evaluated: no answers", "something else"]}
    (header,) = parse(report).all("header")
    assert "1 of 2 runs done, 1 not evaluated." in header.text
    assert header.text.count("no answers") == 1 and "something else" in header.text
    many = {"runs": [{"name": f"run {n}", "state": "missing"} for n in range(40)]}
    assert "run 29: missing" in parse(many).all("header")[0].text and "and 10 more" in parse(many).all("header")[0].text
    assert "no run was found" in parse(documents.empty()).all("main")[0].text
    assert "1 of 1 runs done." in parse(documents.single()).all("header")[0].text


def test_folded_only_among_others() -> None:
    assert by_id(page_of("single"), "run-0").up("details") is None
    root = page_of("document")
    assert by_id(root, "run-0").up("details") is not None
    gone = {**documents.document(), "runs": [{"name": "a", "state": "missing", "why": "gone"}, {"name": "b"}]}
    part = by_id(parse(gone), "run-0")
    assert part.up("details") is None and part.text.strip() == "Missing: gone"


def test_hostile_text() -> None:
    """Names are shown as text, whatever they hold; what would turn the page's text around is spelt out."""
    report = documents.document()
    text = page.render(report)
    root = Parser(text).root
    assert not {one.tag for one in root} & {
        "b",
        "others",
        "differs",
        "iframe",
        "object",
        "embed",
        "form",
        "input",
        "link",
    }
    assert len(root.all("script")) == 1 and len(root.all("img")) == 1
    assert not {"&#8238;", "\u202e", "&#27;", "\x1b"} & set(re.findall("&#[0-9]+;|.", text))
    assert "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;\\x1b[31m\\u202etxt" in root.text
    assert documents.ARABIC in root.text
    assert max(len(one.text) for one in root.all("h3")) < 250


@pytest.mark.parametrize(
    "source",
    [
        "javascript:alert(1)",
        "data:text/html,<script>",
        "https://example.org/a.png",
        "",
        None,
        'data:image/png;base64,"x',
    ],
)
def test_pictures(source: str | None) -> None:
    report = documents.single()
    (picture,) = report["runs"][0]["pictures"]
    (shown,) = parse(report).all("img")
    assert shown.get("src") == picture["src"] and shown.get("alt") == picture["alt"]
    picture["src"] = source
    root = parse(report)
    assert not root.all("img") and "This picture cannot be shown." in root.text


def test_verdicts_are_the_document_s() -> None:
    """The page's own words judge nothing."""
    text = page.render(documents.document())
    assert len(re.findall("better|worse", text)) == 6  # in a table, in a chart, in its description
    report = documents.document()
    for one in report["study"]["comparisons"]:
        one["verdict"] = "no difference shown"
    assert not re.search("better|worse", page.render(report), re.IGNORECASE)


def _holes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all that a document holds, lists at their first item only."""
    items = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from _holes(item, (*path, key))


def _small() -> dict[str, Any]:
    report = documents.document()
    del report["runs"][1:], report["study"]["arms"][2:], report["against"][1:]
    (run,) = report["runs"]
    del run["evaluations"][1:], run["training"]["train"][5:], run["pictures"][0]["src"]
    (evaluation,) = run["evaluations"]
    for when in ("before", "after"):
        del evaluation["depth"]["calibration"][when]["bins"][5:]
    evaluation["robustness"]["corruptions"] = {"blur": evaluation["robustness"]["corruptions"]["blur"]}
    return report


@pytest.mark.usefixtures("equal_charts_drawn_once")
def test_any_part_may_be_missing() -> None:
    small = _small()
    paths, whole = list(_holes(small)), page.render(small)
    assert len(paths) > 250
    for path in paths:
        place: Any = small
        for key in path[:-1]:
            place = place[key]
        old = place[path[-1]]
        for replacement in (None, {}, []):
            no_item = not (isinstance(place, list) and isinstance(old, dict))  # a list of runs is of runs
            if type(old) is type(replacement) or (replacement is None and no_item):
                place[path[-1]] = replacement
                text = page.render(small)
                place[path[-1]] = old
                assert text.endswith("</html>\n") and len(text) <= len(whole) + 200, path
                assert not re.search(r"\b(None|nan)\b", text), path
