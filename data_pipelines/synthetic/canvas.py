"""A supersampled painter: filled shapes, tapered strokes, soft shadows and lights."""

import functools

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]


def parse_colour(text: str) -> Colour:
    """`#rrggbb` to three numbers of 0..255."""
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def mix(first: Colour, second: Colour, amount: float) -> Colour:
    """`amount` 0 gives the first colour, 1 the second."""
    amount = min(max(amount, 0.0), 1.0)
    return tuple(int(round(a + (b - a) * amount)) for a, b in zip(first, second, strict=True))


def scale_colour(colour: Colour, gain: float) -> Colour:
    """Each channel times `gain`, kept within 0..255."""
    return tuple(min(255, max(0, int(round(channel * gain)))) for channel in colour)


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


def ribbon(points: np.ndarray, widths: np.ndarray | float) -> np.ndarray:
    """The outline (2 n, 2) of a stroke along `points` (n, 2) whose full width is `widths`, a number or (n,)."""
    tangent = np.empty_like(points)
    tangent[1:-1] = points[2:] - points[:-2]
    tangent[0] = points[1] - points[0]
    tangent[-1] = points[-1] - points[-2]
    length = np.sqrt(tangent[:, 0] ** 2 + tangent[:, 1] ** 2) + 1e-9
    half = 0.5 * widths / length
    normal = np.stack((-tangent[:, 1] * half, tangent[:, 0] * half), axis=-1)
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
        # Soft tones are smooth by nature: half the resolution suffices, at a quarter of the blur's cost.
        self._tones = {name: Image.new("L", (side // 2, side // 2), 0) for name in ("shadow", "light", "blush")}
        self._tone_pens = {name: ImageDraw.Draw(tone) for name, tone in self._tones.items()}

    def polygon(self, points: np.ndarray, colour: Colour) -> None:
        """Fills a polygon (n, 2)."""
        self.pen.polygon(points.ravel().tolist(), fill=colour)

    def stroke(self, points: np.ndarray, width: float, colour: Colour, profile: np.ndarray | None = None) -> None:
        """A line along (n, 2), `width` pixels at its thickest, thinning to both ends unless a profile says otherwise."""
        profile = taper(len(points)) if profile is None else profile
        self.polygon(ribbon(points, width * profile), colour)

    def tone(self, name: str, points: np.ndarray, amount: float) -> None:
        """Adds a polygon to a soft layer (`shadow`, `light` or `blush`); `amount` in [0, 1] replaces what is there."""
        if amount > 0.01:
            self._tone_pens[name].polygon((points * 0.5).ravel().tolist(), fill=int(min(amount, 1.0) * 255))

    def lay_tone(self, name: str, colour: Colour, radius: float) -> None:
        """Blurs a soft layer by `radius` pixels and lays `colour` through it."""
        soft = self._tones[name].filter(ImageFilter.BoxBlur(radius * 0.5)).filter(ImageFilter.BoxBlur(radius * 0.4))
        self.image.paste(colour, mask=soft.resize(self.image.size, Image.Resampling.BILINEAR))

    def clipped(self, region: np.ndarray) -> "Clip":
        """A context inside which drawing reaches only the polygon `region`."""
        return Clip(self, region)


class Clip:
    """Draws on a copy of the bounding box of `region`, then pastes that copy back through the region's mask."""

    def __init__(self, canvas: Canvas, region: np.ndarray):
        low = np.floor(region.min(axis=0)).astype(int) - 1
        high = np.ceil(region.max(axis=0)).astype(int) + 2
        self._canvas = canvas
        self._region = region - low
        self._low = low
        self._box = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))

    def __enter__(self) -> "Clip":
        self._patch = self._canvas.image.crop(self._box)
        self._pen = ImageDraw.Draw(self._patch)
        return self

    def polygon(self, points: np.ndarray, colour: Colour) -> None:
        """Fills a polygon (n, 2), in the canvas's coordinates."""
        self._pen.polygon((points - self._low).ravel().tolist(), fill=colour)

    def __exit__(self, *exception: object) -> None:
        mask = Image.new("L", self._patch.size, 0)
        ImageDraw.Draw(mask).polygon(self._region.ravel().tolist(), fill=255)
        self._canvas.image.paste(self._patch, self._box[:2], mask)
