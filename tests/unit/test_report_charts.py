"""Charts of the report: read back from the drawing by the scale of its own ticks, they give the numbers drawn."""

import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expressnet_jax.report import charts, page
from expressnet_jax.report.charts import Difference, Dots, Line
from tests import report_document as documents
from tests.page_tree import Parser, by_id, rows, values
from tests.report_document import HOSTILE


def drawing(chart: str) -> ElementTree.Element:
    (svg,) = ElementTree.fromstring(chart).findall("svg")
    return svg


def texts(svg: ElementTree.Element) -> list[str]:
    return [one.text or "" for one in svg.iter("text")]


def scale(svg: ElementTree.Element, axis: str) -> Any:
    """From pixels to values along x or y, through the labels of the ticks: those that are numbers and share a line."""
    ticks = [one for one in svg.iter("text") if re.fullmatch(r"-?[0-9.]+", one.text or "")]
    other = "y" if axis == "x" else "text-anchor"
    wanted = max(float(one.get("y", 0)) for one in ticks) if axis == "x" else "end"
    ticks = [one for one in ticks if (float(one.get("y", 0)) if other == "y" else one.get(other)) == wanted]
    assert 2 <= len(ticks) <= 9
    places = [float(one.get(axis, 0)) - (4 if axis == "y" else 0) for one in ticks]
    slope, start = np.polyfit(places, [float(one.text or "") for one in ticks], 1)
    return lambda pixel: slope * pixel + start


def points(group: ElementTree.Element) -> list[tuple[float, float]]:
    (path,) = group.findall("path")
    return [tuple(map(float, pair.split())) for pair in (path.get("d") or "")[1:].split("L")]  # type: ignore[misc]


def groups(svg: ElementTree.Element, colour: str) -> list[ElementTree.Element]:
    return [one for one in svg.findall("g") if one.get("class") == colour]


def whisker(group: ElementTree.Element) -> tuple[float, float]:
    left, right = re.match(r"M([-0-9.]+) [0-9.]+H([-0-9.]+)", group.findall("path")[0].get("d") or "").groups()  # type: ignore[union-attr]
    return float(left), float(right)


def test_forest() -> None:
    rows = [
        Difference("more", 0.0174, (0.0123, 0.0225), "better"),
        Difference("less", -0.0212, (-0.0312, -0.0112), "worse"),
        Difference("same", 0.001, (-0.01, 0.012), "no difference shown"),
        Difference("few", 0.02, None, "not enough runs"),
    ]
    svg = drawing(charts.forest("f", rows, "base", "simultaneous 95 % intervals"))
    value = scale(svg, "x")
    (one,), (two,), (same, few) = groups(svg, "one"), groups(svg, "two"), groups(svg, "three")
    for row, group in zip(rows, (one, two, same), strict=False):
        assert np.allclose([value(x) for x in whisker(group)], [100 * x for x in row.interval or ()], atol=0.02)
    assert value(float(one.findall("circle")[0].get("cx", 0))) == pytest.approx(1.74, abs=0.02)
    assert value(float(two.findall("rect")[0].get("x", 0)) + 3.4) == pytest.approx(-2.12, abs=0.02)
    assert value(float(same.findall("circle")[0].get("cx", 0))) == pytest.approx(0.1, abs=0.02)
    assert not [path for path in few.findall("path") if "H" in (path.get("d") or "")]  # no interval
    # not by colour alone: another shape, or hollow, and the word
    assert [one.findall("circle")[0].get("class"), same.findall("circle")[0].get("class")] == [None, "hollow"]
    assert [row.verdict for row in rows] == [text for text in texts(svg) if text in {row.verdict for row in rows}]
    zero = [path for path in svg.findall("path") if path.get("stroke-dasharray")]
    assert value(float(re.findall(r"M([0-9.]+)", zero[0].get("d") or "")[0])) == pytest.approx(0, abs=0.02)
    title, description = svg.findall("title")[0].text or "", svg.findall("desc")[0].text or ""
    assert "from base" in title and "simultaneous 95 % intervals" in title
    assert "more +1.74 (+1.23 to +2.25): better; less -2.12" in description and "few +2.00: not enough" in description


