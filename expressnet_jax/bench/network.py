"""How fast things are on this machine: steps, single convolutions, inference, experts; alone or against a peer.

Legend: B global batch, S picture side, H W picture height and width, P kernel side, D in, F out, E experts, K selected.

Every time is a median of several runs, with the shortest and the longest (`timer`). Pictures are random bytes of the
network's own size, so nothing here needs a data set.
"""

import dataclasses
import functools
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_pipelines.common.errors import Failure
from data_pipelines.common.tables import aligned
from data_pipelines.common.text import counting, say
from expressnet_jax.bench import timer
from expressnet_jax.config import Config
from expressnet_jax.models import choice, cost, expressnet, inference, large_conv, preprocess
from expressnet_jax.moe import dispatch, settings
from expressnet_jax.moe.layer import MoE
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.plan import machines, trace
from expressnet_jax.runs import state as states
from expressnet_jax.train import step as steps

#: Cases of the experts: E, K and images of a batch.
_EXPERTS, _SELECTED, _IMAGES = (4, 16, 64, 256), (1, 2), (32, 512)


class BenchError(Failure):
    """Something to be measured did not run; the message is one line."""


class Peer(NamedTuple):
    """Somebody else's implementation."""

    command: str  # a script that prints "... train images/s 1.23" and "... infer images/s 1.23", with its arguments
    pairs: int  # how often ours and theirs are measured in turn


def measure(
    config: Config, what: str, *, only: str = "", against: Peer | None = None, repeats: int = 5
) -> dict[str, Any]:
    """Speed, memory and arithmetic of one compiled program. `only` is "" or "backbone".

    what: "step", the training step (preprocessing, augmentation, network, gradients, optimizer), or "infer", the
    prepared network (see models.inference) from uint8 pictures to probabilities.
    """
    if only:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, network="backbone"))
    mesh = meshes.create(config)
    with jax.set_mesh(mesh):
        batch = meshes.to_device(mesh, _pictures(config))
        run, compiled, seconds = _step(config, mesh, batch) if what == "step" else _infer(config, batch)
        found = _against(config, run, against, repeats, "train" if what == "step" else "infer")
    useful = (3 if what == "step" else 1) * cost.flops_per_image(config) * config.batch_size
    device = jax.devices()[0]
    chip, rate = machines.chip_of(device.device_kind), useful / (found["step_ms"]["median"] / 1e3)
    return found | {
        "batch_size": config.batch_size, "image_size": config.model.image_size, "dtype": config.model.dtype,
        "device": f"{jax.device_count()} x {device.device_kind}", "jax": jax.__version__,
        "compile_seconds": round(seconds, 2),
        "peak_memory_bytes": timer.peak_memory(compiled),
        "flops_useful": useful,  # as if every convolution were done directly; a gradient is twice its forward pass
        # By the compiler's count, without library calls.
        "flops_executed": int((compiled.cost_analysis() or {}).get("flops", 0)),
        "fraction_of_peak": None if chip is None else round(rate / chip.bfloat16 / jax.device_count(), 4),
        "only": only or "everything",
    }  # fmt: skip


def _step(config: Config, mesh: jax.sharding.Mesh, batch: dict[str, jax.Array]) -> tuple[Callable[[], Any], Any, float]:
    """What runs a training step, its program, and the seconds that this took to compile."""
    made = steps.programs(config, trace.clock(config), mesh)
    held = [states.init(config, made.optimizer, mesh), made.zero_sums()]
    compiled, seconds = timer.compiled(made.step, *held, batch, shown=True)
    return _again(compiled, held, batch), compiled, seconds


def _again(program: Any, held: list[Any], batch: dict[str, jax.Array]) -> Callable[[], Any]:
    """Runs a step on what the one before has left."""

    def run() -> Any:
        held[:] = program(*held, batch)
        return held

    return run


