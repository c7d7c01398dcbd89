"""The real training step, compiled for devices that need not be here, and what the compiler says of it."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from data_pipelines.common.errors import Failure
from data_pipelines.common.text import counted, one_line
from expressnet_jax.config import Config
from expressnet_jax.models import target
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.plan import hlo, trace
from expressnet_jax.plan.machines import Machine
from expressnet_jax.runs import state as states
from expressnet_jax.train import program

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class PlanError(Failure):
    """A plan that cannot be made here; the message is one line."""


class Compiled(NamedTuple):
    """One training step on a mesh; every figure is that of one device."""

    mesh: dict[str, int]
    memory: dict[str, int]  # the compiler's own: argument, output, alias, temp, code, peak
    flops: float
    bytes: float  # read and written by the program's operations
    collectives: list[hlo.Collective] | None  # None: this JAX cannot read the program of that libtpu
    loops: int  # loops of more than one turn, whose body the compiler counts once
    seconds: float


class Refused(NamedTuple):
    """The compiler's refusal of a step that needs more memory than a device has."""

    needed: int  # bytes, 0 where it does not say
    capacity: int  # likewise: what is left to programs
    message: str
    seconds: float


def devices(machine: Machine) -> Sequence[jax.Device]:
    """A machine's devices, which need not be here. Raises PlanError where libtpu is missing or refuses the shape."""
    if machine.chip is None:
        found: Sequence[jax.Device] = jax.devices()
        if len(found) != machine.chips:
            raise PlanError(f"{machine.name}: JAX was started with {counted(len(found), 'device')} in this process")
        return found
    options: dict[str, Any] = {"num_slices": machine.slices} if machine.slices > 1 else {}
    if machine.chip.name == "v4":
        options["chip_config_name"] = "megacore"  # one device for each chip, as on a real v4, and not for each core
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=machine.shape, **options).devices
    except Exception as error:  # whatever libtpu raises, for a shape that it does not know or where it is missing
        why = f"{one_line(error)[:300]} (pip install libtpu where it is missing)"
        raise PlanError(f"--topology {machine.name}: {why}") from None


def step(config: Config, machine: Machine, at: Sequence[jax.Device]) -> Compiled | Refused:
    """Compiles the training step of a config for these devices. Raises ConfigError where the config does not fit."""
    mesh = meshes.create(config, at)
    made = program.create(config, trace.clock(config), mesh)

    def placed(tree: Any, sharding: Any) -> Any:
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree)

    jax.config.update("jax_enable_compilation_cache", False)  # or the seconds could be those of reading a file
    began = time.perf_counter()
    with target.compiling_for(machine.platform), jax.set_mesh(mesh):
        state = states.abstract(config, made.optimizer, mesh)
        sums = placed(jax.eval_shape(made.zero_sums), meshes.replicated(mesh))
        batch = placed(trace.batch(config), meshes.batch_sharding(mesh))
        try:
            compiled = made.step.lower(state, sums, batch).compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise PlanError(f"{machine.name}: {one_line(error)[:300]}") from None
            return _refused(str(error), time.perf_counter() - began)
    seconds = time.perf_counter() - began
    try:
        text = compiled.as_text() or ""
    except jax.errors.JaxRuntimeError:  # as jax 0.10.2 cannot read the programs of libtpu 0.0.52 for a v5p
        text = ""
    own, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    names = {"argument": "argument_size", "output": "output_size", "alias": "alias_size", "temp": "temp_size",
             "code": "generated_code_size", "peak": "peak_memory"}  # fmt: skip
    return Compiled(
        mesh=dict(mesh.shape),
        memory={name: int(getattr(own, f"{field}_in_bytes", 0)) for name, field in names.items()},
        flops=float(cost.get("flops", 0)),
        bytes=float(cost.get("bytes accessed", 0)),
        collectives=hlo.collectives(text, dict(mesh.shape)) if text else None,
        loops=sum(int(turns) > 1 for turns in re.findall(r'"known_trip_count":\{"n":"(\d+)"\}', text)),
        seconds=seconds,
    )


def _refused(message: str, seconds: float) -> Refused:
    """From "... Used 17.20G of 15.75G hbm. ..." or "... temporaries (105.08G) exceeds available HBM (15.75G)."."""
    message = one_line(message)
    size = r"([\d.]+)([KMG]?)"
    found = re.search(rf"Used {size} of {size} hbm|\({size}\) exceeds available HBM \({size}\)", message)
    numbers = [part for part in found.groups() if part is not None] if found else ["0", "", "0", ""]
    needed, capacity = (int(float(numbers[i]) * _UNITS[numbers[i + 1]]) for i in (0, 2))
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
