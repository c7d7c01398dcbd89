"""Charts of the report: read back from the drawing by the scale of its own ticks, they give the numbers drawn."""

import re
import warnings
from typing import Any, NamedTuple
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expressnet_jax.figures import charts
from expressnet_jax.figures.charts import Difference, Dots, Line
from expressnet_jax.report import page
from tests import report_document as documents
from tests.page_tree import Parser, by_id, rows, values
from tests.report_document import HOSTILE

Point = tuple[float, float]


class Marker(NamedTuple):
    shape: str
    place: Point
    hollow: bool


def drawing(chart: str) -> ElementTree.Element:
    (svg,) = ElementTree.fromstring(chart).findall("svg")
    return svg


def texts(svg: ElementTree.Element) -> list[str]:
    return [one.text or "" for one in svg.iter("text")]


def scale(svg: ElementTree.Element, axis: str) -> Any:
    """From pixels to values along x or y, through the ticks: numbers with the lines of the grid that they belong to."""
    side = 0 if axis == "x" else 1
    ticks = []
    for one in svg.iter("g"):
        if len(one) == 2 and one[0].findall("path") and re.fullmatch("-?[0-9.e+]+", one[1].findtext("text") or ""):
            start, *_, end = points(one[0].findall("path")[0])
            if start[side] == end[side]:
                ticks.append((start[side], float(one[1].findtext("text") or "")))
    assert 2 <= len(ticks) <= 9
    slope, start = np.polyfit(*zip(*ticks, strict=True), 1)
    return lambda pixel: slope * pixel + start


def points(path: ElementTree.Element) -> list[Point]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] (-?[0-9.]+) (-?[0-9.]+)", path.get("d") or "")]


def strokes(svg: ElementTree.Element, colour: str) -> list[ElementTree.Element]:
    """The lines of a colour, without the shapes of markers; in a chart with a legend its sample is the last."""
    shapes = [one for defs in svg.iter("defs") for one in defs]
    found = [one for one in svg.iter("path") if f"stroke: var(--{colour})" in (one.get("style") or "")]
    return [one for one in found if one not in shapes]


def ends(path: ElementTree.Element) -> list[float]:
    return [x for x, _ in points(path)]


def markers(svg: ElementTree.Element, colour: str, shapes: str = "circle square diamond") -> list[Marker]:
    """Those with an area; the ends of intervals have none."""
    found = []
    for one in svg.iter("use"):
        (shape,) = (path for path in svg.iter("path") if f"#{path.get('id')}" == one.get("href"))
        known = (
            "circle"
            if "C" in shape.get("d", "")
            else {5: "diamond", 4: "square"}.get(len(points(shape)) + ("M -0" in shape.get("d", "")))
        )
        style = one.get("style") or ""
        if f"stroke: var(--{colour})" in style and known in shapes.split():
            place = float(one.get("x", 0)), float(one.get("y", 0))
            found.append(Marker(str(known), place, "fill: var(--ground)" in style))
    return found


def test_forest() -> None:
    rows = [
        Difference("more", 0.0174, (0.0123, 0.0225), "better"),
        Difference("less", -0.0212, (-0.0312, -0.0112), "worse"),
        Difference("same", 0.001, (-0.01, 0.012), "no difference shown"),
        Difference("few", 0.02, None, "not enough runs"),
    ]
    svg = drawing(charts.forest("f", rows, "base", "simultaneous 95 % intervals"))
    value = scale(svg, "x")
    whiskers = [strokes(svg, colour) for colour in ("one", "two", "three")]
    assert [len(found) for found in whiskers] == [1, 1, 1]  # none for too few runs
    for row, (whisker,) in zip(rows, whiskers, strict=False):
        assert np.allclose([value(x) for x in ends(whisker)], [100 * x for x in row.interval or ()], atol=0.02)
    found = [one for colour in ("one", "two", "three") for one in markers(svg, colour)]
    assert [value(one.place[0]) for one in found] == pytest.approx([1.74, -2.12, 0.1, 2], abs=0.02)
    # not by colour alone: another shape, or hollow, and the word
    assert [(one.shape, one.hollow) for one in found] == [
        ("circle", False), ("square", False), ("circle", True), ("diamond", True),
    ]  # fmt: skip
    assert [row.verdict for row in rows] == [text for text in texts(svg) if text in {row.verdict for row in rows}]
    (zero,) = strokes(svg, "axis")
    assert "stroke-dasharray" in (zero.get("style") or "") and value(ends(zero)[0]) == pytest.approx(0, abs=0.02)
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
    runs, (mean,) = markers(svg, "one"), markers(svg, "two")
    assert np.allclose([value(one.place[0]) for one in runs], [61, 62, 64.5, 59], atol=0.02)
    assert {(one.shape, one.hollow) for one in runs} == {("circle", True)}
    (whisker,) = strokes(svg, "two")
    assert np.allclose([value(x) for x in ends(whisker)], [60, 65], atol=0.02)
    assert mean.shape == "diamond" and value(mean.place[0]) == pytest.approx(62.5, abs=0.02)
    assert "no" not in texts(svg) and "one: 61.00, 62.00, 64.50; mean 62.50" in (svg.findall("desc")[0].text or "")
    assert "two: 59.00; mean -" in (svg.findall("desc")[0].text or "")


