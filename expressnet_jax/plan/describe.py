"""Plans as text for people: what fits, what is computed and sent, and what limits the speed."""

from collections.abc import Sequence
from typing import Any

from data_pipelines.common.tables import aligned
from data_pipelines.common.text import counted
from expressnet_jax.plan import machines

_ROWS = 12  # of a table of collectives; the rest is one line


def text(plan: dict[str, Any]) -> str:
    """All of one plan."""
    machine, config, seconds = plan["machine"], plan["config"], plan["compile_seconds"]
    devices = counted(config["devices"], "device")
    lines = [
        f"{machine['name']}: {plan['kind']}" + ("" if seconds is None else f", {seconds:.0f} s to compile"),
        f"{config['network']} ({config['preset']}, {config['image_size']} px, {config['dtype']}), batch "
        f"{config['batch_size']:,} = {devices} x {config['batch_per_device']:,}, mesh data={config['data']} x "
        f"expert={config['expert']}, {counted(config['num_experts'], 'expert')} by {config['movement']}"
        + (", optimizer split" if config["shard_optimizer"] else ""),
    ]
    parts = [_memory(plan), _arithmetic(plan), _collectives(plan)]
    if "bound" in plan:
        parts += [_bound(plan), _scaling("from one chip on", plan["scaling"])]
        if "several_slices" in plan:
            parts += [_scaling("over slices, joined by the data-center network", plan["several_slices"])]
        chip = machine["chip"]
        source = f"{chip['name']}: {chip['source']}; float32 products: {chip['float32_as']}"
        parts += [["what is assumed:", *(f"  - {line}" for line in (*plan["assumptions"], source))]]
    return "\n\n".join(map("\n".join, [lines, *parts]))


def first(plan: dict[str, Any]) -> str:
    """A prediction in one line, for those who wait for what is compiled."""
    memory, own = plan["memory"], plan["arithmetic"]
    size = _bytes(memory["total"]) + (f" of {_bytes(memory['capacity'])}" if memory["capacity"] else "")
    said = f"predicted: {size} a device, {own['flops_per_image'] / 1e9:.3f} GFLOP an image"
    if "bound" in plan:
        how = "about" if plan["machine"]["platform"] == "gpu" else "at most"  # see gpu.FROM_SHAPES
        said += f", {how} {_range(plan['bound']['images_per_second'], ',.0f')} images/s"
    return f"{said}; now it is compiled"


def side_by_side(expected: dict[str, Any], made: dict[str, Any], measured: dict[str, Any]) -> str:
    """A step predicted (a plan from shapes), compiled (a plan) and run (`bench.network.compiled_step`)."""

    def figures(plan: dict[str, Any]) -> tuple[str, ...]:
        own = plan["arithmetic"]
        speed = _range(plan["bound"]["images_per_second"], ",.0f") if "bound" in plan else "?"
        return (
            _bytes(plan["memory"]["total"]), f"{own['flops_per_image'] / 1e9:.3f}",
            f"{own['bytes_per_image'] / 1e6:.1f}", speed,
        )  # fmt: skip

    run = (_bytes(measured["peak_memory_bytes"]), "-", "-", f"{measured['images_per_second']:,.0f}")
    names = ("memory of a device", "GFLOP an image", "MB moved an image", "images/s, at most")
    columns = (names, figures(expected), figures(made), run)
    return "\n".join(_table([("", "predicted", "compiled", "measured"), *zip(*columns, strict=True)]))


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"  {line}".rstrip() for line in aligned(rows)]


