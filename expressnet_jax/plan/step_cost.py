"""The plan of a training step on a machine: compiled where a compiler for it is here, predicted from shapes always.

Legend: b pictures on one device.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from data_pipelines.common.errors import Failure
from data_pipelines.common.text import INSTALL, Progress, counted, one_line
from expressnet_jax import target
from expressnet_jax.config import Config
from expressnet_jax.moe import dispatch
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.plan import gpu, hlo, hlo_cost, machines, trace
from expressnet_jax.runs import state as states
from expressnet_jax.train import step as steps

#: By platform, of programs compiled for an H100 (docs/benchmarks.md): the part of the arrays kept for gradients that is
#: held at once, and how many times the least traffic is moved. Elsewhere the model's own figures are shown.
_COMPILED = {"gpu": (0.575, 2.6)}


#: Of a plan that was compiled so (docs/benchmarks.md).
_FAST = (
    "compiled with the least effort (--fast): its arithmetic was within 3 % of the full one, its activations and "
    "buffers were 11 % less to 63 % more in those compared, its traffic 7 to 34 % less"
)


class PlanError(Failure):
    """A plan that cannot be made here; the message is one line."""


class Compiled(NamedTuple):
    """One training step on a mesh; every figure is that of one device."""

    mesh: dict[str, int]
    memory: dict[str, int]  # the compiler's own: argument, output, alias, temp, code, peak
    flops: float
    bytes: float  # read and written by the program's operations
    collectives: list[hlo.Collective] | None  # None: this JAX cannot read the program of that libtpu
    loops: int  # loops of more than one turn, whose body the compiler counts once; none where we count
    seconds: float
    program: Any  # jax.stages.Compiled of train.step's `step`; it runs where its devices are here


class Refused(NamedTuple):
    """The compiler's refusal of a step that needs more memory than a device has."""

    needed: int  # bytes, 0 where it does not say
    capacity: int  # likewise: what is left to programs
    message: str
    seconds: float


def make(config: Config, machine: machines.Machine, devices: Sequence[jax.Device] | None) -> dict[str, Any]:
    """The whole plan, ready for JSON; `devices` None: predicted from shapes alone.

    Raises ConfigError where config and machine do not fit together, PlanError where it cannot be compiled here.
    """
    return of_program(config, machine, compiled(config, machine, devices) if devices is not None else None)


def of_program(config: Config, machine: machines.Machine, found: Compiled | Refused | None) -> dict[str, Any]:
    """As `make`, where the step is compiled already; None: predicted."""
    data, expert = meshes.sizes(config, machine.chips)
    chips, chip = data * expert, machine.chip
    with Progress(f"tracing the step for {machine.name}", unit=""), target.compiling_for(machine.platform):
        expected, facts = predicted(config, machine, data, expert), _facts(config, data, expert)
    plan: dict[str, Any] = {
        "kind": _kind(found),
        "machine": {"name": machine.name, "chips": machine.chips, "slices": machine.slices,
                    "platform": machine.platform, "chip": None if chip is None else chip._asdict()},
        "config": facts,
        "jax": jax.__version__,
        "compile_seconds": round(found.seconds, 1) if found is not None else None,
    }  # fmt: skip
    if isinstance(found, Compiled):
        plan["memory"] = _memory(parts(config, found), machine) | {"compiler": found.memory}
        plan["arithmetic"] = _each(found.flops, found.bytes, config.batch_size // chips) | {"loops": found.loops}
        plan["collectives"] = expected["collectives"] if found.collectives is None else hlo.table(found.collectives)
    else:
        plan |= expected | {"memory": _memory(expected["memory"], machine)}
    if isinstance(found, Refused):
        plan["memory"] |= {"fits": False, "refused": found.message, "needed": found.needed,
                           "compiler_capacity": found.capacity}  # fmt: skip
    plan["predicted"] = expected
    return plan if chip is None else plan | _speed(config, machine, plan)


def with_least_effort() -> None:
    """Makes all programs of this process at XLA's lowest level; what trains keeps the default."""
    jax.config.update("jax_optimization_level", "O0")


def _fast() -> bool:
    settings: Any = jax.config  # whose settings are made at run time: not every version's types know this one
    return bool(settings.jax_optimization_level == "O0")


def _kind(found: Compiled | Refused | None) -> str:
    if found is None:
        return "predicted, neither compiled nor run"
    return "compiled with the least effort, not run" if _fast() else "compiled, not run"


def devices(machine: machines.Machine) -> Sequence[jax.Device] | None:
    """A machine's devices, which need not be here; None: GPUs, and no compiler for them is here.

    Raises PlanError where libtpu is missing, or a compiler refuses the shape.
    """
    if machine.chip is None:
        found: Sequence[jax.Device] = jax.devices()
        if len(found) != machine.chips:
            raise PlanError(f"{machine.name}: JAX was started with {counted(len(found), 'device')} in this process")
        return found
    if machine.platform == "gpu":
        try:
            return gpu.devices(machine) if gpu.available() else None
        except Exception as error:  # whatever the plugin raises
            raise PlanError(f"--gpus {machine.name}: {one_line(error)[:300]}") from None
    options: dict[str, Any] = {"num_slices": machine.slices} if machine.slices > 1 else {}
    if machine.chip.name == "v4":
        options["chip_config_name"] = "megacore"  # one device for each chip, as on a real v4, and not for each core
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=machine.shape, **options).devices
    except Exception as error:  # whatever libtpu raises, for a shape that it does not know or where it is missing
        why = f"{one_line(error)[:300]} (where libtpu is missing: {INSTALL} libtpu)"
        raise PlanError(f"--topology {machine.name}: {why}") from None