def compiled_step(config: Config, program: Any, repeats: int = 5) -> dict[str, Any]:
    """Speed of a training step that is compiled already, and the bytes that a device has needed at most, None where it
    does not count them: all since the process began, what the compiler has tried included."""
    mesh = meshes.create(config)
    with jax.set_mesh(mesh):
        made = steps.programs(config, trace.clock(config), mesh)
        held = [states.init(config, made.optimizer, mesh), made.zero_sums()]
        run = _again(program, held, meshes.to_device(mesh, _pictures(config)))
        found = _against(config, run, None, repeats, "train")
    return found | {"peak_memory_bytes": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")}


def _infer(config: Config, batch: dict[str, jax.Array]) -> tuple[Callable[[], Any], Any, float]:
    """As `_step`, for the prepared network."""
    graph, arrays = jax.jit(lambda: nnx.split(expressnet.create(config)))()
    graph, arrays = inference.prepared(nnx.merge(graph, arrays), config)

    def answer(arrays: Any, images: jax.Array) -> jax.Array:
        images = preprocess.preprocess(images, config.model.image_size, config.preprocess)
        return jax.nn.softmax(nnx.merge(graph, arrays)(images).logits)

    compiled, seconds = timer.compiled(jax.jit(answer), arrays, batch["image"], shown=True)
    return lambda: compiled(arrays, batch["image"]), compiled, seconds


def conv(config: Config, *, repeats: int = 5) -> dict[str, Any]:
    """Milliseconds of each form for each stride-1 convolution of the extractors, forward and with its gradients.

    `layers` are fewer than `of` where Ctrl-C came.
    """
    layers, b, rng = list(choice.layers(config.model)), config.batch_size, np.random.default_rng(0)

    def of_layer(layer: tuple[str, int, tuple[int, int, int, int]]) -> dict[str, Any]:
        name, side, kernel = layer
        shapes = (b, side, side, kernel[2]), kernel, (b, side, side, kernel[3])
        x, k, g = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes)
        row: dict[str, Any] = {"layer": name, "side": side, "kernel": list(kernel)}
        for form in large_conv.FORMS:
            row[form] = {
                "inference_ms": _timed(functools.partial(large_conv.conv2d, form=form), repeats, x, k),
                "training_ms": _timed(_with_gradients(form, first=name.endswith("conv1")), repeats, x, k, g),
            }
        return row

    rows = _until_interrupted("convolutions", layers, of_layer)
    return {"batch_size": b, "device": jax.devices()[0].device_kind, "layers": rows, "of": len(layers)}


def _until_interrupted(what: str, cases: Sequence[Any], measured: Callable[[Any], Any]) -> list[Any]:
    """What was measured of each case; of the first ones where Ctrl-C comes after that."""
    rows: list[Any] = []
    try:
        for case in counting(cases, what, len(cases), unit="cases"):
            rows.append(measured(case))
    except KeyboardInterrupt:
        if not rows:
            raise
    return rows


def experts(config: Config, *, repeats: int) -> dict[str, Any]:
    """What the number of experts costs by the way images reach them: one layer of the config's width, forward and
    backward on the config's mesh, with every movement over E, K and B.

    Returns `rows`, fewer than `of` where Ctrl-C came, with `ms` (a median) and its spread, `bytes` (a device's
    arguments and temporaries, as compiled), `expert_bytes` (a device's part of the experts' parameters) and `dropped`
    (a fraction of the pairs). The soft router selects every expert, so that K is E.
    """
    mesh = meshes.create(config)
    across = mesh.shape["expert"]
    names = [name for name in settings.IMPLEMENTATIONS if name != "auto"]
    cases: list[tuple[settings.MoE, int]] = [
        (dataclasses.replace(config.moe, num_experts=e, top_k=k, implementation=name), b)
        for e in _EXPERTS for k in ((e,) if config.moe.router == "soft" else _SELECTED) for b in _IMAGES
        for name in names
        if e % across == 0 and b % mesh.size == 0 and (across > 1 or name not in ("all_gather", "all_to_all"))
    ]  # fmt: skip
    d = config.model.fuse_width
    rows = _until_interrupted("experts", cases, lambda one: _case(one[0], one[1], d, mesh, repeats))
    chosen, why = dispatch.choose(config.moe, across)
    return {
        "jax": jax.__version__, "device": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
        "mesh": dict(mesh.shape), "width": config.moe.hidden, "layers": config.moe.layers,
        "auto": f"{chosen} ({why})", "rows": rows, "of": len(cases),
    }  # fmt: skip


