"""Charts as SVG inside the page: no library draws them, and the page's style sheet colours them, light or dark.

Each is 440 units wide, so that its letters stay readable on a phone, and tells nothing by colour alone: lines differ in
dashes and markers, verdicts in markers and words. Each has a title and a description for screen readers; its numbers
stand in a table beside it. Keys are unique on the page: the ids of title and description are made of them.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup as Html

from data_pipelines.common.pages import number, text
from expressnet_jax.evaluation.metrics import shorten

_WIDTH = 440
_LONGEST = 52  # letters of a name that fit above its row
_Point = tuple[float, float]

#: Verdict -> (colour, marker, whether it is hollow).
_VERDICTS = {
    "better": ("one", "circle", False),
    "worse": ("two", "square", False),
    "no difference shown": ("three", "circle", True),
    "not enough runs": ("three", "diamond", True),
}


@dataclass(frozen=True)
class Line:
    """A line of a chart. points: (x, y) in the order of x; look: 0 solid with circles, 1 dashed with squares."""

    name: str
    points: Sequence[_Point]
    look: int = 0


@dataclass(frozen=True)
class Difference:
    """An arm against the baseline, as fractions; the interval is None where there are too few runs."""

    arm: str
    difference: float
    interval: tuple[float, float] | None
    verdict: str


@dataclass(frozen=True)
class Dots:
    """An arm's values, one a run, with their mean and its interval; fractions."""

    arm: str
    values: Sequence[float]
    mean: float | None
    interval: tuple[float, float] | None


class _Axis:
    """Values to units of the drawing, with 3 to 7 round ticks."""

    def __init__(self, values: Iterable[float], start: float, end: float, margin: float = 0.06) -> None:
        known = list(values)
        low, high = min(known), max(known)
        rooms = ((high - low) * margin, abs(high) * margin)
        room = next((room for room in rooms if room > 1e-300), 1.0)  # of less, a sixth could be 0
        self._low, self._high = (low - room, high + room) if margin else (low, high)
        self._start, self._end = start, end
        self._step = _round_step((self._high - self._low) / 6)

    def __call__(self, value: float) -> float:
        return self._start + (value - self._low) / (self._high - self._low) * (self._end - self._start)

    def ticks(self) -> list[tuple[float, str]]:
        """(place, label) of each tick."""
        digits = max(0, -math.floor(math.log10(self._step) + 1e-9))
        first, last = math.ceil(self._low / self._step - 1e-9), math.floor(self._high / self._step + 1e-9)
        return [(self(i * self._step), f"{i * self._step + 0.0:.{digits}f}") for i in range(first, last + 1)]


def forest(key: str, rows: Sequence[Difference], baseline: str, level: str) -> Html:
    """Each arm's difference in accuracy from the baseline, with simultaneous intervals and the verdict in words."""
    if not rows:
        return Html("")
    axis = _Axis([0.0, *(100 * x for row in rows for x in (row.difference, *(row.interval or ())))], 12, 286)
    bottom = 46 * len(rows) + 12
    body = _x_axis(axis, 8, bottom, f"points of accuracy, from {_cut(baseline, 36)}")
    body += f'<path class="axis" stroke-dasharray="4 3" d="M{axis(0):.1f} 8V{bottom}"/>'
    told = []
    for place, row in enumerate(rows):
        y = 46 * place + 22
        colour, marker, hollow = _VERDICTS.get(row.verdict, _VERDICTS["not enough runs"])
        drawn = _whisker(axis, row.interval, y + 16) + _marker(marker, axis(100 * row.difference), y + 16, hollow)
        body += f'<text x="12" y="{y}" class="strong">{text(_cut(row.arm))}</text><g class="{colour}">{drawn}</g>'
        body += f'<text x="300" y="{y + 20}">{text(row.verdict)}</text>'
        ends = "" if row.interval is None else f" ({' to '.join(number(x, 'points') for x in row.interval)})"
        told.append(f"{row.arm} {number(row.difference, 'points')}{ends}: {row.verdict}")
    title = f"Difference in accuracy from {baseline}, in points, with {level}"
    note = f"Difference in accuracy, with {level}. On the dashed line there is none."
    return _figure(key, bottom + 50, title, "; ".join(told), body, note)


