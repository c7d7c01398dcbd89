"""The records of a run's training and validation: metrics.jsonl for programs, TensorBoard events for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from data_pipelines.common.files import write_text
from data_pipelines.common.text import json_line
from expressnet_jax.parallel import distributed


class MetricsWriter:
    """Appends records to metrics.jsonl and TensorBoard events; after a resume, drops what lies beyond the resumed step.

    Use as a context manager. Only the first host writes.
    """

    def __init__(self, workdir: Path, step: int, evaluated: int) -> None:
        """`step` is where the run goes on, `evaluated` the step of the last validation that its checkpoint knows."""
        self._on = distributed.is_first()
        if not self._on:
            return
        path, last = workdir / "metrics.jsonl", {"train": step, "validation": evaluated}
        before = read_records(workdir)
        kept = [record for record in before if record["step"] <= last.get(record["kind"], step)]
        if kept != before:
            write_text(path, "".join(json_line(record) for record in kept))
        self._file = path.open("a")
        self._events = SummaryWriter(str(workdir / "events"), purge_step=step + 1)

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._on:
            self._file.close()
            self._events.close()

    def write(self, kind: str, record: dict[str, Any]) -> None:
        """One record of kind "train" or "validation"; `record` holds at least "step"."""
        if not self._on:
            return
        self._file.write(json_line({"kind": kind, **record}))
        self._file.flush()
        for name, value in record.items():
            if isinstance(value, (int, float)) and name != "step":
                self._events.add_scalar(f"{kind}/{name}", value, record["step"])
        self._events.flush()


def read_records(workdir: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl so far; lines that are none, such as one cut off by a crash, are left out."""
    path, records = workdir / "metrics.jsonl", []
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int) and "kind" in record:
            records.append(record)
    return records
