"""The weights and pictures behind golden.npz, made from nothing but names and seeds.

golden.npz was computed in float64 by an independent Keras 3 / TensorFlow 2.21 build of the network, from the
arrays that this file generates.
"""

import math
import zlib
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).with_name("golden.npz")


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 array that belongs to a parameter's name."""
    n = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    match name.rsplit("/", 1)[-1]:
        case "kernel":
            return n * np.float32(math.sqrt(2 / math.prod(shape[:-1])) * (8 if "/gate/" in name else 1))
        case "gamma":
            return np.float32(0.5) + np.float32(0.1) * n
        case "var":
            return np.exp(np.float32(0.2) * n)
        case _:
            return np.float32(0.1) * n


def images() -> np.ndarray:
    """(4, 224, 224, 3) float32 in [0, 1]: coarse tiles under fine noise, each picture brighter than the last."""
    rng = np.random.default_rng(0)
    tiles = np.kron(rng.random((4, 7, 7, 3), dtype=np.float32), np.ones((1, 32, 32, 1), np.float32))
    noise = rng.random((4, 224, 224, 3), dtype=np.float32)
    scale = np.linspace(0.25, 1, 4, dtype=np.float32)[:, None, None, None]
    return scale * (np.float32(0.6) * tiles + np.float32(0.4) * noise)


def projection(name: str, gradient: np.ndarray) -> float:
    """A gradient's component along a direction drawn from its name: it sees what a norm does not."""
    direction = np.random.default_rng(zlib.crc32(f"proj:{name}".encode())).standard_normal(gradient.shape)
    return float(np.sum(gradient * direction) / math.sqrt(gradient.size))