def _memory(plan: dict[str, Any]) -> list[str]:
    memory, total = plan["memory"], plan["memory"]["total"]
    lines = ["memory of one device" + ("" if "compiler" in memory else ", from shapes alone")]
    lines += _table([(name, _bytes(size)) for name, size in [*memory["parts"].items(), ("total", total)]])
    if capacity := memory["capacity"]:
        lines[-1] += f"  {total / capacity:.0%} of {_bytes(capacity)}: {'fits' if memory['fits'] else 'DOES NOT FIT'}"
    if plan["machine"]["platform"] == "gpu" and capacity and memory["fits"]:
        lines[-1] += _asks(total, capacity)
    if "refused" in memory:
        lines += [f"  the compiler refused it: {memory['refused']}"]
    elif "compiler" in memory:
        kept, own = plan["predicted"]["memory"]["activations kept for gradients"], memory["compiler"]["temp"]
        share = f"{f'{kept / own:.0%}' if own else 'no part'} of the compiler's activations and buffers"
        lines += [f"  (from shapes alone: {_bytes(kept)} of activations are kept for gradients, {share})"]
    return lines


def _asks(total: int, capacity: int) -> str:
    """What a step that takes more of a GPU than JAX takes by itself asks for."""
    if total <= capacity * machines.GPU_RESERVED / machines.GPU_MOST:
        return ""
    reserved = f"JAX takes {machines.GPU_RESERVED:.0%} of a GPU by itself"
    return f" with XLA_PYTHON_CLIENT_MEM_FRACTION={machines.GPU_MOST:g}: {reserved}"


def _arithmetic(plan: dict[str, Any]) -> list[str]:
    own, expected = plan["arithmetic"], plan["predicted"]["arithmetic"]
    rows = [("GFLOP an image", f"{own['flops_per_image'] / 1e9:.3f}"),
            ("MB read and written an image", f"{own['bytes_per_image'] / 1e6:.1f}")]  # fmt: skip
    how = "counted by layers; of memory traffic only the least that is needed"
    if "compiler" in plan["memory"]:
        rows += [("GFLOP an image, counted by layers", f"{expected['flops_per_image'] / 1e9:.3f}")]
        how = "counted in its program" if plan["machine"]["platform"] == "gpu" else "by the compiler's count"
    lines = [f"arithmetic and traffic, {how}", *_table(rows)]
    if own.get("loops"):
        lines += [f"  (the compiler counts the body of a loop once; loops of several turns here: {own['loops']})"]
    return lines


def _collectives(plan: dict[str, Any]) -> list[str]:
    rows = plan["collectives"]
    if not rows:
        return ["collectives: none"]
    compiled = "count" in rows[0]
    title = "collectives of a step, bytes of the arrays on one device" + ("" if compiled else ", predicted")
    if plan["kind"].startswith("compiled") and not compiled and "refused" not in plan["memory"]:
        title += " (this JAX cannot read the compiled program of that libtpu)"
    count = "count" if compiled else "arrays"
    table, notes = [("kind", "axis", "devices", count, "bytes")], [""]
    for row in rows[:_ROWS]:
        table.append((row["kind"], row["axis"], str(row["devices"]), str(row[count]), _bytes(row["bytes"])))
        notes.append(row.get("what") or (f"in a loop, {row['loop']}" if row["loop"] else ""))
    lines = [title, *(f"{line}  {note}".rstrip() for line, note in zip(_table(table), notes, strict=True))]
    if rest := rows[_ROWS:]:
        lines += [f"  rows left out: {len(rest)}, {_bytes(sum(row['bytes'] for row in rest))} together"]
    return lines


def _bound(plan: dict[str, Any]) -> list[str]:
    bound = plan["bound"]
    rows = [(name, f"{bound[f'{name}_ms']:.4g} ms") for name in ("arithmetic", "memory", "communication")]
    rows.append(("step", f"{_range(bound['step_ms'], '.4g')} ms"))
    rows.append(("images/s at most", _range(bound["images_per_second"], ",.0f")))
    estimated = plan["machine"]["platform"] == "gpu" and "compiler" not in plan["memory"]
    bound_of = "a bound on speed, not measured: no step is shorter than"
    lines = ["an estimate of speed, not measured" if estimated else bound_of, *_table(rows)]
    lines[-2] += f", limited by {bound['limit']}"
    lines[-1] += "  (communication not hidden to wholly hidden)"
    return lines