def _case(moe: settings.MoE, b: int, d: int, mesh: jax.sharding.Mesh, repeats: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    graph, abstract = nnx.split(nnx.eval_shape(lambda: _layer(moe, d)))
    placed = meshes.state_sharding(mesh, nnx.to_pure_dict(abstract))

    def loss(params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        y, routing = nnx.merge(graph, params)(x, jnp.ones(x.shape[0], bool), train=True)
        return (y * y).mean(), routing.sums.dropped

    with jax.set_mesh(mesh):
        params = jax.jit(lambda: nnx.to_pure_dict(nnx.state(_layer(moe, d))), out_shardings=placed)()
        x = jax.device_put(rng.standard_normal((b, d)).astype(np.float32), meshes.batch_sharding(mesh))
        program, _ = timer.compiled(jax.jit(jax.grad(loss, (0, 1), has_aux=True)), params, x)
        times = timer.spread(timer.milliseconds(lambda: program(params, x), repeats))
        _, dropped = program(params, x)
    memory = program.memory_analysis()
    on_one = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(params["experts"]))
    return {
        "experts": moe.num_experts, "selected": moe.selected, "images": b, "implementation": moe.implementation,
        "ms": times["median"], "min_ms": times["min"], "max_ms": times["max"],
        "bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes, "expert_bytes": on_one,
        "dropped": float(dropped) / (b * moe.selected),
    }  # fmt: skip


def _layer(moe: settings.MoE, d: int) -> MoE:
    return MoE(d, moe, dtype=jnp.dtype(jnp.float32), rngs=nnx.Rngs(params=0))


def _pictures(config: Config) -> dict[str, np.ndarray]:
    rng, b, s = np.random.default_rng(0), config.batch_size // jax.process_count(), config.model.image_size
    return {
        "image": rng.integers(0, 256, (b, s, s, config.data.channels), np.uint8),
        "label": rng.integers(0, len(config.data.classes), b, np.int32),
        "mask": np.ones(b, bool), "index": np.arange(b, dtype=np.int32),
    }  # fmt: skip


def _with_gradients(form: str, *, first: bool) -> Callable[..., Any]:
    """Forward and gradients; a branch's first convolution needs none for its input."""

    def run(x: jax.Array, kernel: jax.Array, g: jax.Array) -> Any:
        conv = functools.partial(large_conv.conv2d, form=form)
        y, pull = jax.vjp(functools.partial(conv, x), kernel) if first else jax.vjp(conv, x, kernel)
        return y, pull(g)

    return run


def _timed(function: Callable[..., Any], repeats: int, *arguments: Any) -> dict[str, float]:
    program, _ = timer.compiled(jax.jit(function), *arguments)
    return timer.spread(timer.milliseconds(lambda: program(*arguments), repeats))


def _against(config: Config, run: Callable[[], Any], peer: Peer | None, repeats: int, kind: str) -> dict[str, Any]:
    """Our times; with a peer, a few of ours and one call of the peer's in turn, and the ratio of each pair."""

    def speed(times: list[float]) -> float:
        return round(1e3 * config.batch_size / statistics.median(times), 3)

    times: list[float] = []
    pairs = []
    for number in range(1, peer.pairs + 1 if peer else 2):
        latest = timer.milliseconds(run, repeats)
        times += latest
        if peer is not None:
            ours, theirs = speed(latest), _peer(peer.command, config.batch_size, kind)
            pairs.append({"ours": ours, "peer": theirs, "ratio": round(ours / theirs, 2)})
            say(f"pair {number}: {ours} against {theirs} images/s, ratio {ours / theirs:.2f}")
    found: dict[str, Any] = {"images_per_second": speed(times), "step_ms": timer.spread(times)}
    if peer is not None:
        ratio = round(statistics.median(pair["ratio"] for pair in pairs), 2)
        found |= {"peer": peer.command, "pairs": pairs, "ratio": ratio}
    return found


def _peer(command: str, batch_size: int, kind: str) -> float:
    """Images a second that a peer prints as "... train images/s 1.23" or "... infer images/s 1.23"."""
    words = shlex.split(command)
    if words[0].endswith(".py"):
        words = [sys.executable, *words]
    if "--batch" not in words:
        words += ["--batch", str(batch_size)]
    words += ["--no-train"] if kind == "infer" else []
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BenchError(f"--against {command!r}: {error.strerror}") from None
    found = re.search(rf"{kind} images/s ([0-9.]+)", done.stdout)
    if done.returncode or not found:
        last = (done.stderr.strip() or done.stdout.strip() or "it printed nothing").splitlines()[-1]
        raise BenchError(f"the peer failed (exit code {done.returncode}): {last}")
    return float(found[1])


def describe(found: dict[str, Any]) -> str:
    """The findings for a person."""
    if "rows" in found:
        return _described_experts(found)
    if "layers" not in found:
        return "\n".join(timer.listed(found, "pairs"))
    kinds = [(form, what) for form in large_conv.FORMS for what in ("inference", "training")]
    rows = [["layer", "kernel", "picture", *(f"{form}, {what}" for form, what in kinds)]]
    for row in found["layers"]:
        p, q, d, f = row["kernel"]
        times = [f"{row[form][f'{what}_ms']['median']:.2f}" for form, what in kinds]
        rows.append([row["layer"], f"{p}x{q} {d}->{f}", str(row["side"]), *times])
    return "\n".join([f"milliseconds (median) for a batch of {found['batch_size']}", *aligned(rows)])


def _described_experts(found: dict[str, Any]) -> str:
    rows = [["movement", "E", "K", "B", "ms", "min", "max", "MB", "experts MB", "dropped"]]
    for row in found["rows"]:
        case = [str(row[key]) for key in ("implementation", "experts", "selected", "images")]
        figures = [row["ms"], row["min_ms"], row["max_ms"], row["bytes"] / 1e6, row["expert_bytes"] / 1e6]
        rows.append([*case, *(f"{figure:.2f}" for figure in figures), f"{row['dropped']:.3f}"])
    head = f"one layer {found['width']} wide, forward and backward, {found['device']}, mesh {found['mesh']}"
    return "\n".join([head, f"this config takes {found['auto']}", *aligned(rows)])
