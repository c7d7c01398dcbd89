"""How fast things are on this machine: steps, single convolutions, inference; alone or against a peer.

Legend: B global batch, S picture side, H W picture height and width, P kernel side, D in, F out.

Every time is a median of several runs, with the shortest and the longest (`timer`). Pictures are random bytes of the
network's own size, so nothing here needs a data set.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from data_pipelines.common.errors import Failure
from data_pipelines.common.tables import aligned
from data_pipelines.common.text import say
from expressnet_jax.bench import timer
from expressnet_jax.config import Config, ConfigError
from expressnet_jax.models import choice, cost, expressnet, inference, large_conv, preprocess
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.plan import machines, trace
from expressnet_jax.runs import state as states
from expressnet_jax.train import step as steps

_CONV = ("inference", "training")  # what a convolution is timed for


class BenchError(Failure):
    """Something to be measured did not run; the message is one line."""


class Peer(NamedTuple):
    """Somebody else's implementation."""

    command: str  # a script that prints "... train images/s 1.23" and "... infer images/s 1.23", with its arguments
    pairs: int  # how often ours and theirs are measured in turn


def step(config: Config, *, only: str = "", against: Peer | None = None, repeats: int = 5) -> dict[str, Any]:
    """The training step: preprocessing, augmentation, network, gradients, optimizer. `only` is "" or "backbone"."""
    config = _only(config, only)
    mesh = meshes.create(config)
    made = steps.programs(config, trace.clock(config), mesh)
    with jax.set_mesh(mesh):
        batch = meshes.to_device(mesh, _pictures(config))
        state, sums = states.init(config, made.optimizer, mesh), made.zero_sums()
        compiled, seconds = timer.compiled(made.step, state, sums, batch)
        held = [state, sums]

        def run() -> Any:
            held[:] = compiled(*held, batch)
            return held

        found = _against(config, run, against, repeats, "train")
    return found | _costs(config, compiled, seconds, found, passes=3) | {"only": only or "everything"}


def infer(config: Config, *, only: str = "", against: Peer | None = None, repeats: int = 5) -> dict[str, Any]:
    """The prepared network (see models.inference) from uint8 pictures to probabilities."""
    config = _only(config, only)
    mesh = meshes.create(config)
    with jax.set_mesh(mesh):
        batch = meshes.to_device(mesh, _pictures(config))
        graph, arrays = jax.jit(lambda: nnx.split(expressnet.create(config)))()
        graph, arrays = inference.prepared(nnx.merge(graph, arrays), config)

        def answer(arrays: Any, images: jax.Array) -> jax.Array:
            images = preprocess.preprocess(images, config.model.image_size, config.preprocess)
            return jax.nn.softmax(nnx.merge(graph, arrays)(images).logits)

        compiled, seconds = timer.compiled(jax.jit(answer), arrays, batch["image"])
        found = _against(config, lambda: compiled(arrays, batch["image"]), against, repeats, "infer")
    return found | _costs(config, compiled, seconds, found, passes=1) | {"only": only or "everything"}


def conv(config: Config, *, repeats: int = 5) -> dict[str, Any]:
    """Milliseconds of each form for each stride-1 convolution of the extractors, forward and with its gradients."""
    layers, b, rows = list(choice.layers(config.model)), config.batch_size, []
    for name, side, kernel in tqdm(layers, "convolutions", disable=None):
        x, k, g = _arrays((b, side, side, kernel[2]), kernel, (b, side, side, kernel[3]))
        row: dict[str, Any] = {"layer": name, "side": side, "kernel": list(kernel)}
        for form in large_conv.FORMS:
            row[form] = {
                "inference_ms": _timed(lambda x, k, form=form: large_conv.conv2d(x, k, form), repeats, x, k),
                "training_ms": _timed(_with_gradients(form, first=name.endswith("conv1")), repeats, x, k, g),
            }
        rows.append(row)
    return {"batch_size": b, "device": jax.devices()[0].device_kind, "layers": rows}


def _only(config: Config, only: str) -> Config:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, network="backbone")) if only else config


def _pictures(config: Config) -> dict[str, np.ndarray]:
    rng, b, s = np.random.default_rng(0), config.batch_size // jax.process_count(), config.model.image_size
    return {
        "image": rng.integers(0, 256, (b, s, s, 3), np.uint8),
        "label": rng.integers(0, len(config.data.classes), b, np.int32),
        "mask": np.ones(b, bool),
        "index": np.arange(b, dtype=np.int32),
    }


def _arrays(*shapes: tuple[int, ...]) -> list[jax.Array]:
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def _with_gradients(form: str, *, first: bool) -> Callable[..., Any]:
    """Forward and gradients; a branch's first convolution needs none for its input."""

    def run(x: jax.Array, kernel: jax.Array, g: jax.Array) -> Any:
        if first:
            y, pull = jax.vjp(lambda k: large_conv.conv2d(x, k, form), kernel)
        else:
            y, pull = jax.vjp(lambda x, k: large_conv.conv2d(x, k, form), x, kernel)
        return y, pull(g)

    return run