def test_dots() -> None:
    rows = [
        Dots("one", [0.61, 0.62, 0.645], 0.625, (0.6, 0.65)),
        Dots("two", [0.59], None, None),
        Dots("no", [], None, None),
    ]
    svg = drawing(charts.dots("d", rows))
    value = scale(svg, "x")
    circles = [[value(float(c.get("cx", 0))) for c in group.findall("circle")] for group in groups(svg, "one")]
    assert np.allclose(circles[0], [61, 62, 64.5], atol=0.02) and np.allclose(circles[1], [59], atol=0.02)
    mean, none = groups(svg, "two")
    assert np.allclose([value(x) for x in whisker(mean)], [60, 65], atol=0.02) and not len(none)
    diamond = re.match(r"M([0-9.]+)", mean.findall("path")[1].get("d") or "")
    assert diamond and value(float(diamond[1])) == pytest.approx(62.5, abs=0.02)
    assert "no" not in texts(svg) and "one: 61.00, 62.00, 64.50; mean 62.50" in (svg.findall("desc")[0].text or "")


def test_lines() -> None:
    first = Line("training", [(0.5, 2.0), (1.0, 1.5), (3.0, 1.25)])
    second = Line("validation", [(1.0, 1.75), (3.0, 0.75)], look=1)
    svg = drawing(charts.lines("l", "Loss", [first, second, Line("nothing", [])], "epoch", best=1.0))
    across, up = scale(svg, "x"), scale(svg, "y")
    for line, group in ((first, groups(svg, "one")[-1]), (second, groups(svg, "two")[-1])):
        found = [(across(x), up(y)) for x, y in points(group)]
        assert np.allclose(found, line.points, atol=0.02)
    assert groups(svg, "two")[-1].findall("path")[0].get("stroke-dasharray")
    assert len(groups(svg, "one")[-1].findall("circle")) == 3 and len(groups(svg, "two")[-1].findall("rect")) == 2
    (best,) = (path for path in svg.findall("path") if path.get("stroke-dasharray"))
    assert across(float(re.findall(r"M([0-9.]+)", best.get("d") or "")[0])) == pytest.approx(1, abs=0.02)
    assert {"training", "validation", "best", "epoch"} <= set(texts(svg)) and "nothing" not in texts(svg)
    long = drawing(
        charts.lines("l", "Loss", [Line("training", [(x / 9, x % 7) for x in range(100)])], "epoch", best=99)
    )
    assert not long.findall("g")[-1].findall("circle") and "best" not in texts(long)


def test_reliability() -> None:
    before = Line("before", [(15.0, 10.0), (75.0, 60.0)])
    after = Line("after", [(20.0, 22.0), (70.0, 69.0)], look=1)
    svg = drawing(charts.reliability("r", [before, after], [(0.1, 0.2, 0.5), (0.7, 0.8, 1.0)]))
    across, up = scale(svg, "x"), scale(svg, "y")
    for line, group in ((before, groups(svg, "one")[-1]), (after, groups(svg, "two")[-1])):
        assert np.allclose([(across(x), up(y)) for x, y in points(group)], line.points, atol=0.1)
    half, full = ([float(bar.get(key, 0)) for key in ("x", "y", "width", "height")] for bar in svg.findall("rect"))
    assert np.allclose([across(half[0]), across(half[0] + half[2] + 1)], [10, 20], atol=0.1)
    assert full[3] == 2 * half[3] > 0 and half[1] + half[3] == full[1] + full[3]
    (diagonal,) = (path.get("d") or "" for path in svg.findall("path") if path.get("stroke-dasharray"))
    ends = [tuple(map(float, pair.split())) for pair in diagonal[1:].split("L")]
    assert np.allclose([(across(x), up(y)) for x, y in ends], [(0, 0), (100, 100)], atol=0.1)


def test_panel() -> None:
    svg = drawing(charts.panel("p", "blur", [Line("accuracy", [(0, 62.0), (5, 20.0)]), Line("macro F1", [], 1)]))
    across, up = scale(svg, "x"), scale(svg, "y")
    assert np.allclose([(across(x), up(y)) for x, y in points(groups(svg, "one")[0])], [(0, 62), (5, 20)], atol=0.1)
    assert not groups(svg, "two") and texts(svg)[0] == "blur"


