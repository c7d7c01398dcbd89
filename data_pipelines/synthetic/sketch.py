"""Collects the shapes of a face in head units, and puts them in the picture together.

A face is some eighty small curves. Projecting them one by one costs more than filling them; here all points pass
through the head's geometry at once, and the outlines of all strokes are computed at once too.
"""

from typing import Any

import numpy as np

from data_pipelines.synthetic.canvas import Canvas, Clip, Colour, normals, taper
from data_pipelines.synthetic.head import Head

Lift = np.ndarray | float


class Sketch:
    """Shapes on the front of the face, painted in the order in which they were added."""

    def __init__(self) -> None:
        self._points: list[np.ndarray] = []
        self._lifts: list[np.ndarray] = []
        self._widths: list[np.ndarray] = []
        self._orders: list[tuple[Any, ...]] = []  # the kind, and what the canvas needs to know of it

    def _add(self, kind: str, points: np.ndarray, lift: Lift, widths: np.ndarray | None, *order: Any) -> None:
        self._points.append(points)
        self._lifts.append(np.broadcast_to(lift, len(points)))
        self._widths.append(np.zeros(len(points)) if widths is None else widths)
        self._orders.append((kind, *order))

    def polygon(self, points: np.ndarray, colour: Colour, lift: Lift = 0.0) -> None:
        """A filled shape (n, 2), raised over the face by `lift`, all in head units."""
        self._add("polygon", points, lift, None, colour)

    def stroke(
        self, points: np.ndarray, width: float, colour: Colour, profile: np.ndarray | None = None, lift: Lift = 0.0
    ) -> None:
        """A line along (n, 2), thinning to both ends unless a profile (n,) of widths says otherwise."""
        self._add("stroke", points, lift, width * (taper(len(points)) if profile is None else profile), colour)

    def tone(self, name: str, points: np.ndarray, amount: float, lift: Lift = 0.0) -> None:
        """A shape for one of the canvas's soft layers."""
        if amount > 0.01:
            self._add("tone", points, lift, None, name, amount)

    def clip(self, outline: np.ndarray, lift: Lift = 0.0) -> None:
        """Until `unclip`, filled shapes reach only the inside of `outline`."""
        self._add("clip", outline, lift, None)

    def unclip(self) -> None:
        """Ends `clip`."""
        self._add("unclip", np.zeros((1, 2)), 0.0, None)

    def paint(self, canvas: Canvas, head: Head) -> None:
        """Puts everything collected on the canvas, as seen on `head`."""
        lengths = [len(points) for points in self._points]
        ends = np.cumsum(lengths)
        starts = ends - lengths
        points = head.on_face(np.concatenate(self._points), np.concatenate(self._lifts))
        normal = normals(points, starts, ends) * (0.5 * head.unit * np.concatenate(self._widths))[:, None]
        one_side, other_side = points + normal, points - normal
        clip: Clip | None = None
        for (kind, *order), start, end in zip(self._orders, starts.tolist(), ends.tolist(), strict=True):
            shape = points[start:end]
            if kind == "stroke":
                canvas.polygon(np.concatenate((one_side[start:end], other_side[start:end][::-1])), order[0])
            elif kind == "tone":
                canvas.tone(order[0], shape, order[1])
            elif kind == "clip":
                clip = Clip(canvas, shape)
            elif kind == "unclip":
                assert clip is not None
                clip.close()
                clip = None
            else:
                (clip or canvas).polygon(shape, order[0])
