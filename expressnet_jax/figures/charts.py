"""Charts inside a page: SVG by matplotlib in the colours and letters of the page's style sheet, light or dark.

Each is 440 units wide, so that its letters stay readable on a phone, and tells nothing by colour alone: lines differ in
dashes and markers, verdicts in markers and words. Each has a title and a description for screen readers; its numbers
stand in a table beside it. Keys are unique on the page: all ids are made of them.
"""

from __future__ import annotations

import io
import unicodedata
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from data_pipelines.common.text import LONG, shorten, shown
from expressnet_jax.figures.canvas import lighten

_WIDTH = 440
_LONGEST = 44  # letters of a name that fit above its row

#: Colours while drawing, which are those of the page when it is light, and the page's names for them.
_NAMES = {
    "#0072b2": "one", "#d55e00": "two", "#6b6b72": "three", "#1d1d1f": "text", "#5c5c63": "weak",
    "#dcdce0": "line", "#85858c": "axis", "#fdfdfc": "ground",
}  # fmt: skip
_ONE, _TWO, _THREE, _TEXT, _WEAK, _LINE, _AXIS, _GROUND = _NAMES

_LOOKS: tuple[dict[str, Any], ...] = (
    {"color": _ONE, "linestyle": "-", "marker": "o"},
    {"color": _TWO, "linestyle": (0, (4, 1.7)), "marker": "s"},
)
_POINTS: dict[str, Any] = {"linestyle": "", "markersize": 7.5, "markeredgewidth": 1.8}

#: The look of a verdict's marker; it is hollow where there is no difference.
_VERDICTS: dict[str, dict[str, Any]] = {
    "better": {"color": _ONE, "marker": "o"},
    "worse": {"color": _TWO, "marker": "s"},
    "no difference shown": {"color": _THREE, "marker": "o", "markerfacecolor": _GROUND},
    "not enough runs": {"color": _THREE, "marker": "D", "markerfacecolor": _GROUND},
}


class Line(NamedTuple):
    """A line of a chart. points: (x, y) in the order of x; look: 0 solid with circles, 1 dashed with squares."""

    name: str
    points: Sequence[tuple[float, float]]
    look: int = 0


class Difference(NamedTuple):
    """An arm against the baseline, as fractions; the interval is None where there are too few runs."""

    arm: str
    difference: float
    interval: tuple[float, float] | None
    verdict: str


class Dots(NamedTuple):
    """An arm's values, one a run, with their mean and its interval; fractions."""

    arm: str
    values: Sequence[float]
    mean: float | None
    interval: tuple[float, float] | None


def forest(key: str, rows: Sequence[Difference], baseline: str, level: str) -> Markup:
    """Each arm's difference in accuracy from the baseline, with simultaneous intervals and the verdict in words."""
    if not rows:
        return Markup("")
    chart = _rows_chart(46 * len(rows) + 12, 266, f"points, from {_cut(baseline, 32)}")
    chart.axes.axvline(0, color=_AXIS, linestyle="--", linewidth=1)
    told = []
    for place, row in enumerate(rows):
        y, look = 46 * place + 22, _VERDICTS.get(row.verdict, _VERDICTS["not enough runs"])
        chart.write(12, y, _cut(row.arm), fontweight="bold")
        chart.whisker(row.interval, y + 16, look["color"])
        chart.axes.plot([100 * row.difference], [y + 16], **_POINTS, **look)
        chart.write(282, y + 20, shown(row.verdict))
        ends = "" if row.interval is None else f" ({' to '.join(f'{100 * x:+.2f}' for x in row.interval)})"
        told.append(f"{row.arm} {100 * row.difference:+.2f}{ends}: {row.verdict}")
    title = f"Difference in accuracy from {baseline}, in points, with {level}"
    note = f"Difference in accuracy, with {level}. On the dashed line there is none."
    return chart.html(key, title, "; ".join(told), note)


def dots(key: str, rows: Sequence[Dots]) -> Markup:
    """Every run's accuracy as a circle, by arm; the mean as a diamond, its interval as a line."""
    rows = [row for row in rows if row.values]
    if not rows:
        return Markup("")
    chart = _rows_chart(50 * len(rows) + 12, 428, "accuracy, %")
    told = []
    for place, row in enumerate(rows):
        y, values = 50 * place + 22, [100 * x for x in row.values]
        chart.write(12, y, _cut(row.arm), fontweight="bold")
        chart.axes.plot(values, [y + 14] * len(values), marker="o", color=_ONE, markerfacecolor=_GROUND, **_POINTS)
        chart.whisker(row.interval, y + 25, _TWO)
        if row.mean is not None:
            chart.axes.plot([100 * row.mean], [y + 25], marker="D", color=_TWO, **_POINTS)
        mean = "-" if row.mean is None else f"{100 * row.mean:.2f}"
        told.append(f"{row.arm}: {', '.join(f'{x:.2f}' for x in values)}; mean {mean}")
    note = "Accuracy. Circles: runs. Diamond and line: their mean and its interval."
    return chart.html(key, "Accuracy of every run in %, by arm", ". ".join(told), note)


