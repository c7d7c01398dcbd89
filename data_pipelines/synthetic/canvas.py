"""A supersampled painter, and the curves that it fills: splines, ellipses, tapered strokes."""

import functools

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
TONES = ("blush", "shadow", "light")


def parse_colour(text: str) -> Colour:
    """`#rrggbb` to three numbers of 0..255."""
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def mix(first: Colour, second: Colour, amount: float) -> Colour:
    """`amount` 0 gives the first colour, 1 the second."""
    amount = min(max(amount, 0.0), 1.0)
    (r, g, b), (s, h, c) = first, second
    return round(r + (s - r) * amount), round(g + (h - g) * amount), round(b + (c - b) * amount)


def scale_colour(colour: Colour, gain: float) -> Colour:
    """Each channel times `gain`, kept within 0..255."""
    r, g, b = (min(255, max(0, round(channel * gain))) for channel in colour)
    return r, g, b


@functools.cache
def _spline_basis(controls: int, samples: int) -> np.ndarray:
    """(samples, controls) weights of a Catmull-Rom spline through `controls` points, end points doubled."""
    basis = np.zeros((samples, controls))
    for row, position in enumerate(np.linspace(0, controls - 1, samples)):
        segment = min(int(position), controls - 2)
        t = position - segment
        weights = (
            -0.5 * t + t**2 - 0.5 * t**3,
            1 - 2.5 * t**2 + 1.5 * t**3,
            0.5 * t + 2 * t**2 - 1.5 * t**3,
            -0.5 * t**2 + 0.5 * t**3,
        )
        for offset, weight in zip((-1, 0, 1, 2), weights, strict=True):
            basis[row, min(max(segment + offset, 0), controls - 1)] += weight
    return basis


def spline(controls: np.ndarray, samples: int = 16) -> np.ndarray:
    """A smooth curve through the control points: (controls, d) to (samples, d)."""
    controls = np.asarray(controls, dtype=np.float64)
    return _spline_basis(len(controls), samples) @ controls


@functools.cache
def _circle(samples: int) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, samples, endpoint=False)
    return np.stack((np.cos(angles), np.sin(angles)), axis=-1)


def ellipse(x: float, y: float, rx: float, ry: float, tilt: float = 0.0, samples: int = 18) -> np.ndarray:
    """(samples, 2) points of an ellipse; `tilt` in radians, clockwise in picture axes."""
    points = _circle(samples) * (rx, ry)
    if tilt:
        c, s = np.cos(tilt), np.sin(tilt)
        points = points @ np.array(((c, s), (-s, c)))
    return points + (x, y)


def normals(points: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(n, 2) unit normals of many curves laid end to end, each curve from its start to its end."""
    after, before = np.arange(1, len(points) + 1), np.arange(-1, len(points) - 1)
    after[ends - 1] -= 1
    before[starts] += 1
    tangent = points[after] - points[before]
    tangent /= np.hypot(tangent[:, 0], tangent[:, 1])[:, None] + 1e-9
    return np.stack((-tangent[:, 1], tangent[:, 0]), axis=-1)


def ribbon(points: np.ndarray, widths: np.ndarray | float) -> np.ndarray:
    """The outline (2 n, 2) of a stroke along `points` (n, 2) whose full width is `widths`, a number or (n,)."""
    normal = normals(points, np.array([0]), np.array([len(points)])) * np.reshape(0.5 * np.asarray(widths), (-1, 1))
    return np.concatenate((points + normal, (points - normal)[::-1]))


@functools.cache
def taper(samples: int) -> np.ndarray:
    """(samples,) widths of a stroke that is thin at both ends and 1 in the middle."""
    return np.sin(np.linspace(0.12, np.pi - 0.12, samples)) ** 0.8


class Canvas:
    """A square RGB picture under construction; all coordinates are its own pixels."""

    def __init__(self, side: int, background: Colour):
        self.side = side
        self.image = Image.new("RGB", (side, side), background)
        self.pen = ImageDraw.Draw(self.image)
        # Where the lamp's light falls: all but the background. Half the resolution is enough for a smooth tone.
        self.lit = Image.new("L", (side // 2, side // 2), 0)
        self._lit_pen = ImageDraw.Draw(self.lit)
        self._tones = {name: Image.new("L", (side // 2, side // 2), 0) for name in TONES}
        self._tone_pens = {name: ImageDraw.Draw(tone) for name, tone in self._tones.items()}

    def polygon(self, points: np.ndarray, colour: Colour, lit: bool = False) -> None:
        """Fills a polygon (n, 2); `lit` for the outermost shapes, which tell the subject from the background."""
        self.pen.polygon(points.ravel().tolist(), fill=colour)
        if lit:
            self._lit_pen.polygon((points * 0.5).ravel().tolist(), fill=255)

    def stroke(self, points: np.ndarray, width: float, colour: Colour, profile: np.ndarray | None = None) -> None:
        """A line along (n, 2), `width` pixels at its thickest, thinning to both ends unless a profile is given."""
        profile = taper(len(points)) if profile is None else profile
        self.polygon(ribbon(points, width * profile), colour)

    def tone(self, name: str, points: np.ndarray, amount: float) -> None:
        """Adds a polygon to a soft layer, one of TONES; `amount` in [0, 1] replaces what is there."""
        self._tone_pens[name].polygon((points * 0.5).ravel().tolist(), fill=int(min(amount, 1.0) * 255))

    def lay_tones(self, region: np.ndarray, layers: tuple[tuple[str, Colour, float], ...]) -> None:
        """Lays colours through the soft layers, inside the polygon `region` (n, 2) only.

        `layers` holds (name, colour, radius of the blur in pixels), in the order of painting.
        """
        low = np.maximum(np.floor(region.min(axis=0) / 2).astype(int), 0)
        high = np.minimum(np.ceil(region.max(axis=0) / 2).astype(int), self.side // 2)
        (left, top), (right, bottom) = low.tolist(), high.tolist()
        if right <= left or bottom <= top:
            return
        size = (2 * (right - left), 2 * (bottom - top))
        inside = Image.new("L", size, 0)
        ImageDraw.Draw(inside).polygon((region - 2 * low).ravel().tolist(), fill=255)
        for name, colour, radius in layers:
            soft = self._tones[name].crop((left, top, right, bottom))
            soft = soft.filter(ImageFilter.BoxBlur(radius * 0.5)).filter(ImageFilter.BoxBlur(radius * 0.4))
            soft = ImageChops.multiply(soft.resize(size, Image.Resampling.BILINEAR), inside)
            self.image.paste(colour, (2 * left, 2 * top), soft)


class Clip:
    """Paints on a copy of the bounding box of `region`; `close` pastes it back through the region's own shape."""

    def __init__(self, canvas: Canvas, region: np.ndarray):
        low = np.floor(region.min(axis=0)).astype(int) - 1
        high = np.ceil(region.max(axis=0)).astype(int) + 2
        self._canvas, self._region, self._low = canvas, region - low, low
        self._box = (*low.tolist(), *high.tolist())
        self._patch = canvas.image.crop(self._box)
        self._pen = ImageDraw.Draw(self._patch)

    def polygon(self, points: np.ndarray, colour: Colour) -> None:
        """Fills a polygon (n, 2), in the canvas's coordinates."""
        self._pen.polygon((points - self._low).ravel().tolist(), fill=colour)

    def close(self) -> None:
        """Puts what was painted on the canvas."""
        mask = Image.new("L", self._patch.size, 0)
        ImageDraw.Draw(mask).polygon(self._region.ravel().tolist(), fill=255)
        self._canvas.image.paste(self._patch, self._box[:2], mask)
