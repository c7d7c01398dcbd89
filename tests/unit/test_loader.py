"""The order of examples: a function of the step, whole epochs, the same for any number of hosts; sampling, mixing."""

import collections
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines import loader, splits
from data_pipelines.common.errors import DataError
from data_pipelines.labels import EMOTIONS, SEVEN
from data_pipelines.pictures import encode
from tests.conftest import environment
from tests.unit.test_splits import Records

NAME = "synthetic_faces/tiny"


@pytest.fixture(scope="module")
def split(data_dir):
    return splits.open_split(NAME, "train", EMOTIONS, data_dir=str(data_dir))


def training_batches(split, size, start=0, workers=0, **options):
    return loader.batches(loader.training_steps(split, size, **options)[start:], workers)


def take(batches, count):
    return [batch for batch, _ in zip(batches, range(count), strict=False)]


def test_a_batch_has_the_promised_types(split):
    (batch,) = take(training_batches(split, 16, seed=0), 1)
    assert batch["image"].shape == (16, 48, 48, 3) and batch["image"].dtype == np.uint8
    assert {key: batch[key].dtype for key in ("label", "mask", "index")} == {
        "label": np.int32, "mask": np.bool_, "index": np.int32,
    }  # fmt: skip
    assert batch["mask"].all()


def test_every_epoch_holds_every_example_once_in_its_own_order(split):
    per_epoch = len(split) // 16
    assert per_epoch * 16 == len(split)
    seen = [b["index"] for b in take(training_batches(split, 16, seed=0), 2 * per_epoch)]
    first, second = np.concatenate(seen[:per_epoch]), np.concatenate(seen[per_epoch:])
    assert sorted(first) == sorted(second) == list(range(len(split)))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
def test_no_epoch_of_a_seed_is_one_of_another(split, sampling):
    def epochs(seed, **options):
        found = np.concatenate([b["index"] for b in take(training_batches(split, 16, seed=seed, **options), 30)])
        return {found[start : start + len(split)].tobytes() for start in range(0, len(found), len(split))}

    seen = [epochs(seed, sampling=sampling) for seed in range(6)]
    assert len(set().union(*seen)) == sum(map(len, seen)) == 18
    if sampling == "uniform":  # as it was
        assert len(epochs(0, independent=False) & epochs(1, independent=False)) == 2


def test_position_is_a_function_of_the_step(split):
    whole = take(training_batches(split, 32, seed=5), 9)
    resumed = take(training_batches(split, 32, seed=5, start=6), 3)
    for a, b in zip(whole[6:], resumed, strict=True):
        assert all(np.array_equal(a[key], b[key]) for key in a)
    other = take(training_batches(split, 32, seed=6), 1)
    assert not np.array_equal(whole[0]["index"], other[0]["index"])


@pytest.mark.parametrize("hosts", [2, 3, 4])
def test_hosts_share_out_the_same_global_batches(split, hosts):
    alone = take(training_batches(split, 24, seed=1, start=3), 8)
    parts = [take(training_batches(split, 24, seed=1, start=3, host=h, hosts=hosts), 8) for h in range(hosts)]
    for step, batch in enumerate(alone):
        joined = np.concatenate([part[step]["index"] for part in parts])
        np.testing.assert_array_equal(joined, batch["index"])


LONG = [pytest.param(workers, marks=pytest.mark.long) for workers in (1, 2, 4)]  # each imports everything first


