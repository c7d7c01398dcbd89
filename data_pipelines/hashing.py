"""Near duplicates among very many pictures: perceptual hashes, and a search that takes less than quadratic time.

A picture is reduced to SIDE x SIDE grey levels. Its hash is the signs of the 63 lowest frequencies of their discrete
cosine transform without the mean (after the pHash of Zauner 2010, who compares with the median; with signs, mirroring
the picture flips known bits). Two pictures are near duplicates if

1. their hashes differ in at most MAX_BITS bits, and
2. their reductions `difference` is at most MAX_DIFFERENCE: hardly anything of one is left over once the other has been
   fitted to it in brightness, contrast, a small shift and a small change of scale.

The first makes the search fast, the second tells a changed copy from a similar face. Measured on pictures of 48x48
pixels: among 30,764 different ones of FER-2013 2,655 pairs pass, and in samples of 48 all were copies to the eye.
Chance makes a picture and another's mirror image alike as often as two pictures, and all 34 such pairs that pass are
mirrored copies too. Among 8,000 different drawn faces, which have more in common, 27 of 32 million pairs pass. Of
copies made for the purpose are found: JPEG or WebP of quality 50, half the size, darker, other gamma: all; brighter
beyond white: 78 %; one pixel aside: 98 %; one pixel cut off each side: 96 %, two pixels: 41 %.
"""

import itertools
from collections.abc import Iterator

import numpy as np
import scipy.fft
import scipy.sparse
import scipy.sparse.csgraph
from PIL import Image

#: Rows and columns that are left of a picture.
SIDE = 24
#: Near duplicates differ in at most so many of the 63 bits.
MAX_BITS = 11
#: Near duplicates leave at most this part of the variance unexplained.
MAX_DIFFERENCE = 0.02
#: A reduction whose standard deviation is below this many grey levels has nothing to compare.
MIN_DEVIATION = 2.0

_LOW = 8  # frequencies 0 to 7 in each direction
_BANDS, _BAND_BITS = 4, 16
_BAND = np.uint64((1 << _BAND_BITS) - 1)
_PAIRS_AT_ONCE = 1 << 21  # what the search holds in memory, at some 50 bytes each
_FITS_AT_ONCE = 1 << 12  # at some 10 kB each

_frequencies = sorted(
    ((u, v) for u in range(_LOW) for v in range(_LOW) if u or v), key=lambda uv: (uv[0] ** 2 + uv[1] ** 2, uv)
)
# Dealt out in turn: every band gets low and high frequencies, so that none has few values.
_places = [number % _BANDS * _BAND_BITS + number // _BANDS for number in range(len(_frequencies))]
_WEIGHTS = np.array([1 << place for place in _places], np.uint64)
#: The bits that change when a picture is mirrored: its odd horizontal frequencies change their sign.
MIRROR = np.uint64(sum(1 << place for place, (_, v) in zip(_places, _frequencies, strict=True) if v % 2))


def reduced(image: Image.Image) -> np.ndarray:
    """A picture as (SIDE, SIDE) uint8 grey levels."""
    grey = image if image.mode == "L" else image.convert("L")
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BICUBIC))  # Pillow's averages when it shrinks


def hashes(small: np.ndarray) -> np.ndarray:
    """The hashes, uint64 (N,), of reduced pictures, uint8 (N, SIDE, SIDE)."""
    rows, columns = zip(*_frequencies, strict=True)
    found = np.zeros(len(small), np.uint64)
    for start in range(0, len(small), _FITS_AT_ONCE):
        block = small[start : start + _FITS_AT_ONCE].astype(np.float32)
        positive = scipy.fft.dctn(block, axes=(1, 2))[:, rows, columns] > 0
        found[start : start + len(block)] = (positive * _WEIGHTS).sum(1, dtype=np.uint64)
    return found