def lines(key: str, title: str, drawn: Sequence[Line], x_label: str, *, best: float | None = None) -> Markup:
    """Lines over a common x, as of training. best: where a dotted line marks the chosen epoch."""
    if not (drawn := [line for line in drawn if line.points]):
        return Markup("")
    chart = _Chart((_WIDTH, 290), (50, 44, 424, 246))
    chart.axes.margins(0.02, 0.06)
    chart.lines(drawn)
    xs = [x for line in drawn for x, _ in line.points]
    if best is not None and min(xs) <= best <= max(xs):
        chart.axes.axvline(best, color=_AXIS, linestyle=":", linewidth=1.5)
        place = chart.axes.get_xaxis_transform()
        chart.axes.annotate("best", (best, 1), (0, 4), place, "offset points", ha="center", color=_WEAK)
    chart.write(428, 283, x_label, ha="right", color=_WEAK)
    ends = ((name, *points[0], *points[-1]) for name, points, _ in drawn)
    told = "; ".join(f"{name} from {y:.4g} at {x:.4g} to {last:.4g} at {end:.4g}" for name, x, y, end, last in ends)
    return chart.html(key, title, f"Over {x_label}: {told}", title)


def reliability(key: str, drawn: Sequence[Line], sizes: Sequence[tuple[float, float, float]]) -> Markup:
    """Accuracy against confidence, both in %, the diagonal dashed.

    sizes: (low, high, examples as a share of the fullest bin's) of each bin, drawn as the bars at the foot.
    """
    if not (drawn := [line for line in drawn if line.points]):
        return Markup("")
    chart = _Chart((_WIDTH, 378), (50, 30, 424, 330))
    for low, high, share in sizes:
        chart.axes.bar(100 * low, 20 * share, 100 * (high - low) - 0.3, align="edge", color=_THREE, alpha=0.35)
    chart.axes.plot([0, 100], [0, 100], color=_AXIS, linestyle="--", linewidth=1)
    chart.axes.set(xlim=(0, 100), ylim=(0, 100))
    chart.lines(drawn)
    chart.write(428, 367, "confidence, %", ha="right", color=_WEAK)
    told = "; ".join(f"{line.name}: " + ", ".join(f"{x:.1f} {y:.1f}" for x, y in line.points) for line in drawn)
    note = "Accuracy, %, over confidence; on the dashed line they are equal. Bars at the foot: examples of each bin."
    return chart.html(key, "Accuracy against confidence, in %", f"Confidence and accuracy of each bin. {told}", note)


def panel(key: str, title: str, drawn: Sequence[Line]) -> Markup:
    """A small chart of values in % over strengths; all panels have one scale."""
    if not (drawn := [line for line in drawn if line.points]):
        return Markup("")
    chart = _Chart((190, 154), (34, 30, 182, 130))
    chart.axes.margins(x=0.04)
    chart.lines(drawn, legend=False)
    xs = sorted({x for line in drawn for x, _ in line.points})
    chart.axes.set(ylim=(0, 100), yticks=(0, 50, 100), xticks=xs)
    chart.axes.grid(False, axis="x")
    chart.write(4, 14, _cut(title, 24), fontweight="bold")
    told = "; ".join(f"{line.name} {', '.join(f'{y:.2f}' for _, y in line.points)}" for line in drawn)
    return chart.html(key, f"{title}: in % by strength", told, "", "panel")


def _rows_chart(bottom: int, right: int, label: str) -> _Chart:
    """A chart of a common x for rows, whose y is the drawing's own."""
    chart = _Chart((_WIDTH, bottom + 50), (12, 8, right, bottom))
    chart.axes.set(ylim=(bottom, 8), yticks=())
    chart.axes.margins(x=0.06)
    chart.write(428, bottom + 37, label, ha="right", color=_WEAK)
    return chart


