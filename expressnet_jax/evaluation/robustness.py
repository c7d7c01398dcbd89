"""How a network's accuracy falls when its pictures are made worse: in seven ways, each in five strengths.

The idea of five strengths is that of ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261). Lengths are parts of
the picture's shorter side, so that small and large pictures are hit alike. Noise and JPEG act on pixels, which have no
length; their strengths lie between those of that paper's authors for 32 and for 224 pixels.

Everything random is a function of (seed, example): not of the batch, and not of the strength, so that a picture is
turned in the same direction, or covered in the same place, at every strength.

Legend: B image, H W height and width, S one of them, C colour channel (1 grey, or 3: RGB), N pixels left of S.
"""

import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, JpegImagePlugin
from scipy import ndimage

from data_pipelines.common.text import Progress
from data_pipelines.splits import Split
from expressnet_jax.config import Config
from expressnet_jax.evaluation import answers
from expressnet_jax.parallel import distributed
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.runs.state import State

STRENGTHS = (0, 1, 2, 3, 4, 5)
_EXAMPLE = 1  # what is drawn by chance is drawn for this one, whose eyes are covered

# One value a strength, the first for 0, which changes nothing.
YAW = (0.0, 9.0, 18.0, 27.0, 36.0, 45.0)  # degrees
PITCH = 0.3  # of the yaw
DISTANCE = 2.0  # of the camera, in sides of the picture: a face that fills it, from an arm's length
COVERED = (0.0, 0.4, 0.55, 0.7, 0.85, 1.0)  # of the sides of the place in PLACES
DARKENED = (0.0, 0.25, 0.4, 0.55, 0.68, 0.8)  # of the light, at the dark end
GAMMA = (1.0, 1.1, 1.2, 1.3, 1.45, 1.6)
SIGMA = (0.0, 0.008, 0.013, 0.018, 0.024, 0.03)  # of the blur, in sides
NOISE_32, NOISE_224 = (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)  # deviations, of 255
PIXELS = (0, 36, 29, 24, 20, 16)  # that are left of the shorter side
QUALITY_32, QUALITY_224 = (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)

#: What is covered in a picture that is cropped to its face: centre (y, x) and height, width, as parts of the sides.
#: The last one's centre is drawn.
PLACES = {
    "eyes": ((0.42, 0.5), (0.26, 0.76)), "mouth": ((0.76, 0.5), (0.28, 0.56)), "anywhere": ((0.5, 0.5), (0.4, 0.4)),
}  # fmt: skip

#: R G B to Y Cb Cr, without the offset of 128 (JFIF, ITU-T T.871, section 7).
_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


class Corruption(NamedTuple):
    """How pictures are changed, and what it is, in a line."""

    change: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # (pictures, keys (B,), strength ()) -> pictures
    description: str


def measure(config: Config, state: State, split: Split, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """Accuracy and macro F1 on a split under every corruption at every strength, ready for JSON.

    Pictures are corrupted on the device as they are stored, before all that the network does to them. All processes
    have to call this, under `jax.set_mesh(mesh)`.

    Returns {"strengths": 0..5, "examples", "corruptions": {name: {"accuracy", "macro_f1"}}, each a list over the
    strengths, of which 0 is the pictures as they are; "mean_accuracy" over the corruptions and the strengths 1..5;
    "relative", which is that divided by the accuracy at strength 0 (0 where that is 0)}.
    Raises DataError where the number of examples counted is not the split's.
    """
    # One program for the network, and one for all strengths of a corruption.
    count = answers.counter(config, mesh)
    corrupt = jax.jit(stored, static_argnums=0, out_shardings=meshes.batch_sharding(mesh))
    kinds = [("", 0), *((name, strength) for name in CORRUPTIONS for strength in STRENGTHS[1:])]
    counts = {kind: np.zeros((len(split.classes), len(split.classes)), np.int64) for kind in kinds}
    total = answers.number_of(config, split) * len(kinds)
    with Progress(f"{split.name}, corrupted", total, unit="batches", hidden=not distributed.is_first()) as bar:
        for batch in answers.batches(config, split, mesh, shown=False):  # each is read once, for all kinds
            for name, strength in kinds:
                images = corrupt(name, batch["image"], batch["index"], strength) if name else batch["image"]
                counts[name, strength] += np.asarray(count(state, batch | {"image": images}, split.known)[0])
                bar.update()
    found = {kind: answers.tally(confusion, split) for kind, confusion in counts.items()}
    table = {
        name: {key: [found[name if s else "", s][key] for s in STRENGTHS] for key in ("accuracy", "macro_f1")}
        for name in CORRUPTIONS
    }
    plain = found["", 0]["accuracy"]
    mean = float(np.mean([row["accuracy"][1:] for row in table.values()]))
    return {
        "strengths": list(STRENGTHS), "examples": len(split), "corruptions": table,
        "mean_accuracy": mean, "relative": mean / plain if plain else 0.0,
    }  # fmt: skip


def examples(picture: np.ndarray) -> dict[str, list[np.ndarray]]:
    """One picture under every corruption at every strength, as an evaluation damages it, for a figure.

    picture: (H, W, C) uint8, C 1 or 3 (RGB), and so is each returned. Raises ValueError for anything else.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] not in (1, 3):
        raise ValueError(f"the picture must be uint8 (H, W, 1 or 3), got {picture.dtype} {picture.shape}")
    corrupt = jax.jit(stored, static_argnums=0)
    return {
        name: [np.asarray(corrupt(name, picture[None], np.array([_EXAMPLE]), strength))[0] for strength in STRENGTHS]
        for name in CORRUPTIONS
    }


def apply(name: str, images: jax.Array, index: jax.Array, strength: int | jax.Array, *, seed: int = 0) -> jax.Array:
    """Pictures with one of CORRUPTIONS at a strength 0..5; strength 0 gives them back bit for bit.

    images: (B, H, W, C) float32 in 0..255, of the size that is stored. index: (B,) int32, each example's number.
    strength: may be traced, so that one compiled program has all of them. Returns the same shape, type and range, not
    rounded. Raises ValueError for another shape, type, name or strength.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"no corruption {name!r}; there are {', '.join(CORRUPTIONS)}")
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype != jnp.float32:
        raise ValueError(f"pictures must be float32 (B, H, W, 1 or 3), got {images.dtype} {images.shape}")
    if isinstance(strength, int) and strength not in STRENGTHS:
        raise ValueError(f"strength {strength}; it goes from 0 to {STRENGTHS[-1]}")
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), index)  # (B,)
    changed = CORRUPTIONS[name].change(images, keys, jnp.asarray(strength))
    return jnp.where(strength > 0, jnp.clip(changed, 0, 255), images)


