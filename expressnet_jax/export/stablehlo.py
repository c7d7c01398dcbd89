"""model.stablehlo: the JAX program itself, serialised by `jax.export`, for CPUs, CUDA GPUs and TPUs.

Batch, height and width are free. `jax.export.deserialize(bytes).call(images)` runs it wherever JAX does.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from expressnet_jax import target
from expressnet_jax.config import Config
from expressnet_jax.export import artifact
from expressnet_jax.models import inference

PLATFORMS = ("cpu", "cuda", "tpu")


def write(path: Path, config: Config, weights: Mapping[str, np.ndarray]) -> None:
    """Writes the graph. CPUs and accelerators each get the forms of convolution that are fast there."""
    model = artifact.filled(config, weights)
    cpu, other = (_Prepared(config, model, machine) for machine in ("cpu", "gpu"))
    # What both have, such as the ResNet's kernels, is in the file once.
    shared = {
        name: value
        for name, value in cpu.arrays.items()
        if name in other.arrays and np.array_equal(value, other.arrays[name])
    }
    of_cpu, of_other = ({n: v for n, v in made.arrays.items() if n not in shared} for made in (cpu, other))

    def call(images: jax.Array) -> Any:
        return jax.lax.platform_dependent(
            images, shared, of_cpu, of_other,
            cpu=lambda images, shared, own, _: cpu.answer(images, shared | own),
            default=lambda images, shared, _, own: other.answer(images, shared | own),
        )  # fmt: skip

    b, h, w = jax.export.symbolic_shape("b, h, w")
    with _no_source_paths():
        exported = jax.export.export(jax.jit(call), platforms=PLATFORMS)(jax.ShapeDtypeStruct((b, h, w, 3), jnp.uint8))
    path.write_bytes(exported.serialize())


def load(path: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The graph of a file as a function from images (B, H, W, 3) uint8 to outputs by name, on this process's CPU."""
    call = jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)
    device = jax.local_devices(backend="cpu")[0]
    return lambda images: {name: np.asarray(value) for name, value in call(jax.device_put(images, device)).items()}


class _Prepared:
    """The network prepared for inference on one kind of machine, with its arrays by name."""

    def __init__(self, config: Config, model: Any, machine: str) -> None:
        self.config, self.machine = config, machine
        with target.compiling_for(machine):
            self.graph, arrays = inference.prepared(model, config)
        leaves, self.tree = jax.tree.flatten_with_path(arrays)
        self.arrays = {jax.tree_util.keystr(key): value for key, value in leaves}

    def answer(self, images: jax.Array, arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """The outputs by name. One picture is traced and then mapped over all: with a free batch size, the convolutions
        could not tell how many pictures they work on at once."""
        answer = artifact.answer(self.config)
        model = nnx.merge(self.graph, jax.tree.unflatten(self.tree, [arrays[name] for name in self.arrays]))
        with target.compiling_for(self.machine):
            return jax.vmap(lambda image: jax.tree.map(lambda value: value[0], answer(model, image[None])))(images)


@contextlib.contextmanager
def _no_source_paths() -> Iterator[None]:
    """Keeps the names of folders on this machine out of the file."""
    settings = {"jax_include_full_tracebacks_in_locations": False, "jax_hlo_source_file_canonicalization_regex": ".*"}
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
