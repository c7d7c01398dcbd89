"""NVIDIA GPUs that are not here: XLA's own description of them, for which its compiler makes real programs.

Wants the extra `plan-cuda`: JAX's CUDA plugin and NVIDIA's assembler, neither a driver nor a GPU. Whatever a running
program would ask the GPU for is open here: which of cuDNN's and cuBLAS's algorithms is fastest, and the workspace that
it then needs.
"""

import importlib.util
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.experimental import topologies

from data_pipelines.common.text import install
from expressnet_jax.plan import machines

#: Without a GPU to try tiles on, Triton finds none for some products; cuBLAS then computes them.
COMPILER_OPTIONS = {"xla_gpu_enable_triton_gemm": False}
NOT_KNOWN = (
    "not in the compiler's figures: which of cuDNN's algorithms a GPU would choose, their workspace and that of "
    "Fourier transforms, and the programs' code; and caches: a network whose values fit into one may be faster"
)
FROM_SHAPES = (
    "predicted: memory traffic and activations are the least that any program moves and the most that it keeps, times "
    "what they were in programs compiled for an H100 (docs/benchmarks.md): estimates, so the speed is no bound here"
)
PREDICTED = f"compiled instead of predicted where JAX's CUDA plugin is: {install('plan-cuda')}"


class _Target(NamedTuple):
    """What XLA's compiler asks of a GPU beside its memory; sizes in bytes. Its makers' and XLA's own descriptions."""

    capability: tuple[int, int]
    cores: int  # streaming multiprocessors
    units: int  # of float32 in each
    gigahertz: float
    cache: int  # L2
    threads: int  # of a core
    shared: int  # memory of a core; a block may ask for a KiB less


_KIB, _MIB = 1 << 10, 1 << 20
_TARGETS = {
    "a100": _Target((8, 0), 108, 64, 1.41, 40 * _MIB, 2048, 164 * _KIB),
    "l4": _Target((8, 9), 58, 128, 2.04, 48 * _MIB, 1536, 100 * _KIB),
    "rtx4090": _Target((8, 9), 128, 128, 2.52, 72 * _MIB, 1536, 100 * _KIB),
    "h100": _Target((9, 0), 132, 128, 1.98, 50 * _MIB, 2048, 228 * _KIB),
    "h200": _Target((9, 0), 132, 128, 1.98, 50 * _MIB, 2048, 228 * _KIB),
    "b200": _Target((10, 0), 148, 128, 1.965, 126 * _MIB, 2048, 228 * _KIB),
}


def available() -> bool:
    """Whether JAX can compile for NVIDIA GPUs here."""
    return any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))


def devices(machine: machines.Machine) -> Sequence[jax.Device]:
    """The machine's GPUs, as devices to compile for; numbered host by host. Whatever JAX raises."""
    shape = f"1x{machine.slices}x{machine.chips // machine.slices}"  # XLA's slices x hosts x GPUs of a host
    return topologies.get_topology_desc(platform="cuda", target_config=_target(machine), topology=shape).devices


def _target(machine: machines.Machine) -> str:
    """XLA's GpuTargetConfigProto, as text."""
    chip = machine.chip
    assert chip is not None
    made = _TARGETS[chip.name]
    return f"""
        gpu_device_info {{
          threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: {made.threads}
          shared_memory_per_block: {48 * _KIB} shared_memory_per_core: {made.shared}
          shared_memory_per_block_optin: {made.shared - _KIB}
          registers_per_core_limit: 65536 registers_per_block_limit: 65536
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
          core_count: {made.cores} fpus_per_core: {made.units} clock_rate_ghz: {made.gigahertz}
          l2_cache_size: {made.cache} memory_bandwidth: {int(chip.bandwidth)} device_memory_size: {int(chip.memory)}
          cuda_compute_capability {{ major: {made.capability[0]} minor: {made.capability[1]} }}
        }}
        platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 8 }} runtime_version {{ major: 12 minor: 9 }}
        device_description_str: "{chip.kinds[0]}"
    """
