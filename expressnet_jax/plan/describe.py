"""Plans as text for people: what fits, what is computed and sent, and what bounds the speed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

_ROWS = 12  # of a table of collectives; the rest is one line


def text(plan: dict[str, Any]) -> str:
    """All of one plan."""
    machine, config = plan["machine"], plan["config"]
    lines = [
        f"{machine['name']}: {plan['kind']}"
        + (f", {plan['compile_seconds']:.0f} s to compile" if plan["compile_seconds"] is not None else ""),
        f"{config['network']} ({config['preset']}, {config['image_size']} px, {config['dtype']}), batch "
        f"{config['batch_size']:,} = {config['devices']} devices x {config['batch_per_device']:,}, mesh data="
        f"{config['data']} x expert={config['expert']}, {config['num_experts']} experts by {config['movement']}"
        + (", optimizer split" if config["shard_optimizer"] else ""),
        "",
        *_memory(plan),
        "",
        *_arithmetic(plan),
        "",
        *_collectives(plan),
    ]
    if "bound" in plan:
        lines += ["", *_bound(plan), "", *_scaling("chips", plan["scaling"])]
        if "several_slices" in plan:
            lines += ["", *_scaling("slices", plan["several_slices"])]
        lines += ["", "what is assumed:", *(f"  - {line}" for line in plan["assumptions"])]
        lines += [f"  - {machine['chip']['name']}: {machine['chip']['source']}; float32 products: "
                  f"{machine['chip']['float32_as']}"]  # fmt: skip
    return "\n".join(lines)


def _memory(plan: dict[str, Any]) -> list[str]:
    memory = plan["memory"]
    lines = ["memory of one device" + ("" if "compiler" in memory else ", from shapes alone")]
    lines += [f"  {name:<34}{_bytes(size):>12}" for name, size in memory["parts"].items()]
    verdict = ""
    if memory["capacity"]:
        share = memory["total"] / memory["capacity"]
        verdict = f"  {share:.0%} of {_bytes(memory['capacity'])}: {'fits' if memory['fits'] else 'DOES NOT FIT'}"
    lines += [f"  {'total':<34}{_bytes(memory['total']):>12}{verdict}"]
    if "refused" in memory:
        lines += [f"  the compiler refused it: {memory['refused']}"]
    elif "compiler" in memory:
        kept = plan["predicted"]["memory"]["activations kept for gradients"]
        lines += [f"  (shapes alone: {_bytes(kept)} of activations are kept for gradients, "
                  f"{_part(kept, memory['compiler']['temp'])} of the compiler's activations and buffers)"]  # fmt: skip
    return lines


def _arithmetic(plan: dict[str, Any]) -> list[str]:
    own, shapes = plan["arithmetic"], plan["predicted"]["arithmetic"]
    lines = [
        "arithmetic and traffic",
        f"  {'GFLOP an image':<34}{own['flops_per_image'] / 1e9:>12.3f}",
        f"  {'MB read and written an image':<34}{own['bytes_per_image'] / 1e6:>12.1f}",
    ]
    if "compiler" in plan["memory"]:
        lines[0] += ", by the compiler's count"
        lines += [f"  {'GFLOP an image, counted by layers':<34}{shapes['flops_per_image'] / 1e9:>12.3f}"]
        if own.get("loops"):
            lines += [
                f"  (the compiler counts the body of a loop once; the program has {own['loops']} of several turns)"
            ]
    else:
        lines[0] += ", counted by layers; of memory traffic only what is needed at least"
    return lines


def _collectives(plan: dict[str, Any]) -> list[str]:
    rows = plan["collectives"]
    if not rows:
        return ["collectives: none"]
    compiled = "count" in rows[0]
    lines = ["collectives of a step, bytes of the arrays on one device" + ("" if compiled else ", predicted")]
    if plan["kind"].startswith("compiled") and not compiled and "refused" not in plan["memory"]:
        lines[0] += " (this JAX cannot read the compiled program of that libtpu)"
    lines += [f"  {'kind':<20}{'axis':<22}{'devices':>8}{'count' if compiled else 'arrays':>8}{'bytes':>12}  "]
    for row in rows[:_ROWS]:
        note = row.get("what") or (f"in a loop, {row['loop']}" if row["loop"] else "")
        count = row["count"] if compiled else row["arrays"]
        size = _bytes(row["bytes"])
        lines.append(f"  {row['kind']:<20}{row['axis']:<22}{row['devices']:>8}{count:>8}{size:>12}  {note}".rstrip())
    if len(rows) > _ROWS:
        rest = rows[_ROWS:]
        lines.append(f"  and {len(rest)} more rows, {_bytes(sum(row['bytes'] for row in rest))}")
    return lines


def _bound(plan: dict[str, Any]) -> list[str]:
    bound = plan["bound"]
    return [
        "a bound on speed, not measured: no step is shorter than",
        f"  {'arithmetic':<34}{bound['arithmetic_ms']:>12.4g} ms",
        f"  {'memory':<34}{bound['memory_ms']:>12.4g} ms",
        f"  {'communication':<34}{bound['communication_ms']:>12.4g} ms",
        f"  {'step':<34}{_range(bound['step_ms'], '.4g'):>12} ms, limited by {bound['limit']}",
        f"  {'images/s at most':<34}{_range(bound['images_per_second'], ',.0f'):>12}"
        "  (communication hidden, or not at all)",
    ]


def _scaling(what: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    title = "from one chip on" if what == "chips" else "over slices, joined by the data-center network"
    lines = [f"{title}, the same batch a chip: images/s at most and efficiency, communication hidden or not at all"]
    lines += [f"  {'chips':>7}{'slices':>8}{'batch':>12}{'images/s':>28}{'efficiency':>20}"]
    for row in rows:
        speed = row["images_per_second"]
        speeds = f"{speed['not_overlapped']:,.0f} to {speed['overlapped']:,.0f}"
        good = f"{row['efficiency']['not_overlapped']:.1%} to {row['efficiency']['overlapped']:.1%}"
        lines.append(f"  {row['chips']:>7,}{row['slices']:>8}{row['batch_size']:>12,}{speeds:>28}{good:>20}")
    return lines


def search(found: dict[str, Any]) -> str:
    """What `search.largest_batch` found."""
    if not found["batch_per_device"]:
        return f"largest batch: not even the smallest fits in {_bytes(found['capacity'])} ({found['confirmed']})"
    tried = ", ".join(f"{one['batch_per_device']} ({'fits' if one['fits'] else 'no'})" for one in found["tried"])
    return (
        f"largest batch: {found['batch_per_device']:,} a device, {found['batch_size']:,} in all: "
        f"{_bytes(found['total'])} of {_bytes(found['capacity'])} ({found['confirmed']}; tried {tried})"
    )


def splits(found: dict[str, Any]) -> str:
    """What `search.splits` found."""
    lines = [f"splits of {found['num_experts']} experts, predicted from shapes"]
    lines += [
        f"  {'data':>6}{'expert':>8}  {'movement':<14}{'memory':>12}{'collectives':>14}{'communication':>16}  step"
    ]
    for row in found["rows"]:
        sent = f"{row['communication_ms']:.4g} ms" if "communication_ms" in row else ""
        step = f"{_range(row['step_ms'], '.4g')} ms" if "step_ms" in row else ""
        mark = "  <- best" if row is found["best"] else "" if row["fits"] else "  does not fit"
        lines.append(f"  {row['data']:>6}{row['expert']:>8}  {row['movement']:<14}{_bytes(row['memory']):>12}"
                     f"{_bytes(row['collective_bytes']):>14}{sent:>16}  {step}{mark}")  # fmt: skip
    best = found["best"]
    return "\n".join([*lines, f"best: mesh.data={best['data']} mesh.expert={best['expert']}: {found['why']}"])


def sweep(rows: Iterable[dict[str, Any]], b: int) -> str:
    """What `search.sweep` found: one line a topology."""
    lines = [f"compiled, not run; {b} pictures a chip; images/s: a bound"]
    lines += [f"  {'machine':<16}{'chips':>6}{'batch':>9}{'memory':>11}{'fits':>6}{'GFLOP/image':>13}{'MB/image':>10}"
              f"{'collectives':>13}{'images/s at most':>28}{'compiled in':>13}"]  # fmt: skip
    for row in rows:
        speed, moved = row["bound"]["images_per_second"], sum(row["collectives"].values())
        lines.append(
            f"  {row['machine']:<16}{row['chips']:>6}{row['batch_size']:>9,}{_bytes(row['total']):>11}"
            f"{'yes' if row['fits'] else 'NO':>6}{row['flops_per_image'] / 1e9:>13.2f}"
            f"{row['bytes_per_image'] / 1e6:>10.0f}{_bytes(moved):>13}"
            f"{speed['not_overlapped']:>14,.0f} to {speed['overlapped']:<10,.0f}{row['compile_seconds']:>11.0f} s"
        )
    return "\n".join(lines)


def _range(values: dict[str, float], form: str) -> str:
    low, high = sorted(values.values())
    first, second = f"{low:{form}}", f"{high:{form}}"
    return first if first == second else f"{first} to {second}"


def _part(a: float, b: float) -> str:
    return f"{a / b:.0%}" if b else "no part"


def _bytes(size: float | None) -> str:
    """In binary units, as capacities of memories are."""
    if size is None:
        return "?"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024 or unit == "GiB":
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.2f} {unit}"
        size /= 1024
    raise AssertionError
