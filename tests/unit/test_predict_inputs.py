"""Pictures from anywhere: what a path means, what is read of it, and what is said of what cannot be read."""

import functools
import os
import struct
import sys
import zlib

import jax
import numpy as np
import pytest
from PIL import Image

from data_pipelines.pictures import BadPicture
from expressnet_jax.models import preprocess
from expressnet_jax.predict import inputs as predict_inputs
from expressnet_jax.predict.inputs import find, of_image, open_found, read_file


def found(*paths):
    return [(one.path, one.name, one.error) for path in paths for one in find(path)]


def picture(path, size=(8, 6), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), np.uint8)
    Image.fromarray(pixels, "RGBA").convert(mode).save(path, **options)
    return path


def why(path):
    with pytest.raises(BadPicture) as caught:
        read_file(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_means_all_files_in_it_but_hidden_ones(tmp_path):
    for name in ("b.jpg", "sub/c.png", "a.txt", ".hidden.png", ".git/x.png", "sub/Thumbs.db", "z/last.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = ["a.txt", "b.jpg", "sub/c.png", "z/last.png"]
    assert found(tmp_path) == [(str(tmp_path / name), name, "") for name in names]
    assert found(str(tmp_path / "b.jpg")) == [(str(tmp_path / "b.jpg"), "b.jpg", "")]


def test_links_are_followed_but_not_in_circles_and_not_by_two_stars(tmp_path):
    here, disk = tmp_path / "here", tmp_path / "disk"
    for name in ("here/a.jpg", "here/sub/c.jpg", "disk/far.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    (here / "sub" / "loop").symlink_to(here)
    (here / "more").symlink_to(disk)
    (here / "b.jpg").symlink_to(here / "a.jpg")
    assert [name for _, name, _ in found(here)] == ["a.jpg", "b.jpg", "more/far.jpg", "sub/c.jpg"]
    assert [name for _, name, _ in found(here / "**" / "*.jpg")] == ["a.jpg", "b.jpg", "sub/c.jpg"]


def test_a_pattern_is_expanded_and_a_file_of_that_name_comes_first(tmp_path):
    for name in ("x1/a.jpg", "x2/b.jpg", "x2/b.png", "y/c.jpg", "[1].jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [name for _, name, _ in found(tmp_path / "x?" / "*.jpg")] == ["x1/a.jpg", "x2/b.jpg"]
    assert [name for _, name, _ in found(tmp_path / "x*")] == ["x1/a.jpg", "x2/b.jpg", "x2/b.png"]
    assert [name for _, name, _ in found(tmp_path / "**" / "*.png")] == ["x2/b.png"]
    assert [name for _, name, _ in found(tmp_path / "[1].jpg")] == ["[1].jpg"]


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("missing.jpg", "no such file or folder"),
        ("", "no such file or folder"),
        ("*.jpg", "no file matches"),
        ("a**b/*.jpg", ""),
        ("empty", "no file in this folder"),
        ("a\0b", "no path that a file can have"),
        ("x" * 300, "cannot be read"),
        ("file.txt/a.jpg", "cannot be read"),
    ],
)
def test_what_is_not_there_is_one_error(tmp_path, monkeypatch, path, error):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    ((_, _, said),) = found(path)
    assert said and error in said


def test_what_is_decoded_is_upright_colour_of_the_original_size(tmp_path):
    grey = read_file(str(picture(tmp_path / "grey.png", mode="L")))
    assert grey.rgb.shape == (6, 8, 3) and np.ptp(grey.rgb, axis=-1).max() == 0 and grey.size == (8, 6)
    for mode in ("RGBA", "LA", "P", "1"):
        assert read_file(str(picture(tmp_path / "some.png", mode=mode))).rgb.shape == (6, 8, 3)
    assert read_file(str(picture(tmp_path / "cmyk.jpg", mode="CMYK"))).rgb.shape == (6, 8, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # held on its side
    turned = read_file(str(picture(tmp_path / "turned.png", exif=exif)))
    as_it_lies = np.asarray(Image.open(tmp_path / "turned.png"))
    assert turned.size == (6, 8) and np.array_equal(turned.rgb, np.rot90(as_it_lies, -1))


def test_a_large_jpeg_is_decoded_smaller_and_keeps_its_size(tmp_path):
    path = picture(tmp_path / "large.jpg", (1000, 600))
    decoded = predict_inputs.read_file(str(path), within=100)
    assert decoded.size == (1000, 600) and decoded.rgb.shape == (150, 250, 3)


@pytest.mark.parametrize("name", ["several.png", "several.webp", "several.tiff"])
def test_of_several_pictures_in_a_file_the_first_is_taken_with_a_note(tmp_path, name):
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue", "green")]
    options = {"lossless": True} if name.endswith("webp") else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
    decoded = read_file(str(tmp_path / name))
    assert "first" in decoded.note and (decoded.rgb == (255, 0, 0)).all()
    frames[0].save(tmp_path / f"one_{name}")
    assert read_file(str(tmp_path / f"one_{name}")).note == ""


def test_what_is_no_picture_is_one_line(tmp_path):
    (tmp_path / "text.jpg").write_text("hello")
    assert "no JPEG" in why(tmp_path / "text.jpg")
    whole = picture(tmp_path / "whole.jpg", (64, 64)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    assert "cannot be decoded" in why(tmp_path / "cut.jpg")
    (tmp_path / "empty.jpg").touch()
    assert why(tmp_path / "empty.jpg")
    Image.fromarray(np.zeros((9, 9), np.float32)).save(tmp_path / "floats.tif")
    assert "colour mode F" in why(tmp_path / "floats.tif")
    assert "any more" in why(tmp_path / "gone.jpg")
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file" in why(tmp_path / "pipe")
    assert "neither a file" in why("/dev/zero")


def test_a_bomb_is_refused_by_its_header(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(10_000))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(data)
    assert "900000000 pixels" in why(tmp_path / "bomb.png")


def test_arrays_and_pil_images_are_the_same_picture_as_a_file(tmp_path):
    path = picture(tmp_path / "a.png")
    expected = read_file(str(path)).rgb
    with Image.open(path) as image:
        assert np.array_equal(of_image(image).read(0).rgb, expected)
    assert np.array_equal(of_image(expected).read(0).rgb, expected)
    transparent = np.concatenate([expected, np.full((*expected.shape[:2], 1), 9, np.uint8)], -1)
    for image in (transparent, Image.fromarray(transparent)):
        assert np.array_equal(of_image(image).read(0).rgb, expected)
    grey = expected[..., 0]
    for array in (
        grey,
        grey[..., None],
        grey.astype(np.uint16) * 257,
        np.maximum(grey.astype(np.uint16) * 257, 128) - 128,
    ):
        assert np.array_equal(of_image(array).read(0).rgb, np.stack([grey] * 3, -1))


def test_an_array_may_change_once_it_was_handed_over():
    array = np.zeros((4, 4, 3), np.uint8)
    taken = of_image(array)
    array[:] = 255
    assert not taken.read(0).rgb.any()


def test_objects_that_are_no_pictures():
    for array in (np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8)):
        with pytest.raises(TypeError, match=r"uint8 or uint16 \(H, W\)"):
            of_image(array)
    with pytest.raises(TypeError, match="bytes is no picture"):
        of_image(b"x")
    for bad, said in ((np.zeros((0, 4), np.uint8), "4x0"), (Image.new("F", (4, 4)), "colour mode F")):
        with pytest.raises(BadPicture, match=said):
            of_image(bad).read(0)


#: As programs are compiled outside the tests: the last bits are asked about.
AS_USERS = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (48, 48), (31, 57), (300, 2), (224, 224)])
def test_the_host_resizes_as_the_device_does(size, antialias):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    for side in (32, 48):
        program = jax.jit(
            functools.partial(preprocess.resize, size=side, antialias=antialias), compiler_options=AS_USERS
        )
        expected = program(image[None])[0]
        np.testing.assert_allclose(predict_inputs.resized(image, side, antialias=antialias), expected, atol=2e-4)


def video(path, frames=25, rate=10):
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), rate, (64, 48))
    for number in range(frames):
        writer.write(np.full((48, 64, 3), (0, 0, number * 10), np.uint8))  # BGR: red
    writer.release()
    return path