def stored(name: str, images: jax.Array, index: jax.Array, strength: int | jax.Array) -> jax.Array:
    """`apply` from uint8 to uint8, which is how pictures are stored, and so all that a network would ever see."""
    return jnp.round(apply(name, images.astype(jnp.float32), index, strength)).astype(jnp.uint8)


def plane_points(x: jax.Array, y: jax.Array, yaw: jax.Array, pitch: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which point (u, v) of a turned plane is seen at the point (x, y) of the screen.

    Lengths are sides of the picture, from its centre to the right and down; angles are radians. The plane, at rest the
    screen itself, is turned about its horizontal axis by `pitch`, then about the vertical one by `yaw`, whose positive
    values bring its right side nearer; a pinhole camera is at DISTANCE in front of it. The point is where the ray from
    the camera meets the plane, so the map is a homography (Hartley and Zisserman, Multiple View Geometry, chapter 2).
    """
    cos_yaw, sin_yaw, cos_pitch, sin_pitch = jnp.cos(yaw), jnp.sin(yaw), jnp.cos(pitch), jnp.sin(pitch)
    normal = (sin_yaw * cos_pitch, -sin_pitch, cos_yaw * cos_pitch)
    along = normal[2] * DISTANCE / (normal[0] * x + normal[1] * y + normal[2] * DISTANCE)
    point = (along * x, along * y, (along - 1) * DISTANCE)
    u = cos_yaw * point[0] - sin_yaw * point[2]
    v = sin_yaw * sin_pitch * point[0] + cos_pitch * point[1] + cos_yaw * sin_pitch * point[2]
    return u, v


def _pose(images: jax.Array, keys: jax.Array, strength: jax.Array) -> jax.Array:
    """A flat picture turned in space, to one side and up or down; beyond its edges they are repeated.

    A head has depth, and shows other parts of itself when it turns: this has only the foreshortening.
    """
    _, h, w, _ = images.shape
    side = min(h, w)
    angle = jnp.deg2rad(jnp.asarray(YAW)[strength])
    yaw, pitch = (angle * jnp.where(_uniform(keys, 2) < 0.5, -1.0, 1.0) * np.array([1.0, PITCH])).T  # (B,) each
    y, x = (jnp.arange(h) + 0.5 - h / 2)[:, None] / side, (jnp.arange(w) + 0.5 - w / 2)[None, :] / side

    def turn(image: jax.Array, yaw: jax.Array, pitch: jax.Array) -> jax.Array:
        u, v = plane_points(x, y, yaw, pitch)  # (H, W) each
        at = [v * side + h / 2 - 0.5, u * side + w / 2 - 0.5]
        return jax.vmap(lambda c: jax.scipy.ndimage.map_coordinates(c, at, 1, mode="nearest"), -1, -1)(image)

    return jax.vmap(turn)(images, yaw, pitch)


def _occlusion(images: jax.Array, keys: jax.Array, strength: jax.Array) -> jax.Array:
    """One rectangle of one grey, over the eyes, over the mouth or anywhere: a third of the examples each."""
    _, h, w, _ = images.shape
    draws = _uniform(keys, 4)  # (B, 4)
    which = jnp.floor(draws[:, 0] * len(PLACES)).astype(jnp.int32)
    centre, size = jnp.swapaxes(jnp.asarray([*PLACES.values()])[which], 0, 1)  # (B, 2) each
    anywhere = size / 2 + draws[:, 1:3] * (1 - size)  # all of it inside the picture
    centre = jnp.where((which == len(PLACES) - 1)[:, None], anywhere, centre)
    half = size / 2 * jnp.asarray(COVERED)[strength]
    rows, columns = (_share(n, (centre - half)[:, i], (centre + half)[:, i]) for i, n in enumerate((h, w)))
    share = (rows[:, :, None] * columns[:, None, :])[..., None]  # (B, H, W, 1)
    return images + share * (255 * draws[:, 3, None, None, None] - images)


def _share(s: int, low: jax.Array, high: jax.Array) -> jax.Array:
    """(B, S): how much of each of S pixels lies between `low` and `high` (B,), which are parts of the side."""
    return s * jnp.diff(jnp.clip(jnp.arange(s + 1) / s, low[:, None], high[:, None]))


def _light(images: jax.Array, keys: jax.Array, strength: jax.Array) -> jax.Array:
    """Light from one side, any, that fades across the picture, and an exposure that is too short (a gamma above 1)."""
    _, h, w, _ = images.shape
    angle = 2 * jnp.pi * _uniform(keys, 1)[:, :, None]  # (B, 1, 1)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    y, x = ((jnp.arange(n) + 0.5) / n - 0.5 for n in (h, w))
    along = 0.5 + (x[None, :] * cos + y[:, None] * sin) / (jnp.abs(cos) + jnp.abs(sin))  # (B, H, W): 0 light .. 1 dark
    light = 1 - jnp.asarray(DARKENED)[strength] * along
    return 255 * (images / 255) ** jnp.asarray(GAMMA)[strength] * light[..., None]


def _blur(images: jax.Array, _: jax.Array, strength: jax.Array) -> jax.Array:
    """A Gaussian, which is cut off at 4 sigma; beyond the edges they are repeated."""
    side = min(images.shape[1:3])

    def smoothed(s: int, level: int) -> np.ndarray:
        return ndimage.gaussian_filter1d(np.eye(s), SIGMA[level] * side, axis=0, mode="nearest")

    return _along_axes(images, strength, smoothed)


def _noise(images: jax.Array, keys: jax.Array, strength: jax.Array) -> jax.Array:
    """Gaussian, of its own in each pixel and channel."""
    deviations = np.array([0.0, *_for_side(NOISE_32, NOISE_224, min(images.shape[1:3]))])
    noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys)
    return images + 255 * jnp.asarray(deviations, jnp.float32)[strength] * noise


def _low_resolution(images: jax.Array, _: jax.Array, strength: jax.Array) -> jax.Array:
    """Made smaller by the mean over areas, then larger again, bilinearly: as a face far from the camera."""
    side = min(images.shape[1:3])

    def there_and_back(s: int, level: int) -> np.ndarray:
        n = max(round(s * min(PIXELS[level], side) / side), 1)
        # (N, S): means over N equal parts of S pixels, a pixel at a border counting in parts.
        edges = np.arange(n + 1)[:, None] * s / n
        smaller = np.diff(np.clip(np.arange(s + 1), edges[:-1], edges[1:])) * n / s
        # (S, N): N pixels read at S places between their centres; beyond the outer ones, those.
        at = np.clip((np.arange(s) + 0.5) * n / s - 0.5, 0, n - 1)[:, None]
        return np.maximum(1 - np.abs(at - np.arange(n)), 0) @ smaller

    return _along_axes(images, strength, there_and_back)


def _jpeg(images: jax.Array, _: jax.Array, strength: jax.Array) -> jax.Array:
    """What JPEG keeps, without its subsampling of colour (so 4:4:4): quantised 8 x 8 cosine transforms."""
    tables = np.stack([quantization_tables(q) for q in (100, *jpeg_qualities(min(images.shape[1:3])))])
    grey = images.shape[-1] == 1
    turn = np.eye(1) if grey else _YCC
    chosen = jnp.asarray(tables, jnp.float32)[strength][np.array([0] if grey else [0, 1, 1])]  # (C, 8, 8)
    # The offset of 128 in Cb and Cr, and the one that the transform takes from all three, leave Y alone with one.
    shift = np.array([128.0] if grey else [128.0, 0.0, 0.0], np.float32)
    colours = "bhwc,dc->bhwd"  # each pixel's channels by a matrix
    planes = jnp.round(_product(colours, images, turn) - shift)
    kept = jnp.clip(jnp.round(_quantised(planes, chosen)), -128, 127)
    return _product(colours, kept + shift, np.linalg.inv(turn))


def jpeg_qualities(side: int) -> tuple[int, ...]:
    """libjpeg's quality at the strengths 1 to 5, for pictures of this shorter side in pixels."""
    small, large = ([_table_scale(q) for q in qualities] for qualities in (QUALITY_32, QUALITY_224))
    return tuple(max(round(5000 / s if s > 100 else (200 - s) / 2), 1) for s in _for_side(small, large, side))


def quantization_tables(quality: int) -> np.ndarray:
    """(2, 8, 8) int, luminance and chrominance, at a quality of 1..100, as libjpeg writes them into a file."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "jpeg", quality=quality)
    tables = JpegImagePlugin.JpegImageFile(io.BytesIO(file.getvalue())).quantization
    return np.reshape([tables[0], tables[1]], (2, 8, 8))


def _table_scale(quality: int) -> float:
    """Per cent by which libjpeg multiplies the tables of ITU-T T.81 (jcparam.c)."""
    return 5000 / quality if quality < 50 else 200 - 2 * quality


def _quantised(planes: jax.Array, tables: jax.Array) -> jax.Array:
    """(B, H, W, C) through the cosine transform of 8 x 8 blocks, rounded to multiples of `tables` (C, 8, 8), and back.

    A picture whose sides are no multiples of 8 is continued by its last row and column, as libjpeg does.
    """
    b, h, w, c = planes.shape
    padded = jnp.pad(planes, ((0, 0), (0, -h % 8), (0, -w % 8), (0, 0)), mode="edge")
    blocks = padded.reshape(b, padded.shape[1] // 8, 8, padded.shape[2] // 8, 8, c)
    rows, columns = np.mgrid[:8, :8]  # frequency, place
    cosines = np.cos((2 * columns + 1) * rows * np.pi / 16) * np.where(rows == 0, np.sqrt(1 / 8), 0.5)  # T.81, A.3.3
    forward = "buivjc,ki,lj->bukvlc"
    steps = jnp.moveaxis(tables, 0, -1)[None, None, :, None, :, :]  # (1, 1, 8, 1, 8, C)
    exact = _product(forward, blocks, cosines, cosines) / steps
    # Away from zero, as libjpeg rounds: means of 64 integers are halves so often that rounding errors must not decide.
    coefficients = jnp.sign(exact) * jnp.floor(jnp.abs(exact) + 0.5001) * steps
    return _product(forward, coefficients, cosines.T, cosines.T).reshape(padded.shape)[:, :h, :w]


def _along_axes(images: jax.Array, strength: jax.Array, matrix: Callable[[int, int], np.ndarray]) -> jax.Array:
    """Pictures whose columns and rows are multiplied by `matrix(S, strength)` (S, S), made for each strength but 0."""
    down, across = (
        jnp.asarray(np.stack([np.eye(s), *(matrix(s, level) for level in STRENGTHS[1:])]), jnp.float32)[strength]
        for s in images.shape[1:3]
    )
    return _product("bhwc,ih,jw->bijc", images, down, across)


def _for_side(at_32: Sequence[float], at_224: Sequence[float], side: int) -> np.ndarray:
    """Values for pictures of `side` pixels: a power of the side through those for 32 and for 224."""
    return np.array(at_32) * (np.array(at_224) / at_32) ** (np.log(side / 32) / np.log(224 / 32))


def _product(axes: str, *factors: jax.Array | np.ndarray) -> jax.Array:
    """An einsum in float32 throughout, which accelerators leave out of their own accord."""
    return jnp.einsum(axes, *(jnp.asarray(f, jnp.float32) for f in factors), precision=jax.lax.Precision.HIGHEST)


def _uniform(keys: jax.Array, n: int) -> jax.Array:
    """(B, n) in [0, 1)."""
    return jax.vmap(lambda key: jax.random.uniform(key, (n,)))(keys)


CORRUPTIONS: dict[str, Corruption] = {
    "pose": Corruption(_pose, "turned to one side, and up or down, as a flat picture is"),
    "occlusion": Corruption(_occlusion, "a grey rectangle over the eyes, the mouth or another place"),
    "light": Corruption(_light, "dark, and lit from one side"),
    "blur": Corruption(_blur, "out of focus"),
    "noise": Corruption(_noise, "Gaussian noise in each pixel"),
    "low_resolution": Corruption(_low_resolution, "few pixels, enlarged"),
    "jpeg": Corruption(_jpeg, "compressed by JPEG"),
}
