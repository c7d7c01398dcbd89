"""Chips and machines: what their makers say of them, the names on the command line, and a bound on a step's time.

All bandwidths are bytes a second that one chip can send (receiving is as fast, at the same time); arithmetic is dense,
without sparsity. An entry says where each figure is from; what no data sheet says is marked as assumed.

The bound takes arithmetic, memory and links each at its peak. Neither latency nor a share of the peaks that is really
reached is assumed: no program of this arithmetic and traffic can take less time, and this one may well take more.
"""

import math
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

from expressnet_jax.config import ConfigError
from expressnet_jax.plan import hlo

_GB, _MIB, _GIB = 1e9, 1 << 20, 1 << 30

ASSUMPTIONS = (
    "every figure of a chip is its maker's peak; nothing is assumed to reach only a part of it: a bound, not a promise",
    "on a chip, arithmetic and memory traffic overlap fully: the longer of both counts",
    "a collective sends what a ring sends, over all links of a chip at once; latency is not counted, so many small "
    "collectives cost more than is said here",
    "across slices or hosts, a collective is one inside of each, then one of every chip's share between them",
    "'overlapped': communication is hidden behind the rest as far as it is not longer; 'not overlapped': none of it is",
    "a chip's own work is that of this step for every number of chips; --sweep compiles for each of them",
    "the loader keeps up; evaluations and checkpoints are not counted",
)
FROM_SHAPES = (
    "predicted: memory traffic is the least that any program needs (arrays kept for gradients written and read once, "
    "the weights and their gradients, the optimizer); the paper's network compiled for a v5e moves six times as much"
)


#: Shares of a GPU's memory: what JAX takes by itself, and the most that it can be told to take, beside what CUDA needs:
#: XLA_PYTHON_CLIENT_MEM_FRACTION=.95.
GPU_RESERVED, GPU_MOST = 0.75, 0.95


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

    @property
    def usable(self) -> float:
        """Bytes of its memory that a program can be given."""
        return self.memory * (GPU_MOST if self.platform == "gpu" else 1)


def _tpu(name: str, kinds: tuple[str, ...], peak: float, memory: float, bandwidth: float, link: float, network: float,
         host: int, source: str) -> Chip:  # fmt: skip
    """A TPU multiplies only bfloat16: float32 is rounded to it by default, and takes six products where exact."""
    return Chip(
        name, kinds, "tpu", peak, peak, "rounded to bfloat16, one pass", peak / 6, memory * _GIB, bandwidth * _GB,
        link * _GB, network * _GB, host, source,
    )  # fmt: skip