def _timed(function: Callable[..., Any], repeats: int, *arguments: Any) -> dict[str, float]:
    program, _ = timer.compiled(jax.jit(function), *arguments)
    return timer.spread(timer.milliseconds(lambda: program(*arguments), repeats))


def _against(config: Config, run: Callable[[], Any], peer: Peer | None, repeats: int, kind: str) -> dict[str, Any]:
    """Our times; with a peer, a few of ours and one call of the peer's in turn, and the ratio of each pair."""
    if peer is None:
        return _speeds(config, timer.milliseconds(run, repeats))
    all_times, pairs = [], []
    for number in range(1, peer.pairs + 1):
        times = timer.milliseconds(run, repeats)
        all_times += times
        ours, theirs = _speed(config, times), _peer(peer.command, config.batch_size, kind)
        pairs.append({"ours": ours, "peer": theirs, "ratio": round(ours / theirs, 2)})
        say(f"pair {number}: {ours} against {theirs} images/s, ratio {ours / theirs:.2f}")
    ratio = round(statistics.median(pair["ratio"] for pair in pairs), 2)
    return _speeds(config, all_times) | {"peer": peer.command, "pairs": pairs, "ratio": ratio}


def _speeds(config: Config, times: list[float]) -> dict[str, Any]:
    return {"images_per_second": _speed(config, times), "step_ms": timer.spread(times)}


def _speed(config: Config, times: list[float]) -> float:
    return round(1e3 * config.batch_size / statistics.median(times), 3)


def _peer(command: str, batch_size: int, kind: str) -> float:
    """Images a second that a peer prints as "... train images/s 1.23" or "... infer images/s 1.23"."""
    words = shlex.split(command)
    if words[0].endswith(".py"):
        words = [sys.executable, *words]
    if "--batch" not in words:
        words += ["--batch", str(batch_size)]
    try:
        done = subprocess.run(
            [*words, *(["--no-train"] if kind == "infer" else [])], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise ConfigError(f"--against {command!r}: {error.strerror}") from None
    found = re.search(rf"{kind} images/s ([0-9.]+)", done.stdout)
    if done.returncode or not found:
        last = (done.stderr.strip() or done.stdout.strip() or "it printed nothing").splitlines()[-1]
        raise BenchError(f"the peer failed (exit code {done.returncode}): {last}")
    return float(found[1])


def _costs(config: Config, compiled: Any, seconds: float, found: dict[str, Any], *, passes: int) -> dict[str, Any]:
    """What the compiler and the device know of a program: time to compile, memory, arithmetic."""
    device = jax.devices()[0]
    executed = (compiled.cost_analysis() or {}).get("flops", 0)  # by the compiler's count, without library calls
    useful = passes * cost.flops_per_image(config) * config.batch_size
    chip = machines.chip_of(device.device_kind)
    rate = useful / (found["step_ms"]["median"] / 1e3)
    return {
        "batch_size": config.batch_size, "image_size": config.model.image_size, "dtype": config.model.dtype,
        "device": f"{jax.device_count()} x {device.device_kind}", "jax": jax.__version__,
        "compile_seconds": round(seconds, 2),
        "peak_memory_bytes": timer.peak_memory(compiled),
        "flops_useful": useful,  # as if every convolution were done directly; a gradient is twice its forward pass
        "flops_executed": int(executed),
        "fraction_of_peak": None if chip is None else round(rate / chip.bfloat16 / jax.device_count(), 4),
    }  # fmt: skip


def describe(found: dict[str, Any]) -> str:
    """The findings for a person."""
    if "layers" in found:
        return _conv_table(found)
    lines = []
    for key, value in found.items():
        if key == "pairs":
            continue
        if isinstance(value, dict):
            value = f"median {value['median']:g}, {value['min']:g} to {value['max']:g}"
        elif isinstance(value, int) and abs(value) >= 1e6:
            value = f"{value / 1e9:,.3f} G"
        lines.append(f"{key.replace('_', ' '):<28}{value}")
    return "\n".join(lines)


def _conv_table(found: dict[str, Any]) -> str:
    rows = [["layer", "kernel", "picture", *(f"{form}, {what}" for form in large_conv.FORMS for what in _CONV)]]
    for row in found["layers"]:
        p, q, d, f = row["kernel"]
        times = [f"{row[form][f'{what}_ms']['median']:.2f}" for form in large_conv.FORMS for what in _CONV]
        rows.append([row["layer"], f"{p}x{q} {d}->{f}", str(row["side"]), *times])
    return "\n".join([f"milliseconds (median) for a batch of {found['batch_size']}", *aligned(rows)])