@pytest.mark.parametrize("workers", [3, *LONG])
def test_worker_processes_give_the_same_batches(split, workers):
    threads = take(training_batches(split, 16, seed=2, start=1), 7)
    processes = take(training_batches(split, 16, seed=2, start=1, workers=workers), 7)
    for a, b in zip(threads, processes, strict=True):
        assert all(np.array_equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("hosts", [1, 2, 3])
@pytest.mark.parametrize("size", [18, 48, 402])
def test_evaluation_covers_every_example_once_and_masks_the_rest(split, hosts, size):
    batches = [list(loader.evaluation_batches(split, size, host=h, hosts=hosts)) for h in range(hosts)]
    assert len({len(part) for part in batches}) == 1  # no host waits for another
    flat = [b for part in batches for b in part]
    assert all(len(b["index"]) == size // hosts for b in flat)
    real = np.concatenate([b["index"][b["mask"]] for b in flat])
    assert sorted(real) == list(range(len(split)))


def test_labels_are_mapped_by_name(data_dir, split):
    mapped = splits.open_split(NAME, "train", SEVEN[::-1], data_dir=str(data_dir))
    theirs, ours = (
        dict(zip(batch["index"].tolist(), (part.classes[label] for label in batch["label"]), strict=True))
        for part in (split, mapped)
        for batch in [part.load(np.arange(len(part)))]
    )
    assert ours == {number: name for number, name in theirs.items() if name != "contempt"}
    assert len(ours) < len(theirs)


def test_what_cannot_be_opened_says_why(data_dir, tmp_path):
    with pytest.raises(DataError, match=r"no split 'trian'.*test"):
        splits.open_split(NAME, "trian", EMOTIONS, data_dir=str(data_dir))
    with pytest.raises(DataError, match=r"'test\+test' would count test more than once"):
        splits.open_split(NAME, "test+test", EMOTIONS, data_dir=str(data_dir))
    with pytest.raises(DataError, match="no class in common"):
        splits.open_split(NAME, "train", ("cat", "dog"), data_dir=str(data_dir))
    with pytest.raises(DataError, match="data prepare"):
        splits.open_split(NAME, "train", EMOTIONS, data_dir=str(tmp_path))


def jpeg(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def test_stored_pictures_are_decoded_as_pillow_decodes_them():
    grey, colour = np.random.default_rng(0).integers(0, 256, (30, 20), np.uint8), np.zeros((30, 20, 3), np.uint8)
    colour[:, 5:, 0], colour[10:, :, 2] = 200, 90
    for pixels in (grey, colour):
        for data in (jpeg(pixels), encode(Image.fromarray(pixels))):
            expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            np.testing.assert_array_equal(splits.pixels(data, 3), expected)
    np.testing.assert_array_equal(splits.pixels(jpeg(grey), 1)[..., 0], np.asarray(Image.open(io.BytesIO(jpeg(grey)))))


def fake(labels, *, side=4, channels=1, name="fake/train"):
    """A split of pictures that hold their own number."""
    images = [np.full((side, side, channels), i, np.uint8) for i in range(256)]
    images = [encode(Image.fromarray(image[..., 0] if channels == 1 else image)) for image in images]
    records = Records({"image": images[i % 256], "label": label} for i, label in enumerate(labels))
    numbers, label_map = np.arange(len(records)), np.arange(8, dtype=np.int32)
    return splits.Split(name, records, numbers, label_map, EMOTIONS, (side, side, channels))


def shares(batches, count):
    drawn = np.concatenate([batch["label"] for batch in take(batches, count)])
    return np.bincount(drawn, minlength=8) / len(drawn)


class Undecoded(splits.Split):
    """A split whose pictures are left alone, for tests of many thousand."""

    def load(self, positions):
        labels = np.array([self.records[i]["label"] for i in positions], np.int32)
        blank = np.zeros((len(positions), *self.shape), np.uint8)
        return {"image": blank, "label": labels, "mask": np.ones(len(positions), bool), "index": positions}


def undecoded(labels, name):
    return Undecoded(**{**vars(fake(labels)), "name": name})


def joined(make, hosts, count):
    """The examples of some global batches, in order, from the loaders of all hosts."""
    parts = [np.array([b["index"] for b in take(make(h, hosts), count)]) for h in range(hosts)]
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize(
    ("size", "sampling", "mixed", "most"),
    [
        (1024, "uniform", False, 256), (1024, "balanced", False, 32), (1024, "sqrt", True, 32),
        pytest.param(8192, "uniform", False, 256, marks=pytest.mark.long),
        pytest.param(1024, "sqrt", True, 256, marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_a_large_global_batch_is_the_same_on_any_number_of_hosts(size, sampling, mixed, most):
    """Two steps, the second across the end of the data set; and that one again, by hosts that begin with it."""
    split = undecoded(np.repeat([0, 1, 2], [size, size // 4, size // 16]), "fake/train")
    also = [(undecoded(np.full(300, 3), "fake/other"), 0.5)] if mixed else []

    def batches(host, hosts, start=0):
        return training_batches(split, size, seed=3, start=start, host=host, hosts=hosts, sampling=sampling, also=also)

    alone = joined(batches, 1, 2)
    assert alone.shape == (2, size) and (np.diff(alone) != 1).mean() > 0.9
    assert (alone >= len(split)).any() == mixed
    for hosts in (8, most):
        np.testing.assert_array_equal(joined(batches, hosts, 2), alone)
    np.testing.assert_array_equal(joined(lambda host, hosts: batches(host, hosts, 1), most, 1), alone[1:])


def test_an_evaluation_of_8192_is_the_same_on_1_8_and_256_hosts():
    split = undecoded(np.zeros(20000, int), "fake/test")
    for hosts in (1, 8, 256):
        parts = [list(loader.evaluation_batches(split, 8192, host=h, hosts=hosts)) for h in range(hosts)]
        steps = [np.concatenate([b["index"][b["mask"]] for b in step]) for step in zip(*parts, strict=True)]
        assert [len(step) for step in steps] == [8192, 8192, 20000 - 2 * 8192]
        np.testing.assert_array_equal(np.concatenate(steps), np.arange(20000))


def test_rare_classes_can_be_drawn_more_often():
    labels = np.repeat([0, 1, 2], [640, 160, 40])
    split = fake(labels)
    rates = {s: shares(training_batches(split, 20, seed=0, sampling=s), 105)[:3] for s in loader.SAMPLING}
    np.testing.assert_allclose(rates["uniform"], [640 / 840, 160 / 840, 40 / 840], atol=0.01)
    np.testing.assert_allclose(rates["sqrt"], np.array([4, 2, 1]) / 7, atol=0.01)  # the roots, as 4 to 2 to 1
    np.testing.assert_allclose(rates["balanced"], [1 / 3] * 3, atol=0.01)


def test_balanced_batches_are_a_function_of_the_step_and_use_every_example():
    split = fake(np.repeat([0, 1], [50, 10]))
    whole = take(training_batches(split, 10, seed=4, sampling="balanced"), 12)
    resumed = take(training_batches(split, 10, seed=4, sampling="balanced", start=5), 7)
    for a, b in zip(whole[5:], resumed, strict=True):
        np.testing.assert_array_equal(a["index"], b["index"])
    halves = [take(training_batches(split, 10, seed=4, sampling="balanced", host=h, hosts=2), 12) for h in range(2)]
    for batch, *parts in zip(whole, *halves, strict=True):
        np.testing.assert_array_equal(batch["index"], np.concatenate([part["index"] for part in parts]))
    drawn = collections.Counter(np.concatenate([batch["index"] for batch in whole]).tolist())
    assert {drawn[i] for i in range(50, 60)} == {6}  # 60 of 120 draws for ten examples, each as often
    assert {drawn[i] for i in range(50)} == {1, 2}


def test_data_sets_are_mixed_by_rate():
    first, second = fake(np.zeros(30, int)), fake(np.ones(90, int), channels=3, name="other/train")
    batches = take(training_batches(first, 20, seed=0, also=[(second, 0.5)]), 30)
    label, index = (np.concatenate([batch[key] for batch in batches]) for key in ("label", "index"))
    assert np.mean(label == 1) == pytest.approx(45 / 75, abs=0.01)  # 30 at rate 1, 90 at rate 1/2
    assert set(index[label == 0]) == set(range(30)) and set(index[label == 1]) == set(range(30, 120))
    for batch in batches[:3]:
        assert batch["image"].shape == (20, 4, 4, 3)  # grey beside colour becomes colour
        number = np.where(batch["label"] == 1, batch["index"] - 30, batch["index"])
        np.testing.assert_array_equal(batch["image"][:, 0, 0], np.repeat(number[:, None], 3, axis=1))


def test_data_sets_of_different_sizes_are_not_mixed():
    with pytest.raises(DataError, match=r"fake/train 4x4, b/train 5x5\): prepare them with the same --size"):
        training_batches(fake([0] * 9), 4, seed=0, also=[(fake([1] * 9, side=5, name="b/train"), 1.0)])


@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
def test_batches_of_one_example_a_host(split, sampling):
    whole = [b["index"].tolist() for b in take(training_batches(split, 4, seed=3, sampling=sampling), 5)]
    ones = [b["index"].tolist() for b in take(training_batches(split, 1, seed=3, sampling=sampling), 20)]
    assert ones == [[i] for batch in whole for i in batch]
    hosts = [take(training_batches(split, 4, seed=3, sampling=sampling, host=h, hosts=4), 5) for h in range(4)]
    assert [[int(one[step]["index"][0]) for one in hosts] for step in range(5)] == whole


def test_workers_leave_signals_to_the_process_that_they_read_for(split):
    batches = training_batches(split, 16, seed=0, workers=1)
    found = [next(batches)]
    (worker,) = multiprocessing.active_children()
    for number in (signal.SIGTERM, signal.SIGINT) * 2:  # as `timeout`, Ctrl-C and Slurm send to all of a job
        os.kill(worker.pid, number)
        found += [next(batches) for _ in range(8)]
    assert worker.is_alive()
    expected = take(training_batches(split, 16, seed=0), len(found))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a["index"], b["index"])
    batches.close()  # Grain's, which ends it
    assert not worker.is_alive()


READS = """
import os, sys
from data_pipelines import loader, splits
from data_pipelines.labels import EMOTIONS
if __name__ == "__main__":
    split = splits.open_split("synthetic_faces/tiny", "train", EMOTIONS, data_dir=sys.argv[1])
    batches = loader.batches(loader.training_steps(split, 16, seed=0), 1)
    next(batches)
    import multiprocessing
    print(multiprocessing.active_children()[0].pid, flush=True)
    os.kill(os.getpid(), 9)
"""


def test_workers_end_with_a_process_that_is_killed(tmp_path, data_dir):
    (tmp_path / "reads.py").write_text(READS)
    settings = {"stdout": subprocess.PIPE, "text": True, "env": environment()}
    process = subprocess.Popen([sys.executable, tmp_path / "reads.py", data_dir], **settings)
    worker, deadline = int(process.stdout.readline()), time.monotonic() + 60
    while Path(f"/proc/{worker}").exists() and "State:\tZ" not in Path(f"/proc/{worker}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert process.wait() == -9
    process.stdout.close()
