"""What a config trains and validates on, and the batches of this process."""

import dataclasses
import hashlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax

from data_pipelines import loader, prepare, splits
from data_pipelines.common.errors import DataError
from data_pipelines.common.text import counted, nearest
from data_pipelines.splits import Batch, Split
from expressnet_jax.config import Config
from expressnet_jax.config import files as config_files
from expressnet_jax.config.settings import AUTO
from expressnet_jax.runs import folder as run_folder

_HOLDOUTS = {"clean": splits.clean_holdout, "random": splits.random_holdout}


class TrainingData(NamedTuple):
    """The splits of a run."""

    train: Split
    also: list[tuple[Split, float]]  # further training data, and how often an example is drawn, relative to `train`
    validation: Split
    fingerprint: str  # of what was prepared, and of which examples are in which split

    @property
    def examples(self) -> int:
        """How many examples make an epoch."""
        return len(self.train) + sum(len(split) for split, _ in self.also)


def resolved(config: Config, workdir: Path, data_dir: str | None) -> Config:
    """`config` with the validation split that data.validation_split=auto means; a run that has begun keeps its own."""
    begun = run_folder.validation_split(workdir) if config.data.validation_split == AUTO else None
    return config_files.with_validation(config, _validation_split(config, data_dir) if begun is None else begun)


def _validation_split(config: Config, data_dir: str | None) -> str:
    data = config.data
    if data.validation_split != AUTO:
        return data.validation_split
    if "validation" in (data.test_split, data.train_split):
        return ""
    return "validation" if "validation" in prepare.read_info(data.name, data_dir).info.splits else ""


def open_data(config: Config, data_dir: str | None) -> TrainingData:
    """The training and the validation split of a config, the latter held out from the former unless it is named."""
    data, votes = config.data, config.data.target == "votes"
    there = prepare.read_info(data.name, data_dir).info.features["label"].names
    if len({*there} & {*data.classes}) < 2:
        both = f"{data.name} has the classes {', '.join(there)}, fewer than two of them in data.classes"
        way_out = f"to train on its own: --config.data.classes={shlex.quote(','.join(there))}"
        raise DataError(f"{both} ({', '.join(data.classes)}); {way_out}")
    train = splits.open_split(data.name, data.train_split, data.classes, data_dir=data_dir, votes=votes)
    if split := _validation_split(config, data_dir):
        validation = splits.open_split(data.name, split, data.classes, data_dir=data_dir)
    else:  # the same examples whatever the run's seed is, so that seeds can be compared
        train, validation = _HOLDOUTS[data.holdout](train, data.validation_fraction, seed=data.holdout_seed)
    also = [(splits.open_split(name, "train", data.classes, data_dir=data_dir), w) for name, w in data.further]
    fingerprint = _fingerprint(config, data_dir, [train, validation, *(split for split, _ in also)])
    found = TrainingData(train, also, validation, fingerprint)
    if found.examples < config.batch_size:
        few = f"{train.name} has {counted(found.examples, 'example')}"
        fitting = 1 << (max(1, found.examples).bit_length() - 1)
        raise DataError(f"{few}, fewer than batch_size={config.batch_size}; --config.batch_size={fitting} fits")
    return found


def remarks(config: Config, data_dir: str | None) -> list[str]:
    """Lines for the user on classes and splits that the config and its data set do not both have.

    Raises DataError for a class that looks like a mistake for one of the data set's.
    """
    name, classes, test = config.data.name, config.data.classes, config.data.test_split
    info = prepare.read_info(name, data_dir).info
    theirs = info.features["label"].names
    left_out = [one for one in theirs if one not in classes]
    lacking = [one for one in classes if one not in theirs]
    for one in lacking:
        if near := nearest(one, left_out):
            raise DataError(f"data.classes: {name} has no class {one!r}{near} It has {', '.join(theirs)}")
    lines = []
    if left_out:
        lines.append(f"note: pictures of {', '.join(left_out)} are left out: data.classes does not have it")
    if lacking:
        lines.append(f"note: {name} has no pictures of {', '.join(lacking)}, so nothing is learnt of it")
    known = [*info.splits, *(["test"] if any(split.endswith("_test") for split in info.splits) else [])]
    if unknown := [part for part in test.split("+") if part not in known]:
        way_out = f"--split of {', '.join(info.splits)}{nearest(unknown[0], info.splits)}"
        lines.append(f"note: {name} has no split {unknown[0]!r} (data.test_split); `evaluate` will need {way_out}")
    return lines


def _fingerprint(config: Config, data_dir: str | None, splits: list[Split]) -> str:
    made = hashlib.sha256()
    for name in (config.data.name, *(name for name, _ in config.data.further)):
        metadata = prepare.read_info(name, data_dir).info.metadata
        made.update(repr([name, metadata.get("fingerprint"), metadata["layout"], metadata["form"]]).encode())
    for split in splits:
        made.update(repr([split.name, split.shape]).encode() + split.numbers.tobytes() + split.label_map.tobytes())
    return made.hexdigest()[:12]


def open_for_evaluation(
    config: Config, name: str, split: str, data_dir: str | None, own: TrainingData | None = None
) -> Split:
    """A split to evaluate on, with people's votes where the data set has them.

    "held_out" is the part of the training split that the config holds out; so is "validation" where the data set has no
    split of that name. `own` is what `open_data` returns for the config, where it has been called already.
    """
    info = prepare.read_info(name, data_dir).info
    held_out = split == "held_out" or (split == "validation" and split not in info.splits)
    if name == config.data.name and held_out:
        found = (own or open_data(config, data_dir)).validation
    else:
        found = splits.open_split(name, split, config.data.classes, data_dir=data_dir)
    return dataclasses.replace(found, votes="votes" in info.features)


def batches(config: Config, data: TrainingData, start: int = 0, *, independent: bool = True) -> Iterator[Batch]:
    """This process's part of the training batches from step `start` on; `independent` is the loader's."""
    steps = loader.training_steps(
        data.train, config.batch_size, seed=config.seed, host=jax.process_index(), hosts=jax.process_count(),
        sampling=config.data.sampling, also=data.also, independent=independent,
    )  # fmt: skip
    return loader.batches(steps[start:], config.data.workers)