def compiled(config: Config, machine: machines.Machine, at: Sequence[jax.Device]) -> Compiled | Refused:
    """Compiles the training step of a config for these devices. Raises ConfigError where the config does not fit."""
    mesh = meshes.create(config, at)
    made = steps.programs(config, trace.clock(config), mesh)

    def placed(tree: Any, sharding: Any) -> Any:
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree)

    on_gpu = machine.platform == "gpu"
    jax.config.update("jax_enable_compilation_cache", False)  # or the seconds could be those of reading a file
    began = time.perf_counter()
    with target.compiling_for(machine.platform), jax.set_mesh(mesh):
        state = states.abstract(config, made.optimizer, mesh)
        sums = placed(jax.eval_shape(made.zero_sums), meshes.replicated(mesh))
        batch = placed(trace.batch(config), meshes.batch_sharding(mesh))
        try:
            with Progress(f"compiling for {machine.name}", unit=""):
                options = gpu.COMPILER_OPTIONS if on_gpu and at[0] not in jax.devices() else None
                executable = made.step.lower(state, sums, batch).compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise PlanError(f"{machine.name}: {one_line(error)[:300]}") from None
            return _refused(str(error), time.perf_counter() - began)
    seconds = time.perf_counter() - began
    try:
        text = executable.as_text() or ""
    except jax.errors.JaxRuntimeError:  # as jax 0.10.2 cannot read the programs of libtpu 0.0.52 for a v5p
        text = ""
    own, cost = executable.memory_analysis(), executable.cost_analysis() or {}
    names = {"argument": "argument_size", "output": "output_size", "alias": "alias_size", "temp": "temp_size",
             "code": "generated_code_size", "peak": "peak_memory"}  # fmt: skip
    return Compiled(
        mesh=dict(mesh.shape),
        memory={name: int(getattr(own, f"{field}_in_bytes", 0)) for name, field in names.items()},
        flops=hlo_cost.flops(text) if on_gpu else float(cost.get("flops", 0)),
        bytes=hlo_cost.moved(text) if on_gpu else float(cost.get("bytes accessed", 0)),
        collectives=hlo.collectives(text, dict(mesh.shape)) if text else None,
        loops=0 if on_gpu else sum(int(turns) > 1 for turns in hlo.TRIPS.findall(text)),
        seconds=seconds,
        program=executable,
    )


def _refused(message: str, seconds: float) -> Refused:
    """From "... Used 17.20G of 15.75G hbm. ..." or "... temporaries (105.08G) exceeds available HBM (15.75G)."."""
    message = one_line(message)
    size = r"([\d.]+)([KMG]?)"
    found = re.search(rf"Used {size} of {size} hbm|\({size}\) exceeds available HBM \({size}\)", message)
    numbers = [part for part in found.groups() if part is not None] if found else ["0", "", "0", ""]
    units = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    needed, capacity = (int(float(numbers[i]) * units[numbers[i + 1]]) for i in (0, 2))
    return Refused(needed, capacity, message[:200], seconds)


def parts(config: Config, found: Compiled) -> dict[str, int]:
    """A device's memory by part; together exactly what the compiler reserves: arguments, outputs that take no
    argument's place, temporaries and program code."""
    by_part, own = trace.held(config, found.mesh["data"], found.mesh["expert"]), found.memory
    return {
        **by_part,
        "padding, less unused arguments": own["argument"] - sum(by_part.values()),
        "new outputs": own["output"] - own["alias"],
        "activations and buffers": own["temp"],
        "program code": own["code"],
    }


