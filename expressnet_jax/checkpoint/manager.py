"""Checkpoints of a run: the newest few and the best, written in the background. The only file that knows Orbax.

A checkpoint holds {state, record}: the arrays of a `State`, and a JSON record of everything else that resuming and
predicting need: data position, metrics, resolved config, class names, preprocessing.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from data_pipelines.common.errors import Failure
from data_pipelines.common.text import reason, say
from expressnet_jax.checkpoint import digests
from expressnet_jax.parallel import distributed

_BEST = "accuracy"
_UNFINISHED = "*.orbax-checkpoint-tmp*"  # the folder of a step that is being written


class _OwnThreads:
    """The screen, for threads that Python has started: those of TensorStore report each of their failures on it."""

    def __init__(self, screen: TextIO) -> None:
        self._screen = screen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._screen, name)

    def write(self, text: str) -> int:
        foreign = threading.current_thread().name.startswith("Dummy-")  # so Python calls them
        return len(text) if foreign else self._screen.write(text)


def quiet() -> None:
    """Keeps the threads of Orbax and TensorStore from filling the screen: 841 lines where a disk was full.

    For commands, whose process is their own. What went wrong is raised in the main thread, by `Manager`.
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    if not isinstance(sys.stderr, _OwnThreads):
        sys.stderr = cast(TextIO, _OwnThreads(sys.stderr))


class _Steps(ocp.CheckpointManager):  # type: ignore[misc]  # Orbax has no types
    """Orbax's manager, which asks JAX for no signal: with its step numbers it would upset the loop's own questions."""

    def reached_preemption(self, step: int) -> bool:
        return False


class CheckpointError(Failure):
    """A checkpoint that is missing, damaged, or could not be written; the message is one line."""