def dots(key: str, rows: Sequence[Dots]) -> Html:
    """Every run's accuracy as a circle, by arm; the mean as a diamond, its interval as a line."""
    rows = [row for row in rows if row.values]
    if not rows:
        return Html("")
    known = [(*row.values, *(row.interval or ()), *([] if row.mean is None else [row.mean])) for row in rows]
    axis = _Axis([100 * x for values in known for x in values], 12, 428)
    bottom = 50 * len(rows) + 12
    body = _x_axis(axis, 8, bottom, "accuracy, %")
    told = []
    for place, row in enumerate(rows):
        y = 50 * place + 22
        circles = "".join(_marker("circle", axis(100 * x), y + 14, hollow=True) for x in row.values)
        diamond = "" if row.mean is None else _marker("diamond", axis(100 * row.mean), y + 25)
        body += f'<text x="12" y="{y}" class="strong">{text(_cut(row.arm))}</text><g class="one">{circles}</g>'
        body += f'<g class="two">{_whisker(axis, row.interval, y + 25)}{diamond}</g>'
        values = ", ".join(number(x, "percent") for x in row.values)
        told.append(f"{row.arm}: {values}; mean {number(row.mean, 'percent')}")
    title = "Accuracy of every run in %, by arm"
    note = "Accuracy. Circles: runs. Diamond and line: their mean and its interval."
    return _figure(key, bottom + 50, title, ". ".join(told), body, note)


def lines(key: str, title: str, drawn: Sequence[Line], x_label: str, *, best: float | None = None) -> Html:
    """Lines over a common x, as of training. best: where a dotted line marks the chosen epoch."""
    drawn = [line for line in drawn if line.points]
    if not drawn:
        return Html("")
    xs = [x for line in drawn for x, _ in line.points]
    across, up = _Axis(xs, 50, 428, 0.02), _Axis([y for line in drawn for _, y in line.points], 240, 48)
    body = _y_axis(up, 50, 428) + _x_axis(across, 44, 246, x_label)
    if best is not None and min(xs) <= best <= max(xs):
        body += f'<path class="axis" stroke-dasharray="2 3" d="M{across(best):.1f} 44V246"/>'
        body += f'<text x="{across(best):.1f}" y="39" text-anchor="middle" class="weak">best</text>'
    body += "".join(_line(line, across, up) for line in drawn)
    ends = [(line.name, *line.points[0], *line.points[-1]) for line in drawn]
    told = "; ".join(f"{name} from {y:.4g} at {x:.4g} to {last:.4g} at {end:.4g}" for name, x, y, end, last in ends)
    return _figure(key, 290, title, f"Over {x_label}: {told}", _legend(drawn) + body, title)


def reliability(key: str, drawn: Sequence[Line], sizes: Sequence[tuple[float, float, float]]) -> Html:
    """Accuracy against confidence, both in %, the diagonal dashed.

    sizes: (low, high, examples as a share of the fullest bin's) of each bin, drawn as the bars at the foot.
    """
    drawn = [line for line in drawn if line.points]
    if not drawn:
        return Html("")
    across, up = _Axis([0.0, 100.0], 50, 428, 0), _Axis([0.0, 100.0], 330, 30, 0)
    body = _y_axis(up, 50, 428) + _x_axis(across, 30, 330, "confidence, %")
    for low, high, share in sizes:
        left, right, height = across(100 * low), across(100 * high), 60 * share
        body += f'<rect x="{left:.1f}" y="{330 - height:.1f}" width="{max(right - left - 1, 0):.1f}" '
        body += f'height="{height:.1f}" class="three" fill="currentColor" fill-opacity=".35"/>'
    body += (
        f'<path class="axis" stroke-dasharray="5 4" d="M{across(0):.1f} {up(0):.1f}L{across(100):.1f} {up(100):.1f}"/>'
    )
    body += "".join(_line(line, across, up) for line in drawn)
    told = "; ".join(f"{line.name}: " + ", ".join(f"{x:.1f} {y:.1f}" for x, y in line.points) for line in drawn)
    note = "Accuracy, %, over confidence; on the dashed line they are equal. Bars at the foot: examples of each bin."
    title = "Accuracy against confidence, in %"
    return _figure(key, 378, title, f"Confidence and accuracy of each bin. {told}", _legend(drawn) + body, note)


def panel(key: str, title: str, drawn: Sequence[Line]) -> Html:
    """A small chart of values in % over strengths; all panels have one scale."""
    drawn = [line for line in drawn if line.points]
    if not drawn:
        return Html("")
    across = _Axis([x for line in drawn for x, _ in line.points], 34, 178, 0.04)
    up = _Axis([0.0, 100.0], 126, 26, 0)
    body = f'<text x="4" y="14" class="strong">{text(_cut(title, 24))}</text>'
    for value in (0, 50, 100):
        y = up(value)
        body += f'<path class="grid" d="M34 {y:.1f}H182"/><text x="28" y="{y + 4:.1f}" text-anchor="end">{value}</text>'
    for x in sorted({x for line in drawn for x, _ in line.points}):
        body += f'<text x="{across(x):.1f}" y="143" text-anchor="middle" class="weak">{x:g}</text>'
    body += "".join(_line(line, across, up) for line in drawn)
    told = "; ".join(f"{line.name} {', '.join(f'{y:.2f}' for _, y in line.points)}" for line in drawn)
    return _figure(key, 150, f"{title}: in % by strength", told, body, width=190, kind=' class="panel"')


