"""From splits to batches of uint8 on one host, in an order that is a function of the step alone.

Legend: N examples of a split, B global batch, H W stored height and width, C colour channels (1 or 3).
A batch is {image: uint8 (b, H, W, C), label: int32 (b,), mask: bool (b,), index: int32 (b,)}, b = B / hosts; where
people voted on the labels also {votes: float32 (b, classes)}, their shares.
"""

import itertools
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker

import grain
import numpy as np
from absl import flags

from data_pipelines.common.errors import DataError, Failure
from data_pipelines.common.text import one_line
from data_pipelines.splits import Batch, Split

#: How often a class is drawn, as a power of its number of examples: 1 as often as it occurs, 0 all classes alike.
SAMPLING = {"uniform": 1.0, "sqrt": 0.5, "balanced": 0.0}
#: Without worker processes: threads that decode, and batches that are asked for ahead of the one in use.
THREADS, AHEAD = 2, 4


def training_steps(
    split: Split, batch_size: int, *, seed: int, host: int = 0, hosts: int = 1, sampling: str = "uniform",
    also: Sequence[tuple[Split, float]] = (), independent: bool = True,
) -> grain.MapDataset:  # fmt: skip
    """This host's part of each global batch, without end: `[s]` reads and decodes that of step s; see `batches`.

    Batch s holds the examples s*B to (s+1)*B of a stream that depends on `seed` alone, whatever the number of hosts,
    and host h gets the h-th slice of each. With `sampling` uniform the stream is the shuffled split, again and again,
    each time in its own order; else it goes from class to class in fixed proportions (see SAMPLING), each class
    shuffled by itself, so that a rare one comes round sooner. `also` are further splits, mixed in at so many times
    the rate of the first one's examples; `index` goes on counting where the one before ends.
    Without `independent`, as runs of before 2026-12 began, the streams of neighbouring seeds share their epochs.
    Raises DataError for splits whose pictures differ in size.
    """
    splits = [split, *(other for other, _ in also)]
    load = _loading(splits)
    stream = _stream(splits, [1.0, *(weight for _, weight in also)], SAMPLING[sampling], _seeds(seed, independent))
    # Batching happens on the MapDataset: after workers have split the stream, a tail would be cut once per worker.
    # Only numbers are shuffled and batched; a batch of records is then read and decoded at once.
    # Without drop_remainder the length of an endless stream in batches of one is rounded up, beyond what Python holds.
    numbers = stream.batch(batch_size // hosts, drop_remainder=True, batch_fn=np.asarray)
    return numbers[host::hosts].map(load)


def _stream(splits: Sequence[Split], weights: Sequence[float], power: float, seeds: Iterator[int]) -> grain.MapDataset:
    """Positions in the concatenated splits, without end; each class or split is shuffled with a seed of its own."""
    if len(splits) == 1 and power == 1:
        return grain.MapDataset.range(len(splits[0])).shuffle(seed=next(seeds)).repeat()
    streams: list[grain.MapDataset] = []
    rates, first = [], 0
    for split, weight in zip(splits, weights, strict=True):
        labels = split.labels() if power != 1 else np.zeros(len(split), np.int32)
        classes, counts = np.unique(labels, return_counts=True)
        share = counts.astype(float) ** power
        for label, rate in zip(classes, weight * len(split) * share / share.sum(), strict=True):
            positions = first + np.flatnonzero(labels == label)
            streams.append(grain.MapDataset.source(positions).shuffle(seed=next(seeds)).repeat())
            rates.append(float(rate))
        first += len(split)
    return grain.MapDataset.mix(streams, rates)


def _seeds(seed: int, independent: bool) -> Iterator[int]:
    """Seeds of the parts of a run's stream. Grain's order of epoch e of seed s is that of epoch 0 of seed s + e.

    So seeds side by side would give runs, or classes, the same orders one after the other. These are 32 bits that say
    nothing of each other.
    """
    for number in itertools.count():
        yield int(np.random.SeedSequence((seed, number)).generate_state(1)[0]) if independent else seed + number


def _loading(splits: Sequence[Split]) -> Callable[[np.ndarray], Batch]:
    """What loads positions in the concatenated splits. Raises DataError for splits whose pictures differ in size."""
    if len(splits) == 1:
        return splits[0].load
    sizes = {split.name: split.shape[:2] for split in splits}
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{name} {height}x{width}" for name, (height, width) in sizes.items())
        raise DataError(f"mixed data sets need pictures of one size ({said}): prepare them with the same --size")
    starts = np.cumsum([0, *map(len, splits)])
    records = np.cumsum([0, *(int(split.numbers.max()) + 1 for split in splits)])
    channels = max(split.shape[2] for split in splits)

    def load(positions: np.ndarray) -> Batch:
        which = np.searchsorted(starts, positions, side="right") - 1
        parts: list[Batch] = []
        for i, split in enumerate(splits):
            part = split.load(positions[which == i] - starts[i])
            image = np.broadcast_to(part["image"], (*part["image"].shape[:3], channels))
            part |= {"image": image, "index": (part["index"] + records[i]).astype(np.int32)}
            parts.append({key: value for key, value in part.items() if key != "votes"})
        order = np.argsort(np.argsort(which, kind="stable"), kind="stable")
        return {key: np.concatenate([part[key] for part in parts])[order] for key in parts[0]}

    return load


def evaluation_batches(
    split: Split, batch_size: int, *, host: int = 0, hosts: int = 1, workers: int = 0
) -> Iterator[Batch]:
    """This host's part of every example once, in order; the last global batch is padded, `mask` false there."""

    def load(positions: np.ndarray) -> Batch:
        real = positions < len(split)  # those beyond the end become masked copies of the first example
        return split.load(np.where(real, positions, 0)) | {"mask": real}

    padded = grain.MapDataset.range(-(-len(split) // batch_size) * batch_size)
    return batches(padded.batch(batch_size // hosts, batch_fn=np.asarray)[host::hosts].map(load), workers)


def batches(steps: grain.MapDataset, workers: int = 0) -> Iterator[Batch]:
    """The batches of these steps, one after the other: `workers` processes read and decode them; with 0, threads do."""
    if not workers:
        return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=AHEAD)))
    if not flags.FLAGS.is_parsed():  # Grain's workers read absl flags, which only absl programs parse
        flags.FLAGS.mark_as_parsed()
    _quiet_tracker()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = grain.MultiprocessingOptions(num_workers=workers)
        return _told(iter(steps.to_iter_dataset().mp_prefetch(options, worker_init_fn=_in_worker)))


def _in_worker(*_: int) -> None:
    """Leaves the signals that a whole job or terminal gets to the process that this one reads for: it may still want
    batches, for a validation that it finishes. Ends with it, however it ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _quiet_tracker() -> None:
    """Starts Python's process that frees what killed workers have shared, so that it does not warn of each after us."""
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [before, "ignore:resource_tracker"]))
    resource_tracker.ensure_running()
    if before is None:
        del os.environ["PYTHONWARNINGS"]
    else:
        os.environ["PYTHONWARNINGS"] = before


class WorkerLost(Failure):
    """A process that read data ended, as when the system runs out of memory; the run can be started again."""

    exit_code = 76  # as after a hang: launchers count it as a crash


def _told(found: Iterator[Batch]) -> Iterator[Batch]:
    """The same, with the end of a worker as one line."""
    while True:
        try:
            batch = next(found)
        except StopIteration:
            return
        except RuntimeError as error:
            if "orker process was terminated" not in str(error):
                raise
            text = one_line(error).split(" Search ")[0]
            raise WorkerLost(f"{text} (out of memory? data.workers); the same command goes on from there") from error
        yield batch
