"""Chips and machines: what their makers say of them, and how the names on the command line are read.

All bandwidths are bytes a second that one chip can send (receiving is as fast, at the same time); arithmetic is dense,
without sparsity. An entry says where each figure is from; what no data sheet says is marked as assumed.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from expressnet_jax.config import ConfigError

_GB, _GIB = 1e9, 1 << 30


class Chip(NamedTuple):
    """One accelerator."""

    name: str
    kinds: tuple[str, ...]  # JAX's names for it (Device.device_kind)
    platform: str  # "tpu" or "gpu"
    bfloat16: float  # FLOP/s of matrix products of bfloat16 numbers
    float32: float  # of float32 numbers at JAX's default precision, and how that computes them:
    float32_as: str
    exact: float  # of float32 numbers at Precision.HIGHEST
    memory: float  # bytes
    bandwidth: float  # bytes/s of that memory
    link: float  # bytes/s to the chips of its slice (ICI) or host (NVLink), all links together
    network: float  # bytes/s of its share of the host's network cards: between slices (DCN), between hosts
    host: int  # chips of one host
    source: str


def _tpu(name: str, kinds: tuple[str, ...], peak: float, memory: float, bandwidth: float, link: float, network: float,
         host: int, source: str) -> Chip:  # fmt: skip
    """A TPU multiplies only bfloat16: float32 is rounded to it by default, and takes six products where exact."""
    return Chip(
        name, kinds, "tpu", peak, peak, "rounded to bfloat16, one pass", peak / 6, memory * _GIB, bandwidth * _GB,
        link * _GB, network * _GB, host, source,
    )  # fmt: skip


def _gpu(name: str, kinds: tuple[str, ...], peaks: tuple[float, float, float], memory: float, bandwidth: float,
         link: float, network: float, source: str) -> Chip:  # fmt: skip
    bfloat16, tf32, float32 = peaks
    return Chip(
        name, kinds, "gpu", bfloat16, tf32, "TF32", float32, memory * _GB, bandwidth * _GB, link * _GB, network * _GB,
        8, source,
    )  # fmt: skip


_CLOUD = "cloud.google.com/tpu/docs"
CHIPS = (
    _tpu("v4", ("TPU v4",), 275e12, 32, 1228, 300, 6.25, 4,
         f"{_CLOUD}/v4: 275 TFLOP/s, 32 GiB, 1,228 GB/s, 6 ICI links of 50 GB/s; assumed: 50 Gbit/s of network a chip"),
    _tpu("v5e", ("TPU v5 lite", "TPU v5e"), 197e12, 16, 819, 200, 3.125, 8,
         f"{_CLOUD}/v5e: 197 TFLOP/s, 16 GB, 819 GB/s, ICI 1,600 Gbit/s; network 6.4 Tbit/s for 256 chips"),
    _tpu("v5p", ("TPU v5", "TPU v5p"), 459e12, 95, 2765, 600, 6.25, 4,
         f"{_CLOUD}/v5p: 459 TFLOP/s, 95 GB, 2,765 GB/s, ICI 4,800 Gbit/s, network 50 Gbit/s a chip"),
    _tpu("v6e", ("TPU v6 lite", "TPU v6e"), 918e12, 32, 1638, 400, 12.5, 8,
         f"{_CLOUD}/v6e: 918 TFLOP/s, 32 GB, 1,638 GB/s, ICI 3,200 Gbit/s; network 25.6 Tbit/s for 256 chips"),
    _gpu("h200", ("NVIDIA H200",), (989e12, 494e12, 67e12), 141, 4800, 450, 50,
         "NVIDIA's data sheet of the H200 SXM: 989 (TF32 494, float32 67) TFLOP/s, 141 GB, 4.8 TB/s, NVLink 900 GB/s "
         "both ways; network as in a DGX H200: 400 Gbit/s a GPU"),
    _gpu("h100", ("NVIDIA H100 80GB HBM3",), (989e12, 494e12, 67e12), 80, 3350, 450, 50,
         "NVIDIA's data sheet of the H100 SXM: 989 (TF32 494, float32 67) TFLOP/s, 80 GB, 3.35 TB/s, NVLink 900 GB/s "
         "both ways; network as in a DGX H100: 400 Gbit/s a GPU"),
    _gpu("a100", ("NVIDIA A100-SXM4-80GB",), (312e12, 156e12, 19.5e12), 80, 2039, 300, 25,
         "NVIDIA's data sheet of the A100 SXM 80 GB: 312 (TF32 156, float32 19.5) TFLOP/s, 80 GB, 2.0 TB/s, NVLink "
         "600 GB/s both ways; network as in a DGX A100: 200 Gbit/s a GPU"),
)  # fmt: skip
_BY_NAME = {chip.name: chip for chip in CHIPS}


class Machine(NamedTuple):
    """A number of chips; a slice is what the fast links join: a TPU slice, or one GPU host."""

    name: str
    chip: Chip | None  # None: this computer's CPU, of which nothing is known
    chips: int
    slices: int
    shape: str = ""  # of one slice, as libtpu knows it

    @property
    def platform(self) -> str:
        """The platform that programs for it are traced for."""
        return self.chip.platform if self.chip else "cpu"


def chip_of(device_kind: str) -> Chip | None:
    """The chip with this `Device.device_kind`; None where the table has none, such as a slower card of a family."""
    return next((chip for chip in CHIPS if device_kind in chip.kinds), None)


def topology(name: str, slices: int = 1) -> Machine:
    """A TPU by name such as "v5e:4x4", and how many slices of it. libtpu checks the shape, later."""
    found = re.fullmatch(r"([a-z0-9]+):(\d+(?:x\d+){1,2})", name)
    tpus = [chip.name for chip in CHIPS if chip.platform == "tpu"]
    if not found or found[1] not in tpus:
        raise ConfigError(f"--topology {name}: not of the form v5e:4x4, v5p:2x2x1; known: {', '.join(tpus)}")
    if slices < 1:
        raise ConfigError(f"--slices {slices} must be at least 1")
    count = math.prod(map(int, found[2].split("x")))
    if count < 1:
        raise ConfigError(f"--topology {name} has no chips")
    return Machine(name if slices == 1 else f"{slices} x {name}", _BY_NAME[found[1]], count * slices, slices, name)


def gpus(name: str) -> Machine:
    """GPUs by name and number, such as "h100:64": hosts of eight, joined by their network."""
    kind, _, number = name.partition(":")
    known = [chip.name for chip in CHIPS if chip.platform == "gpu"]
    if kind not in known or not number.isdecimal() or int(number) < 1:
        raise ConfigError(f"--gpus {name}: not of the form h100:64; known: {', '.join(known)}")
    chip, count = _BY_NAME[kind], int(number)
    if count > chip.host and count % chip.host:
        raise ConfigError(f"--gpus {name}: {count} is not a whole number of hosts of {chip.host}")
    return Machine(name, chip, count, max(1, count // chip.host))


def cpus(number: int) -> Machine:
    """A number of devices that share this computer's CPU."""
    if number < 1:
        raise ConfigError(f"--cpus {number} must be at least 1")
    return Machine(f"cpus:{number}", None, number, 1)
