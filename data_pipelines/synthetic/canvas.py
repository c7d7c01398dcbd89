"""Colours, the curves that are filled (splines, ellipses, tapered strokes), and a supersampled painter.

Source of the ten skin tones: the Monk Skin Tone Scale, Ellis Monk, 2022, https://skintone.google (published values).
"""

import functools

import numpy as np
from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageFilter
from scipy.interpolate import CubicHermiteSpline

from data_pipelines.synthetic.factors import Factors

Colour = tuple[int, ...]  # red, green, blue; 0..255
TONES = ("blush", "shadow", "light")
MONK_TONES = (
    "#f6ede4", "#f3e7db", "#f7ead0", "#eadaba", "#d7bd96", "#a07e56", "#825c43", "#604134", "#3a312a", "#292420",
)  # fmt: skip


def mix(first: Colour, second: Colour, amount: float) -> Colour:
    """`amount` 0 gives the first colour, 1 the second."""
    amount = min(max(amount, 0.0), 1.0)
    return tuple(round(a + (b - a) * amount) for a, b in zip(first, second, strict=True))


def scale_colour(colour: Colour, gain: float) -> Colour:
    """Each channel times `gain`, kept within 0..255."""
    return tuple(min(255, max(0, round(channel * gain))) for channel in colour)


class Palette:
    """RGB colours of one face in flat light; `fold` is for creases, `line` for what is nearly black on any skin."""

    def __init__(self, factors: Factors):
        darkness = (factors.skin_tone - 1) / 9
        # A camera exposes for the face: the darkest tones are lifted and the lightest held back, or neither would show
        # its relief in eight bits. The order of the tones stays.
        skin = scale_colour(ImageColor.getrgb(MONK_TONES[factors.skin_tone - 1]), 0.91 + 0.9 * darkness**4)
        # The published swatches are flat; blood under the skin warms a face that is seen in light.
        self.skin = skin = mix(skin, (214, 134, 84), 0.14)
        self.shade = mix(scale_colour(skin, 0.56), (92, 38, 24), 0.22 * (1 - darkness))
        self.light = mix(skin, (255, 244, 232), 0.55 - 0.28 * darkness)
        self.fold = mix(scale_colour(skin, 0.48), (70, 26, 18), 0.3 * (1 - darkness))
        self.line = mix(scale_colour(skin, 0.22), (16, 9, 8), 0.6)
        self.blush = mix(skin, (222, 84, 74), 0.5)
        self.lip_lower = mix(scale_colour(skin, 0.94 + 0.4 * darkness), (178, 62, 66), 0.42 - 0.1 * darkness)
        self.lip_upper = scale_colour(self.lip_lower, 0.8)
        self.lip_light = mix(self.lip_lower, (255, 236, 228), 0.38)
        self.hair = ImageColor.getrgb(factors.hair_colour)
        self.brow = mix(mix(self.hair, (20, 14, 10), 0.55), self.line, 0.35 + 0.4 * darkness)
        self.hair_light = mix(self.hair, (255, 240, 215), 0.2)
        self.hair_dark = scale_colour(self.hair, 0.6)
        self.iris = ImageColor.getrgb(factors.iris_colour)


@functools.cache
def _spline_basis(controls: int, samples: int) -> np.ndarray:
    """(samples, controls) weights of a Catmull-Rom spline through `controls` points, end points doubled."""
    points = np.eye(controls)
    padded = np.pad(points, ((1, 1), (0, 0)), mode="edge")
    curve = CubicHermiteSpline(np.arange(controls), points, (padded[2:] - padded[:-2]) / 2)
    return np.asarray(curve(np.linspace(0, controls - 1, samples)))


def spline(controls: np.ndarray, samples: int = 16) -> np.ndarray:
    """A smooth curve through the control points: (controls, d) to (samples, d)."""
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
        self._pen, self._origin = ImageDraw.Draw(self.image), np.zeros(2)
        self._clipped: Image.Image | None = None  # what is painted on instead, its top left pixel at the origin
        # Where the lamp's light falls: all but the background. Half the resolution is enough for a smooth tone.
        self.lit = Image.new("L", (side // 2, side // 2), 0)
        self._lit_pen = ImageDraw.Draw(self.lit)
        self._tones = {name: self.lit.copy() for name in TONES}
        self._tone_pens = {name: ImageDraw.Draw(tone) for name, tone in self._tones.items()}

    def polygon(self, points: np.ndarray, colour: Colour, lit: bool = False) -> None:
        """Fills a polygon (n, 2); `lit` for the outermost shapes, which tell the subject from the background."""
        if self._clipped:
            points = points - self._origin
        self._pen.polygon(points.ravel().tolist(), fill=colour)
        if lit:
            self._lit_pen.polygon((points * 0.5).ravel().tolist(), fill=255)

    def stroke(self, points: np.ndarray, width: float, colour: Colour, profile: np.ndarray | None = None) -> None:
        """A line along (n, 2), `width` pixels at its thickest, thinning to both ends unless a profile is given."""
        self.polygon(ribbon(points, width * (taper(len(points)) if profile is None else profile)), colour)

    def tone(self, points: np.ndarray, name: str, amount: float) -> None:
        """Adds a polygon to a soft layer, one of TONES; `amount` in [0, 1] replaces what is there."""
        self._tone_pens[name].polygon((points * 0.5).ravel().tolist(), fill=int(min(amount, 1.0) * 255))

    def begin_clip(self, region: np.ndarray) -> None:
        """Until `end_clip`, polygons and strokes go to a copy of the bounding box of `region` (n, 2)."""
        self._origin = np.floor(region.min(axis=0)).astype(int) - 1
        high = np.ceil(region.max(axis=0)).astype(int) + 2
        self._clipped = self.image.crop((*self._origin.tolist(), *high.tolist()))
        self._pen = ImageDraw.Draw(self._clipped)

    def end_clip(self, region: np.ndarray) -> None:
        """Puts the copy on the picture, through the shape of the same `region`."""
        assert self._clipped is not None
        mask = Image.new("L", self._clipped.size, 0)
        ImageDraw.Draw(mask).polygon((region - self._origin).ravel().tolist(), fill=255)
        self.image.paste(self._clipped, (int(self._origin[0]), int(self._origin[1])), mask)
        self._pen, self._clipped = ImageDraw.Draw(self.image), None

    def lay_tones(self, region: np.ndarray, layers: tuple[tuple[str, Colour, float], ...]) -> None:
        """Lays colours through the soft layers, inside the polygon `region` (n, 2) only.

        `layers` holds (name, colour, radius of the blur in pixels), in the order of painting.
        """
        corners = np.floor(region.min(axis=0) / 2), np.ceil(region.max(axis=0) / 2)
        (left, top), (right, bottom) = np.clip(corners, 0, self.side // 2).astype(int).tolist()
        if right <= left or bottom <= top:
            return
        size = (2 * (right - left), 2 * (bottom - top))
        inside = Image.new("L", size, 0)
        ImageDraw.Draw(inside).polygon((region - (2 * left, 2 * top)).ravel().tolist(), fill=255)
        for name, colour, radius in layers:
            soft = self._tones[name].crop((left, top, right, bottom))
            soft = soft.filter(ImageFilter.BoxBlur(radius * 0.5)).filter(ImageFilter.BoxBlur(radius * 0.4))
            soft = ImageChops.multiply(soft.resize(size, Image.Resampling.BILINEAR), inside)
            self.image.paste(colour, (2 * left, 2 * top), soft)