def test_nothing_to_draw() -> None:
    assert charts.forest("f", [], "base", "") == charts.dots("d", []) == charts.lines("l", "", [], "") == ""
    assert charts.reliability("r", [Line("before", [])], []) == charts.panel("p", "blur", []) == ""


def test_hostile_names() -> None:
    """Names are text, short enough for their place; the whole name is in the description."""
    for name in (HOSTILE, "very_long_" * 60, "\u9854" * 200, ""):
        row = Difference(name, 0.01, None, name)
        for chart in (charts.forest("f", [row], name, name), charts.dots("d", [Dots(name, [0.5], 0.5, None)])):
            svg = drawing(chart)
            assert {one.tag for one in svg.iter()} <= {"svg", "title", "desc", "path", "text", "g", "circle"}
            (shown,) = (one for one in svg.iter("text") if one.get("class") == "strong")
            assert len(shown.text or "") <= 60 and "\u202e" not in chart and "\x1b" not in chart
    assert len(texts(drawing(charts.dots("d", [Dots("\u9854" * 200, [0.5], 0.5, None)])))[-1]) <= 26


def test_a_long_training_is_thinned_and_says_so() -> None:
    report = documents.single()
    (found,) = report["runs"]
    train = [[n / 10, 1000.0 + n, 0.5] for n in range(1, 1001)]
    validation = [[n / 5, 2000.0 + n, 0.25, 0.125] for n in range(1, 501)]
    found["training"] |= {"train": train, "validation": validation, "best_epoch": 7.5}
    root = Parser(page.render(report)).root
    shown = rows(root, "run-0-epochs")
    assert len(shown) == 167
    assert by_id(root, "run-0-epochs-caption").text == (
        "Every 3rd validation up to the last, and the last training record before it."
    )
    for row, record in zip(shown, validation[1::3], strict=True):
        assert values(row["epoch"]) == [record[0]] and values(row["validation loss"]) == [record[1]]
        assert values(row["training loss"]) == [1000 + 10 * record[0]]  # of the same epoch
    (loss, *_) = (one for one in root.all("svg") if one.get("aria-labelledby") == "run-0-loss-title")
    assert (
        "training (mean of 4 records)" in loss.text and "validation: mean of 2" in by_id(root, "run-0-loss-title").text
    )
    points = [len(path.get("d").split("L")) for path in loss.all("path") if "L" in path.get("d")]
    assert points == [250, 250]
    found["training"]["validation"] = []
    root = Parser(page.render(report)).root
    assert len(rows(root, "run-0-epochs")) == 59 and values(rows(root, "run-0-epochs")[-1]["training loss"]) == [2000]
    assert by_id(root, "run-0-epochs-caption").text.startswith("Every 17th training record up to the last; this run")


def _box(svg: ElementTree.Element) -> list[tuple[float, float]]:
    """Places of all that is drawn."""
    found = [(float(one.get("cx", 0)), float(one.get("cy", 0))) for one in svg.iter("circle")]
    found += [(float(one.get("x", 0)), float(one.get("y", 0))) for one in svg.iter("rect")]
    found += [(float(one.get("x", 0)), float(one.get("y", 0))) for one in svg.iter("text")]
    for path in svg.iter("path"):
        found += [(float(x), float(y)) for x, y in re.findall(r"[ML](-?[0-9.]+) (-?[0-9.]+)", path.get("d") or "")]
    return found


finite = st.one_of(st.floats(-1e9, 1e9), st.floats(-1e300, 1e300))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=6), st.floats(0, 1), st.floats(0, 1))
def test_everything_is_inside(pairs: list[tuple[float, float]], one: float, two: float) -> None:
    interval = (min(one, two), max(one, two))
    drawn = [
        charts.lines("l", "Loss", [Line("training", pairs)], "epoch", best=pairs[0][0]),
        charts.dots("d", [Dots("arm", [one, two], (one + two) / 2, interval)]),
        charts.forest("f", [Difference("arm", one - two, (-one, two), "better")], "base", "intervals"),
    ]
    for chart in drawn:
        svg = drawing(chart)
        _, _, width, height = map(float, (svg.get("viewBox") or "").split())
        assert all(0 <= x <= width and 0 <= y <= height for x, y in _box(svg))
        assert "nan" not in chart and "inf" not in chart.replace("info", "")