def test_frames_of_a_video_come_with_their_times(tmp_path):
    frames = list(open_found(find(video(tmp_path / "v.avi")), every=10))
    assert [frame.time for frame in frames] == [0.0, 1.0, 2.0]
    assert [frame.name for frame in frames] == ["v.avi/000000.jpg", "v.avi/000010.jpg", "v.avi/000020.jpg"]
    for number, frame in enumerate(frames):
        rgb = frame.read(0).rgb
        assert rgb.shape == (48, 64, 3) and not frame.live
        np.testing.assert_allclose(rgb.mean((0, 1)), (100 * number, 0, 0), atol=4)


def test_a_video_that_is_none_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "v.mp4").write_text("hello")
    whole = video(tmp_path / "whole.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[:300])
    for name in ("v.mp4", "cut.avi"):
        (only,) = open_found(find(tmp_path / name))
        with pytest.raises(BadPicture, match=r"no video|not one frame"):
            only.read(0)
    (camera,) = open_found(find("camera:99"))
    with pytest.raises(BadPicture, match="no such camera"):
        camera.read(0)
    monkeypatch.setitem(sys.modules, "cv2", None)
    (only,) = open_found(find(tmp_path / "whole.avi"))
    with pytest.raises(BadPicture, match=r"-e '\.\[faces\]'"):
        only.read(0)