class _Chart:
    """A drawing of (width, height) points, matplotlib's units, with axes in a box (left, top, right, bottom)."""

    def __init__(self, size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
        self._width, self._height = size
        left, top, right, bottom = box
        self._figure = Figure(figsize=(self._width / 72, self._height / 72), dpi=72)
        place = left / self._width, 1 - bottom / self._height
        self.axes = self._figure.add_axes((*place, (right - left) / self._width, (bottom - top) / self._height))
        for patch in (self._figure.patch, self.axes.patch):
            patch.set_visible(False)
        lighten(self.axes, _LINE)
        self.axes.tick_params(left=False, bottom=False, labelsize=13, labelcolor=_TEXT)
        for axis in (self.axes.xaxis, self.axes.yaxis):
            axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value + 0.0:.10g}"))

    def write(self, x: float, y: float, text: str, **look: Any) -> None:
        """Text that is no formula, at a place in units from the upper left corner."""
        look = {"color": _TEXT, "fontsize": 13, "parse_math": False, **look}
        self._figure.text(x / self._width, 1 - y / self._height, text, **look)

    def lines(self, drawn: Sequence[Line], legend: bool = True) -> None:
        """Lines with markers where those leave the line visible, and their names above the axes."""
        for line in drawn:
            xs, ys = zip(*line.points, strict=True)
            look = _LOOKS[line.look] | ({} if len(xs) <= 40 else {"marker": ""})
            self.axes.plot(xs, ys, label=line.name, linewidth=1.8, markersize=6.5, **look)
        if legend:  # its letters have room for those of a phone
            self._figure.legend(
                ncols=2, frameon=False, labelcolor=_TEXT, loc="upper left", bbox_to_anchor=(46 / self._width, 1),
                borderpad=0.1, fontsize=14.5, handlelength=1.8, columnspacing=0.8,
            )  # fmt: skip

    def whisker(self, interval: tuple[float, float] | None, y: float, color: str) -> None:
        """An interval of fractions as a line with ends; nothing where there is none."""
        if interval is not None:
            ends = [100 * x for x in interval]
            self.axes.plot(ends, [y, y], color=color, marker="|", markersize=8, markeredgewidth=2, linewidth=2)

    def html(self, key: str, title: str, description: str, note: str, kind: str = "") -> Markup:
        """The drawing as a <figure> with its caption; nothing of it refers to anything outside."""
        figure = Element("figure", {"class": kind} if kind else {})
        if note:
            SubElement(figure, "figcaption").text = shown(note, LONG)
        about = {"aria-labelledby": f"{key}-title", "aria-describedby": f"{key}-description"}
        svg = SubElement(figure, "svg", {"role": "img", "viewBox": f"0 0 {self._width} {self._height}"} | about)
        SubElement(svg, "title", id=f"{key}-title").text = shown(title, LONG)
        SubElement(svg, "desc", id=f"{key}-description").text = shown(description, LONG)
        svg.append(self._drawn(key))
        return Markup(ElementTree.tostring(figure, encoding="unicode") + "\n")

    def _drawn(self, key: str) -> Element:
        """Matplotlib's drawing without what makes a file of it, in the page's colours and letters."""
        stream = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        with warnings.catch_warnings(), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
            warnings.filterwarnings("ignore", "Glyph")  # the page's fonts have letters that matplotlib's have not
            self._figure.savefig(stream, format="svg", metadata=nothing)
        drawn = ElementTree.fromstring(stream.getvalue()).find("{*}g")
        assert drawn is not None
        for one in drawn.iter():
            one.tag, one.tail = one.tag.rpartition("}")[2], None
            one.text = one.text if one.tag == "text" else None
            # Ids are for the shapes of markers alone, nothing is cut off, and all is turned by 0 degrees.
            dropped = ("clip-path", "transform", "id" if one.tag == "g" else "")
            one.attrib = {name.rpartition("}")[2]: value for name, value in one.items() if name not in dropped}
            if "style" in one.attrib:
                one.attrib["style"] = _restyled(one.attrib["style"])
        return drawn


def _restyled(style: str) -> str:
    """A style attribute without a font of its own, and with the page's names of colours."""
    parts = [part.strip().split(": ") for part in style.split(";") if part]
    kept = [(name, value) for name, value in parts if name not in ("font-size", "font-family")]
    return "; ".join(f"{name}: {f'var(--{_NAMES[value]})' if value in _NAMES else value}" for name, value in kept)


def _cut(name: str, longest: int = _LONGEST) -> str:
    """A name as short as there is room for; letters of double width count twice."""
    name = shown(name, LONG)
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in name[:longest])
    return shorten(name, max(longest - wide, longest // 2))
