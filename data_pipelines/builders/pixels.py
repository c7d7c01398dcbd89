"""Pictures as numbers in a table, a text or a list of pixels, and back to a file."""

import math

import numpy as np
from PIL import Image

from data_pipelines.pictures import BadPicture, check_size, encode

_MARKS = str.maketrans("[](),;", "      ")  # of lists that were written as text


def from_text(text: str) -> np.ndarray:
    """The grey levels that a text lists, uint8 (n,), with blanks, commas or brackets. Raises BadPicture."""
    words = text.translate(_MARKS).split()
    try:
        return np.frombuffer(bytes(map(int, words)), np.uint8)
    except ValueError:  # perhaps 12.0
        pass
    try:
        return levels(np.array(words, np.float64))
    except ValueError:
        raise BadPicture("a pixel is no whole number from 0 to 255") from None


def levels(numbers: np.ndarray) -> np.ndarray:
    """Numbers of any type as uint8 of the same shape. Raises BadPicture where one is no whole number from 0 to 255."""
    if numbers.dtype.kind not in "uif" or not np.all((numbers >= 0) & (numbers <= 255) & (numbers % 1 == 0)):
        raise BadPicture("a pixel is no whole number from 0 to 255")
    return numbers.astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
    """uint8 (H, W), (H, W, 1), (H, W, 3), or (n,) of a grey square, as a PNG. Raises BadPicture for another shape."""
    if pixels.ndim == 1:
        side = math.isqrt(pixels.size)
        if not side or side * side != pixels.size:
            raise BadPicture(f"{pixels.size:,} pixels in a row are no square picture")
        pixels = pixels.reshape(side, side)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.size == 0 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
        raise BadPicture(f"its pixels have the shape {'x'.join(map(str, pixels.shape))}, no picture's")
    check_size(pixels.shape[1], pixels.shape[0])
    return encode(Image.fromarray(np.ascontiguousarray(pixels)))