def test_lines() -> None:
    first = Line("training", [(0.5, 2.0), (1.0, 1.5), (3.0, 1.25)])
    second = Line("validation", [(1.0, 1.75), (3.0, 0.75)], look=1)
    svg = drawing(charts.lines("l", "Loss", [first, second, Line("nothing", [])], "epoch", best=1.0))
    across, up = scale(svg, "x"), scale(svg, "y")
    for line, colour in ((first, "one"), (second, "two")):
        found, sample = strokes(svg, colour)
        assert np.allclose([(across(x), up(y)) for x, y in points(found)], line.points, atol=0.02)
        for one in (found, sample):
            assert ("stroke-dasharray" in (one.get("style") or "")) == (colour == "two")
    assert [one.shape for one in markers(svg, "one")] == 4 * ["circle"]  # one of them in the legend
    assert [one.shape for one in markers(svg, "two")] == 3 * ["square"]
    (best,) = strokes(svg, "axis")
    assert "stroke-dasharray" in (best.get("style") or "")
    assert across(ends(best)[0]) == pytest.approx(1, abs=0.02)
    assert {"training", "validation", "best", "epoch"} <= set(texts(svg)) and "nothing" not in texts(svg)
    long = drawing(
        charts.lines("l", "Loss", [Line("training", [(x / 9, x % 7) for x in range(100)])], "epoch", best=99)
    )
    assert not markers(long, "one") and "best" not in texts(long)


def test_reliability() -> None:
    before = Line("before", [(15.0, 10.0), (75.0, 60.0)])
    after = Line("after", [(20.0, 22.0), (70.0, 69.0)], look=1)
    svg = drawing(charts.reliability("r", [before, after], [(0.1, 0.2, 0.5), (0.7, 0.8, 1.0)]))
    across, up = scale(svg, "x"), scale(svg, "y")
    for line, colour in ((before, "one"), (after, "two")):
        found = points(strokes(svg, colour)[0])
        assert np.allclose([(across(x), up(y)) for x, y in found], line.points, atol=0.1)
    bars = [points(one) for one in svg.iter("path") if "fill: var(--three)" in (one.get("style") or "")]
    half, full = ([(across(x), up(y)) for x, y in corners] for corners in bars)
    assert np.allclose([min(x for x, _ in half), max(x for x, _ in half)], [10, 20], atol=0.5)
    assert [max(y for _, y in bar) for bar in (half, full)] == pytest.approx([10, 20], abs=0.1)
    assert [min(y for _, y in bar) for bar in (half, full)] == pytest.approx([0, 0], abs=0.1)
    (diagonal,) = strokes(svg, "axis")
    assert "stroke-dasharray" in (diagonal.get("style") or "")
    assert np.allclose([(across(x), up(y)) for x, y in points(diagonal)], [(0, 0), (100, 100)], atol=0.1)


def test_panel() -> None:
    svg = drawing(charts.panel("p", "blur", [Line("accuracy", [(0, 62.0), (5, 20.0)]), Line("macro F1", [], 1)]))
    up, (line,) = scale(svg, "y"), strokes(svg, "one")
    assert np.allclose([up(y) for _, y in points(line)], [62, 20], atol=0.1)
    strengths = {one.text: float(one.get("x", 0)) for one in svg.iter("text")}
    assert [strengths["0"], strengths["5"]] != [x for x, _ in points(line)]
    assert not strokes(svg, "two") and "blur" in texts(svg)


def all_charts(key: str) -> list[str]:
    line = [Line("accuracy", [(0, 62.0), (5, 20.0)]), Line("macro F1", [(0, 60.0), (5, 19.0)], 1)]
    return [
        charts.forest(f"{key}f", [Difference("arm", 0.01, (0.0, 0.02), "better")], "base", "intervals"),
        charts.dots(f"{key}d", [Dots("arm", [0.5, 0.6], 0.55, (0.5, 0.6))]),
        charts.lines(f"{key}l", "Accuracy", line, "epoch", best=5),
        charts.reliability(f"{key}r", line, [(0.1, 0.2, 0.5)]),
        charts.panel(f"{key}p", "blur", line),
    ]


