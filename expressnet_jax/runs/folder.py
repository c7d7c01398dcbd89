"""A run's folder: config.json, data_dir.json, parameters.txt, checkpoints/, metrics.jsonl, events/, evaluation/ ..."""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clu import parameter_overview
from tensorboardX import SummaryWriter

from data_pipelines.common import files
from data_pipelines.common.errors import DataError
from data_pipelines.common.files import read_json, read_object, write_text
from data_pipelines.common.text import json_line
from expressnet_jax.checkpoint import digests
from expressnet_jax.config import Clock, Config, ConfigError, to_dict
from expressnet_jax.config import files as config_files
from expressnet_jax.config.settings import AUTO
from expressnet_jax.parallel import distributed
from expressnet_jax.parallel.distributed import say
from expressnet_jax.runs import optimizer as optimizers
from expressnet_jax.runs import tracking

#: Where the checkpoints of a run lie in its folder.
CHECKPOINTS = "checkpoints"
_DATA_DIR = "data_dir.json"
_LOCK = ".lock"
_LOCKS: dict[Path, int] = {}  # the open lock files of the runs that train in this process
_FIRST = ("config.json", "config.json.part", _LOCK)  # what may be there before there is a run
#: What may change between the parts of one run: it decides where and how the run is computed, not what.
_FREE = ("mesh.", "moe.implementation", "data.workers", "log_every", "keep", "watchdog.", "recovery.")


class Busy(DataError):
    """Another process holds the folder of a run, such as one whose host was lost and whose job was begun again
    elsewhere: that passes, so launchers try again as after a crash."""

    exit_code = 76


