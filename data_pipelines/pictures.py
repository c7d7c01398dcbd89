"""One picture, from the bytes that a user has to the bytes that a data set stores; hostile until it is decoded."""

import io
import warnings
from collections.abc import Callable

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from data_pipelines.common.text import reason
from data_pipelines.sources import MAX_MEMBER_BYTES

#: A picture with more pixels is refused: it is no photograph of a face, and decoding it could exhaust the memory.
MAX_PIXELS = 64_000_000

#: Larger pictures are stored with this longer side, more than twice the network's 224: it bounds the data set.
MAX_SIDE = 512

#: Faces are looked for in a picture of at most this many pixels a side: as many are found, and much sooner.
MAX_SIDE_FOR_FACES = 1280

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")  # grey in 16 bits; an older Pillow has PNG's as I
_GREY, _COLOUR = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_TIFF_BITS, _TIFF_PHOTOMETRIC = 258, 262

# The limit above is lower than the one from which Pillow warns; opening a picture does not decode it.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class BadPicture(ValueError):
    """Bytes that are no usable picture; the message says why in a few words."""


def decode(data: bytes, within: int = 0) -> Image.Image:
    """The picture, upright, grey (mode L) or in colour (RGB), decoded completely; its `format` says what it was.

    With `within`, a JPEG much larger than that many pixels a side is decoded at a half, a quarter or an eighth of its
    size, never below it: as good as decoding all of it for somebody who makes it smaller, and several times faster.
    Raises BadPicture.
    """
    if len(data) > MAX_MEMBER_BYTES:
        raise BadPicture(f"larger than {MAX_MEMBER_BYTES >> 20} MiB")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            check(opened)
            if opened.format == "PNG":  # load() does not look at all checksums
                opened.verify()
                opened = Image.open(io.BytesIO(data), formats=("PNG",))
            if within:
                opened.draft(None, (within, within))
            kept = opened.format
            opened.load()
            image: Image.Image = opened
            if opened.getexif().get(ExifTags.Base.Orientation, 1) != 1:
                image = ImageOps.exif_transpose(opened)
                kept = "turned"
            image = grey_or_rgb(image)
            image.format = kept
            return image
    except BadPicture:
        raise
    except UnidentifiedImageError:
        raise BadPicture("no JPEG, PNG, WebP, BMP or TIFF picture") from None
    except Exception as error:  # for damaged files Pillow raises nearly every type there is
        raise BadPicture(f"cannot be decoded ({reason(error)})") from None


def check_size(width: float, height: float) -> None:
    """Raises BadPicture for a picture of too many pixels."""
    if width * height > MAX_PIXELS:
        raise BadPicture(f"{width:.0f}x{height:.0f} pixels, more than {MAX_PIXELS:,}")


def check(image: Image.Image) -> None:
    """Raises BadPicture for a picture that is too large, or neither grey nor in colour; does not decode it."""
    check_size(*image.size)
    if _is_deep(image):
        tags = getattr(image, "tag_v2", {})  # of a TIFF, which may have 12 bits, or white as 0: Pillow does not tell
        if (bits := tags.get(_TIFF_BITS, (16,))) != (16,) or tags.get(_TIFF_PHOTOMETRIC, 1) != 1:
            raise BadPicture(f"a grey TIFF of {bits[0]} bits, not of 8 or 16 with black as 0")
    elif image.mode not in _GREY + _COLOUR:
        raise BadPicture(f"colour mode {image.mode}, neither grey nor RGB")


def _is_deep(image: Image.Image) -> bool:
    return image.mode in _DEEP or (image.mode == "I" and image.format == "PNG")


def grey_or_rgb(image: Image.Image) -> Image.Image:
    """A picture that passed `check`, in mode L or RGB; 16 bits become 8 by their range, 65,535 is 255."""
    if image.mode in (*_DEEP, "I"):
        return Image.fromarray(eight_bits(np.asarray(image)))
    mode = "L" if image.mode in _GREY else "RGB"
    return image if image.mode == mode else image.convert(mode)


def eight_bits(sixteen: np.ndarray) -> np.ndarray:
    """The nearest uint8 of numbers from 0 to 65,535, of which the largest is 255."""
    return ((sixteen.astype(np.uint32) + 128) // 257).astype(np.uint8)


def encode(image: Image.Image, lossy: bool = False) -> bytes:
    """As JPEG of high quality without colour subsampling where the picture was lossy already, else as PNG."""
    stream = io.BytesIO()
    if lossy:
        image.save(stream, "JPEG", quality=95, subsampling=0)
    else:
        image.save(stream, "PNG")
    return stream.getvalue()


def store(
    data: bytes, side: int = 0, crop: Callable[[np.ndarray], np.ndarray | None] | None = None
) -> tuple[bytes, tuple[int, int, int], bool]:
    """What a data set keeps of a picture: (JPEG or PNG, (height, width, channels), whether `crop` found a face).

    Args:
        data: the picture as found.
        side: the stored picture is a square of so many pixels; 0: as it is, but at most MAX_SIDE a side.
        crop: from RGB (H, W, 3) to the face in it, or None where it finds none, and the whole picture is kept.

    A grey or RGB picture in JPEG or PNG that has its size already is kept byte for byte. Raises BadPicture.
    """
    image = decode(data, within=MAX_SIDE_FOR_FACES if crop else side or MAX_SIDE)
    lossy = image.format in ("JPEG", "MPO", "WEBP", "turned")
    with Image.open(io.BytesIO(data)) as file:
        # A picture that a JPEG decoder has made smaller is not the file any more.
        same = (file.format, file.size, file.mode) == (image.format, image.size, image.mode)
    untouched = same and image.format in ("JPEG", "PNG")
    face = crop(np.asarray(image.convert("RGB"))) if crop else None
    if face is not None:
        image, untouched = Image.fromarray(face), False
    size = (side, side) if side else bounded(image.size)
    if image.size != size:
        image, untouched = image.resize(size, Image.Resampling.BILINEAR), False  # Pillow's averages when it shrinks
    stored = data if untouched else encode(image, lossy)
    return stored, (image.height, image.width, len(image.getbands())), face is not None


def resized(data: bytes, size: tuple[int, int]) -> bytes:
    """A stored picture, brought to (height, width) unless it has that size."""
    image = decode(data)
    if (image.height, image.width) == size:
        return data
    return encode(image.resize(size[::-1], Image.Resampling.BILINEAR), lossy=image.format == "JPEG")


def bounded(size: tuple[int, int]) -> tuple[int, int]:
    """A size of the same shape whose longer side is at most MAX_SIDE."""
    scale = min(1.0, MAX_SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
