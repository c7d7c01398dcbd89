"""What a network is made of and costs, and what a run's folder holds."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import jaxprs_in_params

from expressnet_jax.checkpoint.manager import CheckpointError, Manager
from expressnet_jax.config import Config
from expressnet_jax.models import canonical, expressnet
from expressnet_jax.moe import selfcheck as checks
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.train import restore, run_folder, state

_STATISTICS = ("mean", "var")


class SelfcheckError(Exception):
    """A computation that is wrong on these devices; the message is one line."""


def of_config(config: Config) -> dict[str, Any]:
    """`parameters` (BatchNorm statistics included), `batch_stats`, `parts` {name: parameters}, `flops_per_image`.

    Nothing is computed: shapes alone are traced.
    """
    model = nnx.eval_shape(lambda: expressnet.create(config))
    sizes = canonical.sizes(model)
    parts: Counter[str] = Counter()
    for name, size in sizes.items():
        parts[name.split("/")[0]] += size
    return {
        "parameters": sum(sizes.values()),
        "batch_stats": sum(size for name, size in sizes.items() if name.rsplit("/", 1)[-1] in _STATISTICS),
        "parts": dict(parts),
        "flops_per_image": flops_per_image(config),
        "classes": list(config.data.classes),
    }


def of_run(workdir: Path) -> dict[str, Any]:
    """`of_config` of a run, with the `step`, `classes`, `preprocessing` and weight `digest` of its best checkpoint."""
    config = run_folder.read_config(workdir)
    restored, step = restore.restore_best(config, workdir, meshes.for_evaluation(config))
    model = nnx.merge(state.graph(config), *state.weights(restored))
    with Manager(workdir / "checkpoints", read_only=True) as manager:
        record = manager.record(step)
    if record["classes"] != list(config.data.classes):
        raise CheckpointError(f"checkpoint {step} of {workdir} has other classes than its config.json")
    return {
        **of_config(config),
        "workdir": str(workdir),
        "step": step,
        "validation": record["validation"],
        "preprocessing": record["preprocessing"],
        "digest": canonical.digest(canonical.to_canonical(model)),
    }


def selfcheck(config: Config, say: Callable[[str], None]) -> dict[str, Any]:
    """Checks each movement of the config's experts against `dense` on its mesh, and says a table of the differences.

    Returns `mesh` and the rows as `movements`. Raises SelfcheckError where one is off.
    """
    mesh = meshes.create(config)
    rows = checks.check(config.moe, mesh, d=config.model.fuse_width, b=8 * mesh.size)
    say(checks.describe(rows, mesh))
    off = [f"{row['implementation']} in {row['dtype']}" for row in rows if not row["passed"]]
    if off:
        raise SelfcheckError(f"{', '.join(off)} differ from dense by more than rounding on these devices")
    return {"mesh": dict(mesh.shape), "platform": mesh.devices.flat[0].platform, "movements": rows}


def flops_per_image(config: Config) -> int:
    """Floating-point operations of the convolutions and matrix products of one forward pass: 2 x multiply-adds.

    Counted in the traced network with every convolution done directly, padding included, as is usual: the work asked
    for, whatever implementation then does it with less.
    """
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, convolution="direct"),
        moe=dataclasses.replace(config.moe, implementation="dense"),
    )
    side = config.model.image_size
    picture = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return _flops(jax.make_jaxpr(lambda x: expressnet.create(config)(x).logits)(picture).jaxpr)


def _flops(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        shapes = [var.aval.shape for var in equation.invars if hasattr(var.aval, "shape")]
        out = math.prod(equation.outvars[0].aval.shape)
        if equation.primitive.name == "conv_general_dilated":
            total += 2 * out * math.prod(shapes[1][:-1])  # kernel (P, Q, D, F): P Q D products for each output
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += 2 * out * math.prod(shapes[0][axis] for axis in contracted)
        total += sum(_flops(inner) for inner in jaxprs_in_params(equation.params))
    return total


def describe(found: dict[str, Any]) -> str:
    """The findings for a person."""
    lines = [f"{name:<18}{size:>14,}" for name, size in found["parts"].items()]
    lines += [
        f"{'parameters':<18}{found['parameters']:>14,}   of them BatchNorm statistics {found['batch_stats']:,}",
        f"{'forward pass':<18}{found['flops_per_image'] / 1e9:>14.3f} GFLOP an image",
        f"classes: {', '.join(found['classes'])}",
    ]
    if "step" in found:
        lines += [
            f"best checkpoint: step {found['step']}, validation {found['validation']}",
            f"preprocessing: {found['preprocessing']}",
            f"digest: {found['digest']}",
        ]
    return "\n".join(lines)
