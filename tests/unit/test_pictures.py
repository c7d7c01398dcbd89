"""What a data set stores of a picture: its own bytes where it can, the same pixels where it must, one size always."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from data_pipelines import pictures, splits
from data_pipelines.labels import EMOTIONS
from data_pipelines.prepare import prepare


def smooth(height: int, width: int, channels: int = 3) -> np.ndarray:
    """A picture that survives JPEG and resizing: colours that change slowly."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    planes = [127 + 100 * np.sin(3 * x + phase) * np.cos(2 * y + phase) for phase in range(channels)]
    return np.squeeze(np.stack(planes, axis=-1)).astype(np.uint8)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def read(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_rgb_in_jpeg_and_png_are_kept_byte_for_byte(kind, channels):
    data = encode(Image.fromarray(smooth(40, 30, channels)), kind)
    assert pictures.store(data) == (data, (40, 30, channels), False)


@pytest.mark.parametrize("kind", ["BMP", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_other_lossless_formats_keep_every_pixel(kind, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3)[: 2 + (channels > 1)], np.uint8)
    stored, shape, _ = pictures.store(encode(Image.fromarray(pixels), kind))
    assert Image.open(io.BytesIO(stored)).format == "PNG" and shape == (20, 30, channels)
    np.testing.assert_array_equal(read(stored), pixels)


def test_webp_becomes_a_good_jpeg():
    data = encode(Image.fromarray(smooth(60, 60)), "WEBP", quality=90)
    stored, _, _ = pictures.store(data)
    assert Image.open(io.BytesIO(stored)).format == "JPEG"
    assert np.abs(read(stored).astype(int) - read(data)).mean() < 1


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("LA", 1), ("P", 3), ("RGBA", 3), ("CMYK", 3)])
def test_other_colour_modes_become_grey_or_rgb(mode, channels):
    image = Image.fromarray(smooth(20, 30)).convert(mode)
    stored, shape, _ = pictures.store(encode(image, "TIFF" if mode == "CMYK" else "PNG"))
    assert shape == (20, 30, channels)
    np.testing.assert_array_equal(read(stored), np.asarray(image.convert("L" if channels == 1 else "RGB")))


def test_a_photograph_taken_sideways_is_turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.fromarray(smooth(40, 60)), "JPEG", exif=exif, quality=95)
    stored, shape, _ = pictures.store(data)
    assert shape == (60, 40, 3)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.abs(read(stored).astype(int) - upright).mean() < 1
    assert Image.open(io.BytesIO(stored)).getexif().get(0x0112, 1) == 1  # or it would be turned once more


@pytest.mark.parametrize("side", [0, 100])
def test_large_jpegs_are_made_smaller_as_if_decoded_whole(side):
    data = encode(Image.fromarray(smooth(1500, 3000)), "JPEG", quality=95)
    stored, shape, _ = pictures.store(data, side)
    assert shape == ((side, side, 3) if side else (256, 512, 3))
    whole = Image.open(io.BytesIO(data)).resize(shape[1::-1], Image.Resampling.BILINEAR)
    assert np.abs(read(stored).astype(int) - np.asarray(whole)).mean() < 2


def test_a_crop_sees_rgb_and_what_it_returns_is_stored():
    data = encode(Image.fromarray(smooth(40, 60, 1)), "PNG")

    def middle(rgb):
        assert rgb.shape == (40, 60, 3) and rgb.dtype == np.uint8
        return rgb[10:30, 20:40]

    stored, shape, found = pictures.store(data, 20, middle)
    assert found and shape == (20, 20, 3)
    np.testing.assert_array_equal(read(stored)[..., 0], smooth(40, 60, 1)[10:30, 20:40])
    assert pictures.store(data, 0, lambda rgb: None) == (data, (40, 60, 1), False)


def make(root: Path, sizes: list[tuple[int, int]]) -> str:
    for i, (height, width) in enumerate(sizes):
        path = root / "train" / ("happy" if i % 2 else "sad") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(smooth(height, width)).save(path)
    return str(root)


@pytest.mark.parametrize(
    ("sizes", "side", "expected", "note"),
    [
        ([(30, 20)] * 4, 0, (30, 20, 3), ""),
        ([(30, 20)] * 3 + [(60, 60)], 0, (30, 20, 3), "1 of 4 pictures had another size: brought to 30x20"),
        ([(30, 20), (60, 60), (40, 40)], 0, (224, 224, 3), "3 of 3 pictures had another size: brought to 224"),
        ([(30, 20), (60, 60), (40, 40)], 32, (32, 32, 3), ""),
    ],
)  # fmt: skip
def test_a_data_set_has_one_size(sizes, side, expected, note, tmp_path):
    report = prepare("folder", make(tmp_path / "mine", sizes), data_dir=str(tmp_path / "data"), side=side)
    assert note in "\n".join(report["notes"])
    assert ("another size" in "\n".join(report["notes"])) == bool(note)
    split = splits.open_split("folder", "train", EMOTIONS, data_dir=str(tmp_path / "data"))
    assert split.shape == expected
    images = split.load(np.arange(len(sizes)))["image"].astype(int)
    for i, (height, width) in enumerate(sorted(sizes, key=sizes.index)):
        whole = Image.fromarray(smooth(height, width)).resize(expected[1::-1], Image.Resampling.BILINEAR)
        distances = [np.abs(image - np.asarray(whole)).mean() for image in images]
        assert min(distances) < 1, i


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_in_16_bits_is_scaled_by_its_range(kind):
    deep = np.array([[0, 128, 129, 257], [32768, 65279, 65406, 65535]], np.uint16)
    stored, shape, _ = pictures.store(encode(Image.fromarray(deep), kind))
    assert shape == (2, 4, 1)
    np.testing.assert_array_equal(read(stored), np.round(deep / 257).astype(np.uint8))
    shallow = np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)
    widened = encode(Image.fromarray(shallow.astype(np.uint16) * 257), kind)
    np.testing.assert_array_equal(read(pictures.store(widened)[0]), shallow)
    np.testing.assert_array_equal(pictures.grey_or_rgb(Image.open(io.BytesIO(widened))), shallow)


def test_a_tiff_with_white_as_zero_is_refused():
    data = encode(Image.fromarray(np.full((4, 4), 999, np.uint16)), "TIFF", tiffinfo={262: 0})
    tags = Image.open(io.BytesIO(data)).tag_v2
    if tags[262] == 1:  # Pillow writes its own
        entry = b"\x06\x01\x03\x00\x01\x00\x00\x00\x01\x00"
        assert data.count(entry) == 1
        data = data.replace(entry, entry[:-2] + b"\x00\x00")
    with pytest.raises(pictures.BadPicture, match="grey TIFF of 16 bits, not of 8 or 16 with black as 0"):
        pictures.store(data)