def open_folder(workdir: Path, config: Config, clock: Clock) -> str:
    """Makes the folder, or checks that the run in it is one of this config; a finished one may get a larger `total`.

    Returns what such a total means, for `settle`, or "". Raises DataError naming what differs.
    """
    path = workdir / "config.json"
    if any((workdir / CHECKPOINTS).glob("*")) or (path.is_file() and not _cut_off(path)):
        begun, longer = read_config(workdir), ""
        if changed := _changes(begun, config):
            longer = _longer(workdir, begun, config, clock, changed)
        if changed and not longer:
            what, way_out = "; ".join(changed), _way_out(workdir, begun, clock, changed)
            raise DataError(f"{workdir} holds a run of another config ({what}); {way_out}")
        if not longer and _read_config(path) != begun:
            _write_config(path, config)
        return longer
    begun_once = (workdir / CHECKPOINTS).is_dir()  # and lost its config before there was a checkpoint
    ours = workdir.is_dir() and (begun_once or all(p.name in _FIRST for p in workdir.iterdir()))
    if workdir.exists() and not ours:
        raise DataError(f"{workdir} is not empty and holds no run; choose another --workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    _write_config(path, config)
    return ""


def settle(workdir: Path, config: Config, data_dir: Path, longer: str) -> None:
    """Writes what a start changes in a run's folder, once nothing can refuse it any more: its total where `longer` says
    what a larger one means, and where the data sets of this run lie, for what is done with the run later."""
    write_text(workdir / _DATA_DIR, json.dumps({"data_dir": str(data_dir)}) + "\n")
    if longer:
        say(longer)
        _write_config(workdir / "config.json", config)
        for name in ("summary.json", "summary.txt"):  # it is no longer done
            (workdir / name).unlink(missing_ok=True)


def _write_config(path: Path, config: Config) -> None:
    write_text(path, json.dumps(to_dict(config), indent=2) + "\n", durable=True)


def _cut_off(path: Path) -> bool:
    """Whether nothing is in a file: what a loss of power leaves of one that was new."""
    return not path.read_bytes().strip(b"\0 \n")


def _way_out(workdir: Path, begun: Config, clock: Clock, changed: list[str]) -> str:
    of_total = len(changed) == 1 and changed[0].startswith("total: ")
    if of_total and clock.steps(begun.total, "total") < clock.total_steps:
        return "only a finished run can get a larger total: let it finish with the old one first"
    return f"choose another --workdir, where --config.init.run={workdir} starts from the best weights of this run"


def _longer(workdir: Path, before: Config, config: Config, clock: Clock, changed: list[str]) -> str:
    """What a larger `total` means for the finished run in a folder; "" where that is not all that `changed`."""
    summary = read_object(workdir / "summary.json")
    done = summary.get("steps")
    if not (isinstance(done, int) and str(summary.get("result")).startswith("finished") and done < clock.total_steps):
        return ""
    if len(changed) > 1 or not changed[0].startswith("total: "):
        return ""
    last = float(optimizers.schedule(before, dataclasses.replace(clock, total_steps=done))(done - 1))
    rate = float(optimizers.schedule(config, clock)(done))
    place = f"which schedule.name={config.schedule.name} has at step {done} of {clock.total_steps}"
    rates = f"the learning rate, {last:.2e} at its end, goes on at {rate:.2e}, {place}"
    return f"this run was done after {before.total} and goes on to {config.total}: {rates}"


def changes(workdir: Path, config: Config) -> list[str]:
    """What makes the run in a folder another one than this config's, as "key: old -> new"."""
    return _changes(read_config(workdir), config)


def _changes(begun: Config, config: Config) -> list[str]:
    if config.data.validation_split == AUTO:  # what it was when the run began, it still is
        config = config_files.with_validation(config, begun.data.validation_split)
    return [d for d in config_files.differences(begun, config) if not d.startswith(_FREE)]


def validation_split(workdir: Path) -> str | None:
    """The validation split of the run in a folder; None where none has begun, or its config cannot be read."""
    found = _read_config(workdir / "config.json")
    return found.data.validation_split if isinstance(found, Config) else None


def data_dir(workdir: Path, given: str | None) -> str | None:
    """Where to look for data sets: in the folder that is given, or else where the run in `workdir` had them.

    None, for TensorFlow Datasets' own folder, where nothing is noted. Raises DataError where the noted one is gone.
    """
    noted = read_object(workdir / _DATA_DIR).get("data_dir")
    if given or not isinstance(noted, str):
        return given
    if not Path(noted).is_dir():
        raise DataError(f"{workdir} was trained on data in {noted}, which is gone; say where they are: --data_dir DIR")
    return noted


def read_config(workdir: Path) -> Config:
    """The resolved config of the run in a folder; that of its newest checkpoint, which has digests, where they differ.

    Raises DataError where there is none, or it cannot be read.
    """
    path = workdir / "config.json"
    found, (step, recorded) = _read_config(path), _recorded(workdir)
    if recorded is None:
        if isinstance(found, Config):
            return found
    elif isinstance(found, str):
        say(f"{path} {found or 'is missing'}: taken from checkpoint {step}, which has it too")
        return recorded
    else:
        wrong = [
            d
            for d in config_files.differences(recorded, found)
            if not d.startswith((*_FREE, "total", "data.validation_split"))
        ]
        if not wrong:
            return found
        say(f"{path} is not what checkpoint {step} was trained with ({'; '.join(wrong)}): the checkpoint's is taken")
        return dataclasses.replace(recorded, total=found.total)
    if not found:
        raise DataError(f"no run in {workdir} (it has no config.json); give the --workdir of a training")
    raise DataError(f"{path} {found}")


def _recorded(workdir: Path) -> tuple[int, Config | None]:
    """The step of the newest checkpoint whose record is whole, and the config in it; (0, None) without one."""
    there = (path for path in (workdir / CHECKPOINTS).glob("*") if path.name.isdecimal())
    for folder in sorted(there, key=lambda path: int(path.name), reverse=True):
        unusable = contextlib.suppress(OSError, DataError, ConfigError, KeyError, TypeError, ValueError)
        with unusable:
            if not digests.problem(folder, only=digests.RECORD):
                return int(folder.name), config_files.from_dict(read_json(folder / digests.RECORD)["config"])
    return 0, None


def _read_config(path: Path) -> Config | str:
    """The config in a file; or why it cannot be read, "" where there is no file."""
    try:
        return config_files.from_dict(read_json(path))
    except FileNotFoundError:
        return ""
    except DataError as error:
        return str(error).removeprefix(f"{path} ")
    except (ValueError, OSError, ConfigError) as error:
        return f"cannot be read: {error}"


def check_there(workdir: Path) -> None:
    """Raises OSError where the folder of a run is gone while it trains: what is saved now would be half a run, or land
    in a run that was begun in its place."""
    if not (workdir / "config.json").is_file():
        raise OSError(f"{workdir} is no longer there (its config.json is gone); nothing more is saved in it")
    lock, there = _LOCKS.get(workdir), workdir / _LOCK
    if lock is not None and there.exists() and not os.path.samestat(os.fstat(lock), there.stat()):
        raise OSError(f"{workdir} was removed and made anew by another run; nothing more of this one is saved")


@contextlib.contextmanager
def held(workdir: Path, config: Config, clock: Clock) -> Iterator[str]:
    """`open_folder` and a lock on it by the first process, for all processes of a job, which call this together.

    Raises DataError where the folder is not there for every process, Busy where another job trains in it.
    """
    longer = ""
    with contextlib.ExitStack() as stack:
        with distributed.together():
            if distributed.is_first():
                longer = open_folder(workdir, config, clock)
                busy = Busy(f"another process is training in {workdir}; wait for it, or stop it")
                _LOCKS[workdir] = stack.enter_context(files.locked(workdir / _LOCK, busy))
                stack.callback(_LOCKS.pop, workdir)
        with distributed.together():
            if not (workdir / "config.json").is_file():
                where = "--workdir must be on a file system that all share"
                raise DataError(f"{workdir} is not the first process's; {where}")
        yield longer


def check_space(workdir: Path, needed: int) -> None:
    """Raises OSError before anything is written where the checkpoints' disk has less than `needed` bytes free."""
    free = shutil.disk_usage(os.path.realpath(workdir / CHECKPOINTS)).free
    if free < needed:
        raise OSError(
            f"{workdir} has {free / 1e6:.0f} MB free and the checkpoints of this run need {needed / 1e6:.0f} MB; "
            "free some space, choose another --workdir, or lower --config.keep"
        )


def write_parameters(workdir: Path, params: Any) -> None:
    """parameters.txt: each parameter's name, shape, dtype and size, and how it lies on this mesh."""
    overview = parameter_overview.get_parameter_overview(params, include_stats="sharding")
    write_text(workdir / "parameters.txt", f"{overview}\n")


def write_summary(workdir: Path, summary: dict[str, Any]) -> None:
    """summary.json for machines, summary.txt for people."""
    write_text(workdir / "summary.json", json_line(summary))
    lines = [f"{key.replace('_', ' '):<22}{_shown(value)}" for key, value in summary.items() if value is not None]
    write_text(workdir / "summary.txt", "\n".join(lines) + "\n")


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        parts = [f"{k} {_shown(v)}" for k, v in value.items()] if isinstance(value, dict) else map(str, value)
        return ", ".join(parts)
    return f"{value:.4f}" if isinstance(value, float) else str(value)


@contextlib.contextmanager
def metrics(workdir: Path, step: int, evaluated: int, track: tracking.Write) -> Iterator[tracking.Write]:
    """Gives `write(kind, record)`, which appends to metrics.jsonl and TensorBoard's events, and then calls `track` with
    the same; only the first host writes.

    `kind` is "train" or "validation", and `record` holds at least "step". `step` is where the run goes on, `evaluated`
    the step of the last validation that its checkpoint knows: records from beyond them are dropped.
    """
    if not distributed.is_first():
        yield lambda kind, record: None
        return
    path, last, before = workdir / "metrics.jsonl", {"train": step, "validation": evaluated}, read_records(workdir)
    kept = "".join(json_line(record) for record in before if record["step"] <= last.get(record["kind"], step))
    if path.is_file() and path.read_text(errors="replace") != kept:  # also a line that a crash has cut
        write_text(path, kept)
    with path.open("a") as file, SummaryWriter(str(workdir / "events"), purge_step=step + 1) as events:

        def write(kind: str, record: dict[str, Any]) -> None:
            file.write(json_line({"kind": kind, **record}))
            file.flush()
            for name, value in record.items():
                if tracking.is_number(value) and name != "step":
                    events.add_scalar(f"{kind}/{name}", value, record["step"])
            events.flush()
            track(kind, record)

        yield write


def read_records(workdir: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl so far; lines that are none, such as one cut off by a crash, are left out."""
    path, records = workdir / "metrics.jsonl", []
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int) and isinstance(record.get("kind"), str):
            records.append(record)
    return records