def _figure(
    key: str,
    height: int,
    title: str,
    description: str,
    body: str,
    note: str = "",
    *,
    width: int = _WIDTH,
    kind: str = "",
) -> Html:
    caption = f"<figcaption>{text(note, 2000)}</figcaption>" if note else ""
    return Html(
        f'<figure{kind}>{caption}<svg role="img" viewBox="0 0 {width} {height}" aria-labelledby="{key}-title" '
        f'aria-describedby="{key}-description"><title id="{key}-title">{text(title, 2000)}</title>'
        f'<desc id="{key}-description">{text(description, 2000)}</desc>{body}</svg></figure>\n'
    )


def _x_axis(axis: _Axis, top: float, bottom: float, label: str) -> str:
    """Vertical lines from top to bottom, their labels and the axis's own below."""
    drawn = ""
    for x, shown in axis.ticks():
        drawn += f'<path class="grid" d="M{x:.1f} {top}V{bottom}"/>'
        drawn += f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{shown}</text>'
    return f'{drawn}<text x="428" y="{bottom + 37}" text-anchor="end" class="weak">{text(label)}</text>'


def _y_axis(axis: _Axis, left: float, right: float) -> str:
    drawn = ""
    for y, shown in axis.ticks():
        drawn += f'<path class="grid" d="M{left} {y:.1f}H{right}"/>'
        drawn += f'<text x="{left - 7}" y="{y + 4:.1f}" text-anchor="end">{shown}</text>'
    return drawn


def _line(line: Line, across: _Axis, up: _Axis) -> str:
    path = "L".join(f"{across(x):.1f} {up(y):.1f}" for x, y in line.points)
    marks = ""
    if len(line.points) <= 40:  # more would cover the line
        marks = "".join(_marker(_LOOKS[line.look][2], across(x), up(y)) for x, y in line.points)
    return f'<g class="{_LOOKS[line.look][0]}">{_stroke(f"M{path}", line.look)}{marks}</g>'


#: Of a line: colour, dashes, marker.
_LOOKS = (("one", "", "circle"), ("two", "7 3", "square"))


def _stroke(path: str, look: int) -> str:
    dashes = f' stroke-dasharray="{_LOOKS[look][1]}"' if _LOOKS[look][1] else ""
    return f'<path fill="none" stroke="currentColor" stroke-width="1.8"{dashes} d="{path}"/>'


def _legend(drawn: Sequence[Line]) -> str:
    out, x = "", 50.0
    for line in drawn:
        mark = _stroke(f"M{x:.0f} 11H{x + 30:.0f}", line.look) + _marker(_LOOKS[line.look][2], x + 15, 11)
        out += f'<g class="{_LOOKS[line.look][0]}">{mark}</g><text x="{x + 37:.0f}" y="15">{text(line.name)}</text>'
        x += 52 + 8 * len(line.name)
    return out


def _marker(kind: str, x: float, y: float, hollow: bool = False) -> str:
    look = 'class="hollow" stroke="currentColor" stroke-width="1.8"' if hollow else 'fill="currentColor"'
    if kind == "circle":
        return f'<circle {look} cx="{x:.1f}" cy="{y:.1f}" r="3.8"/>'
    if kind == "square":
        return f'<rect {look} x="{x - 3.4:.1f}" y="{y - 3.4:.1f}" width="6.8" height="6.8"/>'
    return f'<path {look} d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z"/>'


def _whisker(axis: _Axis, interval: tuple[float, float] | None, y: float) -> str:
    """An interval of fractions as a line with ends; nothing where there is none."""
    if interval is None:
        return ""
    left, right = (axis(100 * end) for end in interval)
    path = f"M{left:.1f} {y}H{right:.1f}M{left:.1f} {y - 4}v8M{right:.1f} {y - 4}v8"
    return f'<path fill="none" stroke="currentColor" stroke-width="2" d="{path}"/>'


def _round_step(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))


def _cut(name: str, longest: int = _LONGEST) -> str:
    """A name as short as there is room for; letters of double width count twice."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in name[:longest])
    return shorten(name, max(longest - wide, longest // 2))