def test_colours_and_letters_are_the_page_s() -> None:
    for chart in all_charts("a"):
        svg = drawing(chart)
        assert not re.search("#[0-9a-f]{6}\\b|font-size|font-family|clip", chart)
        assert {one.tag for one in svg.iter()} <= {"svg", "title", "desc", "path", "text", "g", "defs", "use"}
        assert all("var(--" in (one.get("style") or "") for one in svg.iter("text"))
        assert "http" not in chart and "url(" not in chart and "xmlns" not in chart


def test_charts_of_other_keys_share_no_id_and_the_same_data_give_the_same_text() -> None:
    assert all_charts("a") == all_charts("a")
    page = ElementTree.fromstring(f"<p>{''.join(all_charts('a') + all_charts('b'))}</p>")
    ids = [one.get("id") for one in page.iter() if one.get("id")]
    assert len(ids) == len(set(ids)) > 20
    assert {str(one.get("href"))[1:] for one in page.iter("use")} <= set(ids)


def test_drawing_leaves_the_settings_of_matplotlib_and_warns_of_no_letter() -> None:
    before = dict(matplotlib.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        charts.dots("d", [Dots("\u9854\u0915\U0001f600", [0.5], 0.5, None)])
    assert dict(matplotlib.rcParams) == before


def test_nothing_to_draw() -> None:
    assert charts.forest("f", [], "base", "") == charts.dots("d", []) == charts.lines("l", "", [], "") == ""
    assert charts.reliability("r", [Line("before", [])], []) == charts.panel("p", "blur", []) == ""


def test_hostile_names() -> None:
    """Names are text, short enough for their place; the whole name is in the description."""
    for name in (HOSTILE, "very_long_" * 60, "\u9854" * 200, "a#0072b2"):
        row = Difference(name, 0.01, None, name)
        for chart in (charts.forest("f", [row], name, name), charts.dots("d", [Dots(name, [0.5], 0.5, None)])):
            svg = drawing(chart)
            assert {one.tag for one in svg.iter()} <= {"svg", "title", "desc", "path", "text", "g", "defs", "use"}
            (shown,) = (one for one in svg.iter("text") if "font-weight" in (one.get("style") or ""))
            assert len(shown.text or "") <= 60 and "\u202e" not in chart and "\x1b" not in chart
    assert len(texts(drawing(charts.dots("d", [Dots("\u9854" * 200, [0.5], 0.5, None)])))[-1]) <= 26
    svg = drawing(charts.dots("d", [Dots(r"$\frac$ $x$", [0.5], 0.5, None)]))
    assert r"$\frac$ $x$" in texts(svg)


def test_a_long_training_is_thinned_and_says_so() -> None:
    report = documents.single()
    (found,) = report["runs"]
    # Up and down by the groups of which means are taken: points in a row would be drawn as one piece.
    train = [[n / 10, 1000.0 + n + 400 * ((n - 1) % 8 < 4), 0.5] for n in range(1, 1001)]
    validation = [[n / 5, 2000.0 + n + 400 * ((n - 1) % 4 < 2), 0.25, 0.125] for n in range(1, 501)]
    found["training"] |= {"train": train, "validation": validation, "best_epoch": 7.5}
    root = Parser(page.render(report)).root
    shown = rows(root, "run-0-epochs")
    assert len(shown) == 167
    assert by_id(root, "run-0-epochs-caption").text == (
        "Every 3rd validation up to the last, and the last training record before it."
    )
    for row, record in zip(shown, validation[1::3], strict=True):
        assert values(row["epoch"]) == [record[0]] and values(row["validation loss"]) == [record[1]]
        assert values(row["training loss"]) == [train[round(10 * record[0]) - 1][1]]  # of the same epoch
    (loss, *_) = (one for one in root.all("svg") if one.get("aria-labelledby") == "run-0-loss-title")
    assert (
        "training (mean of 4 records)" in loss.text and "validation: mean of 2" in by_id(root, "run-0-loss-title").text
    )
    drawn = [len(path.get("d").split("L")) for path in loss.all("path")]
    assert len([n for n in drawn if 250 <= n <= 252]) == 2  # matplotlib may end a line twice
    found["training"]["validation"] = []
    root = Parser(page.render(report)).root
    assert len(rows(root, "run-0-epochs")) == 59 and values(rows(root, "run-0-epochs")[-1]["training loss"]) == [2000]
    assert by_id(root, "run-0-epochs-caption").text.startswith("Every 17th training record up to the last; this run")


def _box(svg: ElementTree.Element) -> list[Point]:
    """Places of all that is drawn."""
    shapes = [one for defs in svg.iter("defs") for one in defs]
    found = [(float(one.get("x", 0)), float(one.get("y", 0))) for one in svg.iter() if one.tag in ("use", "text")]
    return found + [point for one in svg.iter("path") if one not in shapes for point in points(one)]


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
