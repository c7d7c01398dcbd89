"""Checkpoints of a run: the newest few and the best, written in the background. The only file that knows Orbax.

A checkpoint holds {state, record}: the arrays of a `State`, and a JSON record of everything else that resuming and
predicting need: data position, metrics, resolved config, class names, preprocessing.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from data_pipelines.common.errors import Failure
from data_pipelines.common.text import reason
from expressnet_jax.parallel import distributed

_BEST = "accuracy"


class CheckpointError(Failure):
    """A checkpoint that is missing, damaged, or could not be written; the message is one line."""


class Manager:
    """The checkpoints in one folder. Use as a context manager: leaving it waits for the last write."""

    def __init__(self, folder: Path, *, keep: int = 2, read_only: bool = False) -> None:
        logging.getLogger("absl").setLevel(logging.ERROR)  # a paragraph per save is not for the user's screen
        if read_only and not folder.is_dir():
            raise CheckpointError(f"no checkpoints in {folder.parent}; is it the --workdir of a training run?")
        best = policies.BestN(get_metric_fn=lambda metrics: metrics[_BEST], n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            # LatestN beside BestN: with `best_fn` and `max_to_keep` alone the newest one could be deleted.
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(n=keep), best]),
            best_fn=lambda metrics: metrics[_BEST], best_mode="max",
            create=not read_only, read_only=read_only, enable_async_checkpointing=not read_only,
        )  # fmt: skip
        self.folder, self._spare = folder, folder.with_name(folder.name + ".replaced")
        if not read_only:
            if distributed.is_first():
                self._bring_back()
            distributed.barrier("checkpoints as they were left")
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def save(self, state: dict[str, Any], record: dict[str, Any], *, accuracy: float | None = None) -> None:
        """Starts writing the state before step `record["step"]`; the arrays may be donated as soon as this returns.

        `accuracy`, of the validation of just this state, makes it a candidate for the best.
        """
        replacing = record["step"] in self._manager.all_steps()  # saved at an interruption, evaluated only now
        if replacing:
            self.wait()
            if distributed.is_first():
                self._spare.mkdir()
                os.rename(self.folder / str(record["step"]), self._spare / str(record["step"]))
            distributed.barrier("checkpoint set aside")
            self._manager.reload()
        self._manager.save(
            record["step"],
            args=ocp.args.Composite(state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record)),
            metrics=None if accuracy is None else {_BEST: accuracy},
            force=True,
        )
        if replacing:
            self.wait()
            if distributed.is_first():
                shutil.rmtree(self._spare)

    def wait(self) -> None:
        """Returns when everything is on the disk; raises what a background write ran into."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()

    def latest_step(self) -> int | None:
        """The newest checkpoint's step, or None where there is none."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The step with the best validation accuracy, or the newest one where nothing was evaluated."""
        best = self._manager.best_step()
        return self.latest_step() if best is None else best

    def steps(self) -> list[int]:
        """The steps of all checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def record(self, step: int) -> dict[str, Any]:
        """The JSON record of a checkpoint."""
        return self._read(step, "record", ocp.args.JsonRestore())

    def restore(self, step: int, abstract: dict[str, Any]) -> dict[str, Any]:
        """The state of a checkpoint, laid out as `abstract` says, whatever mesh it was saved from."""
        return self._read(step, "state", ocp.args.StandardRestore(abstract))

    def _read(self, step: int, part: str, how: Any) -> dict[str, Any]:
        """One part of a checkpoint. Raises CheckpointError, with the way out, where it is missing or damaged."""
        try:
            return dict(self._manager.restore(step, args=ocp.args.Composite(**{part: how}))[part])
        except (OSError, ValueError, KeyError) as error:
            older = max((s for s in self._manager.all_steps() if s < step), default=None)
            way_out = "there is no older one" if older is None else f"delete that folder to go on from step {older}"
            at = self.folder / str(step)
            raise CheckpointError(f"checkpoint {at} cannot be read ({way_out}): {reason(error)}") from error

    def _bring_back(self) -> None:
        """Undoes a replacement that was cut off: the old checkpoint was set aside, the new one never became whole."""
        for old in self._spare.glob("*") if self._spare.is_dir() else ():
            if not (self.folder / old.name).exists():
                os.rename(old, self.folder / old.name)
        shutil.rmtree(self._spare, ignore_errors=True)