class Manager:
    """The checkpoints in one folder. Use as a context manager: leaving it waits for the last write."""

    def __init__(self, folder: Path, *, keep: int = 2, read_only: bool = False) -> None:
        # A paragraph per save is not for the user's screen, and what fails is raised.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        if read_only and not folder.is_dir():
            raise CheckpointError(f"no checkpoints in {folder.parent}; is it the --workdir of a training run?")
        best = policies.BestN(get_metric_fn=lambda metrics: metrics[_BEST], n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            # LatestN beside BestN: with `best_fn` and `max_to_keep` alone the newest one could be deleted.
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(n=keep), best]),
            best_fn=lambda metrics: metrics[_BEST], best_mode="max",
            create=not read_only, read_only=read_only, enable_async_checkpointing=not read_only,
            async_options=None if read_only else ocp.AsyncOptions(post_finalization_callback=self._seal),
        )  # fmt: skip
        if folder.is_symlink() and not folder.exists():
            raise CheckpointError(f"{folder} leads to {os.readlink(folder)}, which is not there")
        real = Path(os.path.realpath(folder))  # what is renamed stays on its disk
        self.folder, self._spare = folder, real.with_name(real.name + ".replaced")
        self._aside = real.with_name(real.name + ".damaged")
        self._writing_step = -1
        self._sound: set[int] = set()  # steps whose files were found to be what was written
        if not read_only:
            if distributed.is_first():
                for unfinished in folder.glob(_UNFINISHED):  # by a process that was killed
                    shutil.rmtree(unfinished)
                self._bring_back()
                self._set_damaged_aside()
            distributed.barrier("checkpoints as they were left")
        try:
            self._manager = _Steps(folder.absolute(), options=options)
        except (OSError, ValueError, KeyError) as error:  # it reads the metrics of all of them
            wrong = {step: text for step in self._there() if (text := self._problem(step))}
            first = next((f"checkpoint {step} is damaged: {text}" for step, text in wrong.items()), reason(error))
            whole = set(self._there()) - set(wrong)
            if not (read_only and wrong and whole):
                raise CheckpointError(f"{folder} cannot be read: {first}") from error
            distributed.say(f"{first}; the others are looked at")
            self._whole = tempfile.TemporaryDirectory(prefix="checkpoints")  # nothing is renamed in what is only read
            for step in whole:
                (Path(self._whole.name) / str(step)).symlink_to((folder / str(step)).absolute())
            self._manager = _Steps(Path(self._whole.name), options=options)

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def save(self, state: dict[str, Any], record: dict[str, Any], *, accuracy: float | None = None) -> None:
        """Starts writing the state before step `record["step"]`; the arrays may be donated as soon as this returns.

        `accuracy`, of the validation of just this state, makes it a candidate for the best.
        """
        self.wait()
        self._writing_step = record["step"]
        replacing = record["step"] in self._manager.all_steps()  # saved at an interruption, evaluated only now
        if replacing:
            if distributed.is_first():
                self._spare.mkdir()
                os.rename(self.folder / str(record["step"]), self._spare / str(record["step"]))
            distributed.barrier("checkpoint set aside")
            self._manager.reload()
        self._sound.discard(record["step"])
        parts = ocp.args.Composite(
            state=ocp.args.StandardSave(state), record=ocp.args.JsonSave({**record, digests.SEALED: True})
        )
        metrics = None if accuracy is None else {_BEST: accuracy}
        with self._writing():
            self._manager.save(record["step"], args=parts, metrics=metrics, force=True)
        if replacing:
            self.wait()
            if distributed.is_first():
                shutil.rmtree(self._spare)

    def wait(self) -> None:
        """Returns when everything is on the disk; raises what a background write ran into."""
        with self._writing():
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Raises CheckpointError where Orbax, in here or in the background before, found its files or folders gone."""
        try:
            yield
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"a checkpoint could not be written to {self.folder}: {reason(error)}") from error

    def latest_step(self) -> int | None:
        """The newest checkpoint's step, or None where there is none."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The step with the best validation accuracy, or the newest one where nothing was evaluated.

        Of those that are not damaged, with a line for the user where another one would have been taken.
        """
        best = self._manager.best_step()
        best = self.latest_step() if best is None else best
        if best is None or not (wrong := self._problem(best)):
            return best
        whole = [step for step in self.steps() if not self._problem(step)]
        if not whole:
            raise CheckpointError(
                f"checkpoint {self.folder / str(best)} is damaged ({wrong}), and there is no other one"
            )
        validated = {step: found[_BEST] for step in whole if (found := self.record(step).get("validation"))}
        other = max(validated, key=lambda step: (validated[step], step)) if validated else max(whole)
        distributed.say(f"checkpoint {best}, the best one, is damaged: {wrong}; the one of step {other} is taken")
        return other

    def go_back(self, step: int) -> int | None:
        """Deletes all checkpoints after `step`; returns the step of the newest one that is left, None without any."""
        self.wait()
        if step and self.steps()[:1] > [step]:
            raise CheckpointError(
                f"no checkpoint in {self.folder} is from before step {step}, when all was well: keep is too low"
            )
        for later in [found for found in self.steps() if found > step]:
            self._manager.delete(later)
            self._sound.discard(later)
        return self.latest_step()

    def steps(self) -> list[int]:
        """The steps of all checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def record(self, step: int) -> dict[str, Any]:
        """The JSON record of a checkpoint."""
        return self._read(step, "record", ocp.args.JsonRestore())

    def restore(self, step: int, abstract: dict[str, Any]) -> dict[str, Any]:
        """The state of a checkpoint, laid out as `abstract` says, whatever mesh it was saved from."""
        if not (self.folder / str(step) / digests.FILE).exists():
            distributed.say(
                f"note: checkpoint {step} has no digests, as of an older version: damage would not be noticed"
            )
        return self._read(step, "state", ocp.args.StandardRestore(abstract))

    def _read(self, step: int, part: str, how: Any) -> dict[str, Any]:
        """One part of a checkpoint. Raises CheckpointError, with the way out, where it is missing or damaged."""
        if wrong := self._problem(step):
            raise CheckpointError(f"checkpoint {self.folder / str(step)} is damaged ({wrong}); {self._way_out(step)}")
        try:
            return dict(self._manager.restore(step, args=ocp.args.Composite(**{part: how}))[part])
        except (OSError, ValueError, KeyError) as error:
            at = self.folder / str(step)
            raise CheckpointError(f"checkpoint {at} cannot be read ({self._way_out(step)}): {reason(error)}") from error

    def _way_out(self, step: int) -> str:
        older = max((s for s in self._manager.all_steps() if s < step), default=None)
        return "there is no older one" if older is None else f"delete that folder to go on from step {older}"

    def _problem(self, step: int) -> str:
        """What is damaged in a checkpoint; each is looked at once."""
        if step in self._sound:
            return ""
        wrong = digests.problem(self.folder / str(step))
        self._sound |= set() if wrong else {step}
        return wrong

    def _seal(self) -> None:
        """Writes the digests of a checkpoint whose files are all there, before it gets its name."""
        if distributed.is_first():
            for folder in self.folder.glob(f"{self._writing_step}{_UNFINISHED.removeprefix('*')}"):
                digests.write(folder)

    def _there(self) -> list[int]:
        """The steps of all folders, newest first, whatever is in them."""
        return sorted((int(path.name) for path in self.folder.glob("*") if path.name.isdecimal()), reverse=True)

    def _set_damaged_aside(self) -> None:
        """Renames damaged checkpoints, and says so. They are kept in a folder beside this one, where nobody looks."""
        for step in self._there():
            if wrong := self._problem(step):
                self._aside.mkdir(exist_ok=True)
                names = (self._aside / (f"{step}.{n}" if n else f"{step}") for n in itertools.count())
                os.rename(self.folder / str(step), to := next(name for name in names if not name.exists()))
                say(f"checkpoint {step} is damaged and was set aside as {to}: {wrong}")

    def _bring_back(self) -> None:
        """Undoes a replacement that was cut off: the old checkpoint was set aside, the new one never became whole."""
        for old in self._spare.glob("*") if self._spare.is_dir() else ():
            if not (self.folder / old.name).exists():
                os.rename(old, self.folder / old.name)
        shutil.rmtree(self._spare, ignore_errors=True)