def _gpu(name: str, kinds: tuple[str, ...], peaks: tuple[float, float, float], memory: float, bandwidth: float,
         link: float, network: float, source: str) -> Chip:  # fmt: skip
    """`memory` in MiB, as the driver (nvidia-smi) shows it, and not the data sheet's GB, which are fewer bytes."""
    bfloat16, tf32, float32 = peaks
    return Chip(
        name, kinds, "gpu", bfloat16, tf32, "TF32", float32, memory * _MIB, bandwidth * _GB, link * _GB, network * _GB,
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
    _gpu("h200", ("NVIDIA H200",), (989e12, 494e12, 67e12), 143771, 4800, 450, 50,
         "NVIDIA's data sheet of the H200 SXM: 989 (TF32 494, float32 67) TFLOP/s, 141 GB, 4.8 TB/s, NVLink 900 GB/s "
         "both ways; network as in a DGX H200: 400 Gbit/s a GPU"),
    _gpu("h100", ("NVIDIA H100 80GB HBM3",), (989e12, 494e12, 67e12), 81559, 3350, 450, 50,
         "NVIDIA's data sheet of the H100 SXM: 989 (TF32 494, float32 67) TFLOP/s, 80 GB, 3.35 TB/s, NVLink 900 GB/s "
         "both ways; network as in a DGX H100: 400 Gbit/s a GPU"),
    _gpu("a100", ("NVIDIA A100-SXM4-80GB",), (312e12, 156e12, 19.5e12), 81920, 2039, 300, 25,
         "NVIDIA's data sheet of the A100 SXM 80 GB: 312 (TF32 156, float32 19.5) TFLOP/s, 80 GB, 2.0 TB/s, NVLink "
         "600 GB/s both ways; network as in a DGX A100: 200 Gbit/s a GPU"),
    _gpu("b200", ("NVIDIA B200",), (2250e12, 1100e12, 75e12), 183359, 8000, 900, 50,
         "NVIDIA's data sheet of the DGX B200: 2,250 (TF32 1,100, float32 75) TFLOP/s a GPU, 180 GB, 8 TB/s, NVLink "
         "1,800 GB/s both ways, network 400 Gbit/s a GPU"),
    _gpu("l4", ("NVIDIA L4",), (121e12, 60e12, 30.3e12), 23034, 300, 32, 1.5625,
         "NVIDIA's data sheet of the L4: 121 (TF32 60, float32 30.3) TFLOP/s, 24 GB, 300 GB/s, PCIe 64 GB/s both ways; "
         "assumed: 12.5 Gbit/s of network a GPU, as a host of eight has in a cloud"),
    _gpu("rtx4090", ("NVIDIA GeForce RTX 4090",), (165e12, 82.6e12, 82.6e12), 24564, 1008, 32, 1.25,
         "NVIDIA's paper on the Ada architecture: 165 (TF32 82.6, float32 82.6) TFLOP/s with float32 sums, 24 GB, "
         "1,008 GB/s; PCIe 64 GB/s both ways; assumed: hosts of eight, 10 Gbit/s of network a GPU"),
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


def by_name(name: str, slices: int) -> Machine:
    """A TPU (`topology`) or GPUs (`gpus`)."""
    if name.partition(":")[0] not in [chip.name for chip in CHIPS if chip.platform == "gpu"]:
        return topology(name, slices)
    if slices != 1:
        raise ConfigError(f"--slices {slices} is for TPUs; {name} says how many GPUs, in hosts of eight")
    return gpus(name)


def cpus(number: int) -> Machine:
    """A number of devices that share this computer's CPU."""
    if number < 1:
        raise ConfigError(f"--cpus {number} must be at least 1")
    return Machine(f"cpus:{number}", None, number, 1)


def here() -> Machine:
    """The devices of this process. Raises ConfigError for ones that the table does not have."""
    kind, count = jax.devices()[0].device_kind, jax.device_count()
    if jax.default_backend() == "cpu":
        return cpus(count)
    chip = chip_of(kind)
    if chip is None:
        known = ", ".join(name for chip in CHIPS for name in chip.kinds)
        raise ConfigError(f"--here: nothing is known of a {kind}; known: {known}")
    return gpus(f"{chip.name}:{count}") if chip.platform == "gpu" else Machine(f"{chip.name}:{count}", chip, count, 1)


def arithmetic(chip: Chip, by_precision: dict[str, int], compiled_flops: float = 0.0) -> float:
    """Seconds of convolutions and matrix products; with the compiler's own count at least those of that many."""
    rates = {
        "bfloat16": chip.bfloat16, "float16": chip.bfloat16, "highest": chip.exact,
        "high": chip.bfloat16 / 3 if chip.platform == "tpu" else chip.float32,  # there three products of bfloat16 parts
    }  # fmt: skip
    seconds = sum(flops / rates.get(precision, chip.float32) for precision, flops in by_precision.items())
    return max(seconds, compiled_flops / chip.bfloat16)


def communication(chip: Chip, rows: Iterable[dict[str, Any]], slices: int) -> float:
    """Seconds of all collectives, one after the other; only those along `data` leave a slice."""
    seconds = 0.0
    for row in rows:
        across = slices if "data" in row["axis"] else 1
        inside = max(1, row["devices"] // across)
        links = hlo.sent(row["kind"], row["bytes"], inside) / chip.link
        seconds += links + (hlo.sent(row["kind"], row["bytes"] / inside, across) / chip.network if across > 1 else 0.0)
    return seconds


def bound(images: int, compute: float, memory: float, sent: float) -> dict[str, Any]:
    """The step's time in ms and images/s, with communication overlapped and not; `limit` names what takes longest."""
    alone = max(compute, memory)
    times = {"overlapped": max(alone, sent), "not_overlapped": alone + sent}
    longest = max((compute, "arithmetic"), (memory, "memory bandwidth"), (sent, "communication"))
    return {
        "arithmetic_ms": 1e3 * compute, "memory_ms": 1e3 * memory, "communication_ms": 1e3 * sent,
        "step_ms": {name: 1e3 * seconds for name, seconds in times.items()},
        "images_per_second": {name: images / seconds for name, seconds in times.items()},
        "limit": longest[1],
    }  # fmt: skip


def scaling(
    chip: Chip, each: int, alone: float, counts: Iterable[tuple[int, int]],
    rows: Callable[[int], Iterable[dict[str, Any]]],
) -> list[dict[str, Any]]:  # fmt: skip
    """For (chips, slices): images/s at `each` pictures a chip, and the efficiency against as many single chips.

    `alone` is the time of a chip without communication; `rows(chips)` gives the collectives.
    """
    found = []
    for chips, slices in counts:
        made = bound(each * chips, alone, 0.0, communication(chip, rows(chips), slices))
        row = {key: made[key] for key in ("communication_ms", "step_ms", "images_per_second")}
        efficiency = {name: alone * 1e3 / ms for name, ms in made["step_ms"].items()}
        found.append({"chips": chips, "slices": slices, "batch_size": each * chips, **row, "efficiency": efficiency})
    return found


def powers(chips: int, per_slice: int) -> list[tuple[int, int]]:
    """1, 2, 4 ... up to so many chips, and how many slices they take."""
    return [(n, -(-n // per_slice)) for n in sorted({*(2**i for i in range(chips.bit_length())), chips})]