def _scaling(what: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    title = f"{what}, the same batch a chip: images/s at most and efficiency, communication not hidden to wholly hidden"
    table = [("chips", "slices", "batch", "images/s", "efficiency")]
    table += [
        (f"{row['chips']:,}", str(row["slices"]), f"{row['batch_size']:,}",
         _range(row["images_per_second"], ",.0f"), _range(row["efficiency"], ".1%"))
        for row in rows
    ]  # fmt: skip
    return [title, *_table(table)]


def search(found: dict[str, Any]) -> str:
    """What `search.largest_batch` found."""
    if not found["batch_per_device"]:
        return f"largest batch: not even the smallest fits in {_bytes(found['capacity'])} ({found['confirmed']})"
    tried = ", ".join(f"{one['batch_per_device']} ({'fits' if one['fits'] else 'no'})" for one in found["tried"])
    memory = f"{_bytes(found['total'])} of {_bytes(found['capacity'])} ({found['confirmed']}; tried {tried})"
    asks = _asks(found["total"], found["capacity"]) if found["platform"] == "gpu" else ""
    return f"largest batch: {found['batch_per_device']:,} a device, {found['batch_size']:,} in all: {memory}{asks}"


def splits(found: dict[str, Any]) -> str:
    """What `search.splits` found."""
    table = [("data", "expert", "movement", "memory", "collectives", "communication", "step", "")]
    for row in found["rows"]:
        sent, step = ("", "")
        if "step_ms" in row:
            sent, step = f"{row['communication_ms']:.4g} ms", f"{_range(row['step_ms'], '.4g')} ms"
        mark = "<- best" if row == found["best"] else "" if row["fits"] else "does not fit"
        sizes = (_bytes(row["memory"]), _bytes(row["collective_bytes"]))
        table.append((str(row["data"]), str(row["expert"]), row["movement"], *sizes, sent, step, mark))
    title = f"splits of {counted(found['num_experts'], 'expert')}, predicted from shapes"
    last = "best: mesh.data={data} mesh.expert={expert}: ".format_map(found["best"]) + found["why"]
    return "\n".join([title, *_table(table), last])


def sweep(rows: Sequence[dict[str, Any]], b: int) -> str:
    """What `search.sweep` found: one line a machine."""
    kind = "; ".join(dict.fromkeys(row["kind"] for row in rows))
    table = [("machine", "chips", "batch", "memory", "fits", "GFLOP/image", "MB/image", "collectives",
              "images/s at most", "compiled in")]  # fmt: skip
    table += [
        (row["machine"], str(row["chips"]), f"{row['batch_size']:,}", _bytes(row["total"]),
         "yes" if row["fits"] else "NO", f"{row['flops_per_image'] / 1e9:.2f}", f"{row['bytes_per_image'] / 1e6:.0f}",
         _bytes(sum(row["collectives"].values())), _range(row["bound"]["images_per_second"], ",.0f"),
         "-" if row["compile_seconds"] is None else f"{row['compile_seconds']:.0f} s")
        for row in rows
    ]  # fmt: skip
    return "\n".join([f"{kind}; pictures a chip: {b}; images/s: a bound", *_table(table)])


def _range(values: dict[str, float], form: str) -> str:
    """ "1 to 2", or "1" where both look the same."""
    return " to ".join(dict.fromkeys(f"{value:{form}}" for value in sorted(values.values())))


def _bytes(size: float | None) -> str:
    """In binary units, as capacities of memories are; "?" where it is not known."""
    if size is None:
        return "?"
    if abs(size) < 1024:
        return f"{size:,.0f} B"
    power = 3 if abs(size) >= 1 << 30 else 2 if abs(size) >= 1 << 20 else 1
    return f"{size / 1024**power:,.2f} {' KMG'[power]}iB"