def predicted(config: Config, machine: machines.Machine, data: int, expert: int) -> dict[str, Any]:
    """`memory` by part, `arithmetic` and `collectives` from shapes; nothing is compiled."""
    alone = trace.of_one_device(config, data * expert, expert)
    counts, kept = trace.arithmetic(alone, machine.platform), trace.kept(alone, machine.platform)
    held = trace.held(config, data, expert)
    weights, whole = held["parameters"], sum(held[name] for name in trace.PARTS.values())
    # What must be read and written at least: for each part of the batch arrays that the gradient needs, weights forward
    # and backward and their gradients; once the state before and after.
    moved = config.optimizer.accumulate * (2 * kept + 4 * weights) + 2 * whole + held["batch"]
    kinds = {"convolutions": "convolutions", "matrix products": "products", "elementwise": "elementwise"}
    by_precision = {key.removeprefix("at "): counts[key] for key in sorted(counts) if key.startswith("at ")}
    holds, times = _COMPILED.get(machine.platform, (1.0, 1.0))
    return {
        "memory": held | {"activations kept for gradients": int(holds * kept), "gradients": weights},
        "arithmetic": _each(counts["convolutions"] + counts["products"], times * moved, alone.batch_size)
        | {"by_kind": {name: counts[kind] for name, kind in kinds.items()}, "by_precision": by_precision},
        "collectives": trace.traffic(config, data, expert, machine.platform),
    }


def _memory(parts: dict[str, int], machine: machines.Machine) -> dict[str, Any]:
    """`parts` with their `total`, a device's `capacity` for programs and whether the one `fits` in the other."""
    total = sum(parts.values())
    capacity = None if machine.chip is None else int(machine.chip.usable)
    return {"parts": parts, "total": total, "capacity": capacity, "fits": capacity is None or total <= capacity}


def _each(flops: float, moved: float, b: int) -> dict[str, Any]:
    return {
        "flops_per_step": int(flops), "flops_per_image": int(flops / b),
        "bytes_per_step": int(moved), "bytes_per_image": int(moved / b),
    }  # fmt: skip


def _speed(config: Config, machine: machines.Machine, plan: dict[str, Any]) -> dict[str, Any]:
    """`bound` of the step, `scaling` from one chip to all at the same batch a chip, `slices` beyond that (TPU)."""
    chip, platform, expected = machine.chip, machine.platform, plan["predicted"]
    assert chip is not None
    chips, b, expert = (plan["config"][name] for name in ("devices", "batch_per_device", "expert"))
    slices = -(-chips * machine.slices // machine.chips)  # that the devices in use lie in
    by_precision, flops = expected["arithmetic"]["by_precision"], plan["arithmetic"]["flops_per_step"]
    computing = machines.arithmetic(chip, by_precision, flops)
    # A TPU's compiler counts a loop's body once; no program moves less than what was predicted.
    counted_by = (plan,) if platform == "gpu" else (plan, expected)
    reading = max(one["arithmetic"]["bytes_per_step"] for one in counted_by) / chip.bandwidth
    # Compiled for several TPU slices, what crosses between them is no collective any more: transfers by the runtime.
    apart = platform == "tpu" and slices > 1
    sent = machines.communication(chip, (expected if apart else plan)["collectives"], slices)

    def rows(n: int) -> list[dict[str, Any]]:
        across = min(expert, n)
        changed = replace(config, mesh=replace(config.mesh, data=-1, expert=across), batch_size=b * n)
        return trace.traffic(changed, n // across, across, platform)

    alone, per_slice = max(computing, reading), max(1, chips // slices)
    host = chip.host if platform == "gpu" else per_slice
    counts = [(n, s) for n, s in machines.powers(chips, host) if n % min(expert, n) == 0]
    found = {
        "bound": machines.bound(config.batch_size, computing, reading, sent),
        "scaling": machines.scaling(chip, b, alone, counts, rows),
        "assumptions": [*machines.ASSUMPTIONS, *_assumed(platform, compiled="compiler" in plan["memory"])],
    }
    if platform == "tpu" and per_slice > 1:
        several = [(per_slice * s, s) for s in sorted({1, 2, 4, 8, slices})]
        found["several_slices"] = machines.scaling(chip, b, alone, several, rows)
    return found


def _assumed(platform: str, *, compiled: bool) -> list[str]:
    if platform == "gpu":
        return [gpu.NOT_KNOWN] if compiled else [gpu.FROM_SHAPES, gpu.PREDICTED]
    if not compiled:
        return [machines.FROM_SHAPES]
    return [_FAST] if _fast() else []


def _facts(config: Config, data: int, expert: int) -> dict[str, Any]:
    """What of the config decides the plan."""
    devices, model = data * expert, ("network", "preset", "image_size", "dtype")
    return {name: getattr(config.model, name) for name in model} | {
        "batch_size": config.batch_size, "batch_per_device": config.batch_size // devices,
        "accumulate": config.optimizer.accumulate, "devices": devices, "data": data, "expert": expert,
        "shard_optimizer": config.mesh.shard_optimizer, "num_experts": config.moe.num_experts,
        "movement": dispatch.choose(config.moe, expert)[0], "optimizer": config.optimizer.name,
    }  # fmt: skip
