"""The collectives of a compiled program, read from its text (HLO).

Legend: A devices of one group, R executions in a step.

A collective's *bytes* are those of the whole array that it is about, on one device: what an all-reduce sums, what an
all-gather ends with, what a reduce-scatter starts with, all that an all-to-all exchanges. What then crosses a device's
links is `sent`. The grammar is that of XLA's own printer (xla/hlo/ir: hlo_instruction.cc, replica_group.cc).
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "c64": 8, "c128": 16}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.+?) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"([a-z]+[0-9a-z]*)\[([0-9,<=]*)\]")
_LAYOUT = re.compile(r"\{[^{}]*\}")  # of an array: {1,0:T(8,128)}
_ELEMENT = re.compile(r"\([^()]*\)|\w+\[[^\]]*\]")  # of a tuple without layouts: (f32[2], s8[4]), f32[2,3]
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|branch_computations|true_computation|false_computation)="
                     r"(\{[^}]*\}|%?[\w.\-]+)")  # fmt: skip
_NAME, _COMMENT = re.compile(r"%([\w.\-]+)"), re.compile(r"/\*.*?\*/")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclass(frozen=True)
class Collective:
    """One collective, as often as a step executes it."""

    kind: str  # one of KINDS, or "transfer"
    axis: str  # of the mesh: "data", "expert", "data+expert"; "part of ..." where a group is not a whole axis
    devices: int  # in one group
    count: int  # a step: R for one in a loop of R turns
    arrays: int  # a step; the compiler joins arrays of several to one operation
    bytes: int  # a step, on one device
    loop: str  # "" outside of loops, else how often: "4 turns", "unknown number of turns" (then counted once)


class Instruction(NamedTuple):
    """One line of a computation: NAME = SHAPE OPCODE(REST."""

    name: str
    shape: str
    opcode: str
    rest: str

    def operands(self) -> list[str]:
        """Their names, in turn."""
        return _NAME.findall(_COMMENT.sub("", self.rest.partition("), ")[0]))


class Program:
    """A compiled program: its computations by name, and in each the shapes of its instructions by name."""

    def __init__(self, text: str) -> None:
        self.computations, self._entry = _parse(text)
        self.shapes = {name: {one.name: one.shape for one in part} for name, part in self.computations.items()}

    def executed(self) -> Iterator[tuple[str, int, Instruction]]:
        """(computation, turns a step, instruction) of all that a step executes, the bodies of fusions too."""
        for name, turns, _ in _executed(self.computations, self._entry):
            for one in self.computations[name]:
                yield name, turns, one


def size(shape: str) -> float:
    """Bytes of all arrays of a shape."""
    return sum(_sizes(shape))


def dimensions(shape: str) -> list[int]:
    """Those of the first array of a shape."""
    found = _ARRAY.search(shape)
    return [int(n.removeprefix("<=")) for n in found[2].split(",") if n] if found else []


def collectives(text: str, mesh: dict[str, int]) -> list[Collective]:
    """All collectives of a compiled SPMD program for a mesh {axis: devices} whose devices are numbered row by row.

    Those among a single device are left out. A program for several slices also has the kind "transfer", with the axis
    "between slices"; of these only what one chip hands over is known.
    """
    computations, entry = _parse(text)
    found, spread, seen = [], _spread(computations), set()
    for name, turns, loop in _executed(computations, entry):
        scattered = name.startswith("all-reduce-scatter")  # a sum of which a part is kept, as TPU programs write it
        for instruction in computations[name]:
            kind = instruction.opcode.removesuffix("-start")
            if kind == "send" and '"xla_megascale_runtime"' in instruction.rest:
                # What a chip hands to its host for other slices: the part of a collective left to a TPU's runtime.
                size = next(_sizes(instruction.shape))
                found.append(Collective("transfer", "between slices", 1, turns, turns, int(turns * size), loop))
            if kind not in KINDS:
                continue
            piece = kind, _identity(instruction)
            if instruction.opcode in KINDS and piece in spread:
                if piece in seen:
                    continue
                seen.add(piece)
            groups = replica_groups(instruction.rest, math.prod(mesh.values()))
            axis, devices = _axis(groups, mesh, pairs=kind == "collective-permute")
            if not axis:
                continue
            sizes = _results(instruction)
            size = sum(sizes) * (devices if kind == "reduce-scatter" else 1)
            kind = "reduce-scatter" if scattered else kind
            found.append(Collective(kind, axis, devices, turns, turns * len(sizes), int(turns * size), loop))
    return found


def sent(kind: str, size: float, devices: int) -> float:
    """Bytes that each of so many devices sends over its links, by the ring (or direct exchange) that sends least."""
    share = (devices - 1) / devices
    return size * {"all-reduce": 2 * share, "collective-permute": 1.0, "collective-broadcast": 1.0}.get(kind, share)


def _spread(computations: dict[str, list[Instruction]]) -> set[tuple[str, str]]:
    """(kind, identity) of each collective that a TPU carries out in pieces, within several fusions that all name it."""
    begin = 'custom_call_target="AsyncCollectiveStart"'
    begun = [part for part in computations.values() if any(begin in one.rest for one in part)]
    return {(one.opcode, _identity(one)) for part in begun for one in part if one.opcode in KINDS}


def _identity(instruction: Instruction) -> str:
    """What the pieces of one collective share. A channel is not enough: those of `shard_map` all have the same."""
    shared = r'channel_id=\d+|chain_id="\d+"|op_name="[^"]*"|stack_frame_id=\d+'
    return " ".join(re.findall(shared, instruction.rest))


def _parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif current is not None and (found := _INSTRUCTION.match(line)):
            current.append(Instruction(*found.groups()))
    return computations, entry


def _executed(computations: dict[str, list[Instruction]], entry: str) -> Iterator[tuple[str, int, str]]:
    """(computation, turns a step, loop) for each way from the entry to a computation."""
    waiting = [(entry, 1, "")]
    while waiting:
        name, turns, loop = waiting.pop()
        if name not in computations:
            continue
        yield name, turns, loop
        for instruction in computations[name]:
            if instruction.opcode in ("async-done", "async-update"):  # the start has called it
                continue
            inner, times = loop, turns
            if instruction.opcode == "while":
                known = TRIPS.search(instruction.rest)
                times = turns * int(known[1]) if known else turns
                inner = f"{times} turns" if known and "unknown" not in loop else "unknown number of turns"
            for called in _CALLED.findall(instruction.rest):
                waiting += [(each, times, inner) for each in re.findall(r"[\w.\-]+", called)]


def _results(instruction: Instruction) -> list[float]:
    """Bytes of each array that the collective gives.

    An asynchronous start has the shape "(operands, results, ...)"; only an all-reduce's may be that of its results.
    """
    shape = _LAYOUT.sub("", instruction.shape)
    if instruction.opcode.endswith("-start") and shape.startswith("("):
        elements = _ELEMENT.findall(shape[1:-1])
        if instruction.opcode != "all-reduce-start" or elements[0].startswith("("):
            shape = elements[1]
    return list(_sizes(shape))


def _sizes(shape: str) -> Iterator[float]:
    """Bytes of each array of a shape."""
    for kind, dims in _ARRAY.findall(_LAYOUT.sub("", shape)):
        width = _BYTES.get(kind) or int(re.sub(r"^[a-z]+", "", kind).split("e")[0]) / 8  # f32, s8, f8e4m3fn
        yield width * math.prod(int(d.removeprefix("<=")) for d in dims.split(",") if d)


def replica_groups(attributes: str, devices: int) -> list[list[int]]:
    """Which devices take part together: `replica_groups` in each of its three forms, or `source_target_pairs`.

    {{0,1},{2,3}}; [2,4]<=[4,2]T(1,0), the numbers 0 ... 7 as a (4, 2) array, transposed, and cut in 2 groups of 4;
    mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}, the same by axes. All devices where nothing is said.
    """
    named = re.search(r"(?:replica_groups|source_target_pairs)=(.*)$", attributes)
    rest = named[1] if named else ""
    if literal := re.match(r"\{(\{[\d,]*\}(?:,\s*\{[\d,]*\})*)\}", rest):
        return [[int(n) for n in group.split(",") if n] for group in re.findall(r"\{([\d,]*)\}", literal[1])]
    if iota := re.match(r"\[(\d+)[\d,]*\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        return _iota(iota[2], iota[3]).reshape(int(iota[1]), -1).tolist()
    axes = re.match(r"mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? ?\{([^}]*)\}", rest)
    if axes:
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes[1])}
        return _along(_iota(axes[2], axes[3]) if axes[2] else np.arange(devices), sizes, axes[4])
    return [list(range(devices))]


def _iota(shape: str, transposed: str | None) -> np.ndarray:
    sizes = [int(n) for n in shape.split(",")]
    numbers = np.arange(math.prod(sizes)).reshape(sizes)
    return numbers.transpose([int(n) for n in transposed.split(",")]) if transposed else numbers


def _along(order: np.ndarray, sizes: dict[str, int], named: str) -> list[list[int]]:
    """Groups along the named axes of a mesh; 'a':(2)4 is a part of an axis, 4 of it after the first 2."""
    split: list[tuple[str, int]] = []  # every axis, cut where a part of it is named
    wanted: list[int] = []
    parts = {name: (int(before), int(size)) for name, before, size in re.findall(r"'([^']+)':\((\d+)\)(\d+)", named)}
    whole = re.findall(r"'([^']+)'(?!:)", named)
    for name, size in sizes.items():
        before, here = parts.get(name, (1, size))
        for number, length in enumerate((before, here, size // (before * here))):
            if number == 1 and (name in parts or name in whole):
                wanted.append(len(split))
            split.append((name, length))
    grid = order.reshape([length for _, length in split])
    others = [i for i in range(len(split)) if i not in wanted]
    return grid.transpose(others + wanted).reshape(-1, math.prod(split[i][1] for i in wanted)).tolist()


def _axis(groups: Sequence[Sequence[int]], mesh: dict[str, int], *, pairs: bool) -> tuple[str, int]:
    """The axes along which the devices of a group differ, and how many devices a group has."""
    places = [np.unravel_index(group, tuple(mesh.values())) for group in groups if group]  # (axes, A) each
    varied = [name for i, name in enumerate(mesh) if any(np.ptp(place[i]) for place in places)]
    names, whole = "+".join(varied), math.prod(mesh[name] for name in varied)
    size = max(map(len, groups), default=1)
    if pairs:
        return names, whole
    return (names if size == whole else f"part of {names}") if names else "", size


def table(found: Iterable[Collective]) -> list[dict[str, Any]]:
    """One row for each kind, axis, number of devices and loop, with sums of the rest; those of the most bytes first."""
    same, sums = ("kind", "axis", "devices", "loop"), ("count", "arrays", "bytes")
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for one in found:
        key = tuple(getattr(one, name) for name in same)
        row = rows.setdefault(key, dict(zip(same, key, strict=True)) | dict.fromkeys(sums, 0))
        row |= {name: row[name] + getattr(one, name) for name in sums}
    return sorted(rows.values(), key=lambda row: -row["bytes"])