def pairs_within(queries: np.ndarray, others: np.ndarray, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs i < j where queries[i] and others[j] differ in at most `distance` bits, each once, in blocks (i, j).

    Both are uint64 (N,). Multi-index hashing (Norouzi, Punjani and Fleet 2012): of the four 16-bit bands of such a
    pair, one differs in at most distance // 4 bits, so it is enough to look those variants up in a table of each band.
    """
    radius = distance // _BANDS
    flips = [sum(1 << b for b in bits) for k in range(radius + 1) for bits in itertools.combinations(range(16), k)]
    for band in range(_BANDS):
        shift = np.uint64(band * _BAND_BITS)
        keys = (others >> shift & _BAND).astype(np.intp)
        order = np.argsort(keys, kind="stable")
        first = np.searchsorted(keys[order], np.arange(2**_BAND_BITS + 1))  # where each key's entries begin in `order`
        wanted = (queries >> shift & _BAND).astype(np.intp)
        for flip in flips:
            begin, end = first[wanted ^ flip], first[(wanted ^ flip) + 1]
            for i, place in _expand(begin, end - begin):
                j = order[place]
                i, j = i[i < j], j[i < j]
                bits = queries[i] ^ others[j]
                new = np.bitwise_count(bits) <= distance
                for earlier in range(band):  # found there already
                    part = bits >> np.uint64(earlier * _BAND_BITS) & _BAND
                    new &= np.bitwise_count(part) > radius
                if new.any():
                    yield i[new], j[new]


def _expand(begin: np.ndarray, count: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(i, begin[i] + 0), ... (i, begin[i] + count[i] - 1) for all i, as arrays of bounded length."""
    ends = np.cumsum(count)
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.searchsorted(ends, np.arange(_PAIRS_AT_ONCE, total, _PAIRS_AT_ONCE))
    for part in np.split(np.arange(len(count)), np.unique(cuts)):
        numbers = count[part]
        i = np.repeat(part, numbers)
        yield i, np.arange(len(i)) - np.repeat(np.cumsum(numbers) - numbers, numbers) + np.repeat(begin[part], numbers)


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The part of the variance of b that is not explained by a, slightly changed: float32 (n,), 0 to 1.

    a and b are reduced pictures, (n, SIDE, SIDE), none of them flat. b is fitted by least squares as a sum of 1, a, a's
    gradients, and position times gradient: brightness, contrast, a shift and a scale to first order (the registration
    of Lucas and Kanade 1981, one step of it).
    """
    a, b = _smooth(a), _smooth(b)
    middle = (a + b) / 2  # its gradients serve both directions
    down, right = np.gradient(middle, axis=1), np.gradient(middle, axis=2)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) - (SIDE - 1) / 2
    terms = np.stack([a, down, right, y * down + x * right], 1).reshape(len(a), 4, SIDE * SIDE)
    terms -= terms.mean(2, keepdims=True)
    target = b.reshape(len(b), SIDE * SIDE, 1)
    target = target - target.mean(1, keepdims=True)
    normal = (terms @ terms.transpose(0, 2, 1)).astype(np.float64)
    # A little ridge: terms may be dependent, and any solution gives a true, if not the least, remainder.
    normal += 1e-6 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(4)
    factors = np.linalg.solve(normal, (terms @ target).astype(np.float64)).astype(np.float32)
    left = target - terms.transpose(0, 2, 1) @ factors
    return (left**2).sum((1, 2)) / (target**2).sum((1, 2))


def _smooth(small: np.ndarray) -> np.ndarray:
    """Weighs each row, then each column, with its neighbours 1 : 2 : 1, to float32: what a shift changes most goes."""
    wide = np.pad(small.astype(np.float32), ((0, 0), (1, 1), (1, 1)), "edge")
    rows = (wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]) / 4
    return (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4


def near_groups(small: np.ndarray, which: np.ndarray, mirrored: bool = False) -> np.ndarray:
    """For each reduced picture, uint8 (N, SIDE, SIDE), the number of the first one of its group: int (N,).

    Near duplicates are in one group; it is joined by pairs, so its ends need not be near duplicates. Flat pictures are
    left alone, and those that are not in `which`, bool (N,); best all of these differ, as equal ones cost time.
    With `mirrored`, one of a pair is seen in a mirror.
    """
    first = np.arange(len(small))
    blocks = np.array_split(small, 1 + len(small) // _FITS_AT_ONCE)  # std() makes float64 of what it gets
    usable = np.flatnonzero(which & (np.concatenate([block.std((1, 2)) for block in blocks]) >= MIN_DEVIATION))
    values = hashes(small)[usable]
    for i, j in pairs_within(values ^ MIRROR if mirrored else values, values, MAX_BITS):
        a, b = usable[i], usable[j]
        while len(a):
            apart = first[a] != first[b]  # of very many equal pictures few pairs are compared
            a, b = a[apart], b[apart]
            left, right = a[:_FITS_AT_ONCE], b[:_FITS_AT_ONCE]
            near = _near(small[left][:, :, ::-1] if mirrored else small[left], small[right])
            if near.any():
                first = _joined(first, left[near], right[near])
            a, b = a[_FITS_AT_ONCE:], b[_FITS_AT_ONCE:]
    return first


def _near(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether the difference is small in both directions: bool (n,)."""
    near = difference(a, b) <= MAX_DIFFERENCE
    near[near] = difference(b[near], a[near]) <= MAX_DIFFERENCE
    return near


def _joined(first: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """`first` after the groups of left[i] and right[i] have become one, for all i."""
    pairs = scipy.sparse.coo_array((np.ones(len(left), bool), (first[left], first[right])), (len(first), len(first)))
    _, component = scipy.sparse.csgraph.connected_components(pairs, directed=False)
    _, lowest = np.unique(component, return_index=True)
    return lowest[component[first]]
