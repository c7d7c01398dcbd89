"""Near duplicates: the search finds what comparing all pairs finds, and the measure tells copies from other faces."""

import io
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps

from data_pipelines import hashing
from data_pipelines.audit import audit
from data_pipelines.synthetic import draw, sample_factors

FACES = 40


def near_hashes(seed: int, number: int = 300) -> np.ndarray:
    """Random hashes, half of them copies of others with 0 to 16 bits changed."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 1 << 63, number, dtype=np.uint64)
    for i in range(number // 2, number):
        flipped = rng.choice(63, i % 17, replace=False)
        hashes[i] = hashes[rng.integers(number // 2)] ^ np.uint64(sum(1 << int(bit) for bit in flipped))
    return hashes


def found(queries: np.ndarray, others: np.ndarray, distance: int) -> list[tuple[int, int]]:
    blocks = hashing.pairs_within(queries, others, distance)
    return [pair for i, j in blocks for pair in zip(i.tolist(), j.tolist(), strict=True)]


@pytest.mark.parametrize("distance", [0, 3, 7, 11])
@pytest.mark.parametrize("at_once", [1, 10, 1 << 21])
def test_search_finds_what_comparing_all_pairs_finds(
    distance: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing, "_PAIRS_AT_ONCE", at_once)
    queries, others = near_hashes(1), near_hashes(1) ^ np.uint64(0b1001)
    for left, right in ((others, others), (queries, others)):
        expected = [
            (i, j)
            for i, j in itertools.combinations(range(len(left)), 2)
            if (int(left[i]) ^ int(right[j])).bit_count() <= distance
        ]
        assert sorted(found(left, right, distance)) == expected  # each once
        assert expected or distance < 2


def test_search_in_nothing() -> None:
    assert found(np.zeros(0, np.uint64), np.zeros(0, np.uint64), 11) == []
    assert hashing.near_groups(np.zeros((0, 24, 24), np.uint8), np.zeros(0, bool)).tolist() == []


def reduced(pixels: np.ndarray) -> np.ndarray:
    return hashing.reduced(Image.fromarray(pixels))


def test_mirroring_changes_known_bits() -> None:
    small = np.random.default_rng(0).integers(0, 256, (50, 24, 24), dtype=np.uint8)
    assert (hashing.hashes(small[:, :, ::-1]) == hashing.hashes(small) ^ hashing.MIRROR).all()
    assert (np.bitwise_count(hashing.hashes(small) ^ hashing.hashes(~small)) == 63).all()  # every sign changes


def test_difference_is_none_after_what_is_fitted() -> None:
    """Brightness and contrast exactly; a shift and a scale of a smooth picture nearly."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:24, :24] - 11.5
    waves = rng.uniform(0.05, 0.25, (6, 2)) * rng.choice([-1, 1], (6, 2))
    phases = rng.uniform(0, 6, 6)

    def picture(scale: float = 1, right: float = 0) -> np.ndarray:
        parts = [np.cos(a * scale * x + b * scale * y - a * right + p) for (a, b), p in zip(waves, phases, strict=True)]
        return 128 + 20 * np.sum(parts, 0)[None]

    assert hashing.difference(picture(), 0.5 * picture() + 40)[0] < 1e-6
    assert hashing.difference(picture(), picture(right=0.5))[0] < 1e-3
    assert hashing.difference(picture(), picture(scale=1.03))[0] < 1e-3
    noise = rng.normal(128, 40, (1, 24, 24))
    assert hashing.difference(noise, rng.normal(128, 40, (1, 24, 24)))[0] > 0.9


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    return np.stack([draw(sample_factors(7, number), 48) for number in range(FACES)])


def encoded(pixels: np.ndarray, kind: str, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, quality=quality)
    return np.asarray(Image.open(stream).convert("RGB"))


def cut(pixels: np.ndarray, left: int, top: int, right: int, bottom: int) -> np.ndarray:
    picture = Image.fromarray(pixels).crop((left, top, 48 - right, 48 - bottom))
    return np.asarray(picture.resize((48, 48), Image.Resampling.BILINEAR))


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "darker": lambda pixels: (pixels * 0.7).astype(np.uint8),
    "brighter": lambda pixels: (pixels * 0.6 + 100).astype(np.uint8),
    "JPEG of quality 50": lambda pixels: encoded(pixels, "JPEG", 50),
    "WebP of quality 50": lambda pixels: encoded(pixels, "WEBP", 50),
    "one pixel to the right": lambda pixels: np.pad(pixels, ((0, 0), (1, 0), (0, 0)), "edge")[:, :48],
    "one pixel cut off each side": lambda pixels: cut(pixels, 1, 1, 1, 1),
    "one pixel cut off two sides": lambda pixels: cut(pixels, 1, 1, 0, 0),
    "half the size": lambda pixels: np.asarray(Image.fromarray(pixels).resize((24, 24))),
    "twice the size": lambda pixels: np.asarray(Image.fromarray(pixels).resize((96, 96))),
    "grey": lambda pixels: np.asarray(ImageOps.grayscale(Image.fromarray(pixels))),
}


@pytest.mark.parametrize("change", COPIES)
def test_changed_copies_are_found(change: str, faces: np.ndarray) -> None:
    """Nine of ten at least, and nothing else: each face is in a group with its own copy, or alone."""
    small = np.stack([reduced(face) for face in faces] + [reduced(COPIES[change](face)) for face in faces])
    groups = hashing.near_groups(small, np.ones(len(small), bool))
    assert groups[:FACES].tolist() == list(range(FACES))
    copies = groups[FACES:]
    assert ((copies == np.arange(FACES)) | (copies == np.arange(FACES, 2 * FACES))).all()
    assert (copies < FACES).mean() >= 0.9


def test_mirror_images_are_found_as_such_only(faces: np.ndarray) -> None:
    small = np.stack([reduced(face) for face in faces] + [reduced(face[:, ::-1]) for face in faces])
    everything = np.ones(len(small), bool)
    assert hashing.near_groups(small, everything, mirrored=True).tolist() == [*range(FACES), *range(FACES)]
    assert (hashing.near_groups(small, everything)[:FACES] == np.arange(FACES)).all()


def test_different_drawn_faces_are_no_duplicates(data_dir) -> None:
    """All 288 of the tiny set; of 8,000 drawn faces 27 of 32 million pairs would be."""
    report = audit.audit("synthetic_faces/tiny", data_dir=str(data_dir))
    assert report["all"]["pictures"] == 288
    for finding in ("exact_duplicates", "near_duplicates", "mirrored", "blank", "odd_sizes", "unusable"):
        assert report[finding]["total"] == 0


def test_flat_and_unwanted_pictures_are_left_alone(faces: np.ndarray) -> None:
    flat = np.full((24, 24), 99, np.uint8)
    flat[3, 3] = 120
    one = reduced(faces[0])
    small = np.stack([flat, flat, one, one, one])
    assert hashing.near_groups(small, np.array([1, 1, 1, 0, 1], bool)).tolist() == [0, 1, 2, 3, 2]


def test_a_group_is_joined_by_pairs() -> None:
    """Of three pictures along a line the outer ones are too far apart, and yet are in one group."""
    rng = np.random.default_rng(3)
    middle, change = rng.normal(0, 30, (2, 24, 24))
    small = np.stack([(128 + middle + part * change).clip(0, 255).astype(np.uint8) for part in (-0.12, 0, 0.12)])
    everything = np.ones(3, bool)
    assert hashing.near_groups(small, everything).tolist() == [0, 0, 0]
    assert hashing.near_groups(small, np.array([True, False, True])).tolist() == [0, 1, 2]
