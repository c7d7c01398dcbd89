"""Colours of the page of `expressnet report`: readable in light and in dark."""

import re

import pytest

from data_pipelines.common.pages import STYLE


def _colours(scheme: str) -> dict[str, str]:
    light, dark = (dict(re.findall(r"--([a-z-]+): ([^;}]+);", part)) for part in STYLE.split("* {")[0].split("@media"))
    return light if scheme == "light" else {**light, **dark}


def _luminance(red: float, green: float, blue: float) -> float:
    """Relative luminance of 0..255 sRGB (WCAG 2.2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red / 255, green / 255, blue / 255)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _rgb(colour: str) -> list[float]:
    if colour.startswith("#"):
        return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return [float(part) for part in colour.split()]


def _contrast(one: list[float], other: list[float]) -> float:
    low, high = sorted([_luminance(*one), _luminance(*other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(scheme: str) -> None:
    """WCAG AA: 4.5 for text, on heat of every strength too, and 3 for lines of charts."""
    colours = _colours(scheme)
    ground = _rgb(colours["ground"])
    for key in ("text", "weak", "mark", "link"):
        assert _contrast(_rgb(colours[key]), ground) >= 4.5, key
    for key in ("one", "two", "three", "axis"):
        assert _contrast(_rgb(colours[key]), ground) >= 3, key
    for step in range(11):
        strength = step / 10 * float(colours["heat-most"])
        heat = [strength * h + (1 - strength) * g for h, g in zip(_rgb(colours["heat-colour"]), ground, strict=True)]
        assert _contrast(_rgb(colours["text"]), heat) >= 4.5, step
