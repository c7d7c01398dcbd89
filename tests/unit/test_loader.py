"""The order of examples: a function of the step, whole epochs, the same for any number of hosts; and hold-outs."""

import collections

import numpy as np
import pytest

from data_pipelines import loader
from data_pipelines.errors import DataError
from data_pipelines.labels import EMOTIONS, SEVEN

NAME = "synthetic_faces/tiny"


@pytest.fixture(scope="module")
def split(data_dir):
    return loader.open_split(NAME, "train", EMOTIONS, data_dir=str(data_dir))


def take(batches, count):
    return [batch for batch, _ in zip(batches, range(count), strict=False)]


def test_a_batch_has_the_promised_types(split):
    (batch,) = take(loader.training_batches(split, 16, seed=0), 1)
    assert batch["image"].shape == (16, 48, 48, 3) and batch["image"].dtype == np.uint8
    assert {key: batch[key].dtype for key in ("label", "mask", "index")} == {
        "label": np.int32, "mask": np.bool_, "index": np.int32,
    }  # fmt: skip
    assert batch["mask"].all()


def test_every_epoch_holds_every_example_once_in_its_own_order(split):
    per_epoch = len(split) // 16
    assert per_epoch * 16 == len(split)
    seen = [b["index"] for b in take(loader.training_batches(split, 16, seed=0), 2 * per_epoch)]
    first, second = np.concatenate(seen[:per_epoch]), np.concatenate(seen[per_epoch:])
    assert sorted(first) == sorted(second) == list(range(len(split)))
    assert not np.array_equal(first, second)


def test_position_is_a_function_of_the_step(split):
    whole = take(loader.training_batches(split, 32, seed=5), 9)
    resumed = take(loader.training_batches(split, 32, seed=5, start=6), 3)
    for a, b in zip(whole[6:], resumed, strict=True):
        assert all(np.array_equal(a[key], b[key]) for key in a)
    other = take(loader.training_batches(split, 32, seed=6), 1)
    assert not np.array_equal(whole[0]["index"], other[0]["index"])


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_out_the_same_global_batches(split, hosts):
    alone = take(loader.training_batches(split, 16, seed=1, start=3), 8)
    parts = [take(loader.training_batches(split, 16, seed=1, start=3, host=h, hosts=hosts), 8) for h in range(hosts)]
    for step, batch in enumerate(alone):
        joined = np.concatenate([part[step]["index"] for part in parts])
        np.testing.assert_array_equal(joined, batch["index"])


def test_worker_processes_give_the_same_batches(split):
    threads = take(loader.training_batches(split, 16, seed=2, start=1), 4)
    workers = take(loader.training_batches(split, 16, seed=2, start=1, workers=2), 4)
    for a, b in zip(threads, workers, strict=True):
        assert all(np.array_equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("size", [16, 48, 400])
def test_evaluation_covers_every_example_once_and_masks_the_rest(split, hosts, size):
    batches = [list(loader.evaluation_batches(split, size, host=h, hosts=hosts)) for h in range(hosts)]
    assert len({len(part) for part in batches}) == 1  # no host waits for another
    flat = [b for part in batches for b in part]
    assert all(len(b["index"]) == size // hosts for b in flat)
    real = np.concatenate([b["index"][b["mask"]] for b in flat])
    assert sorted(real) == list(range(len(split)))


def test_labels_are_mapped_by_name(data_dir, split):
    mapped = loader.open_split(NAME, "train", SEVEN[::-1], data_dir=str(data_dir))
    theirs = {int(e["index"]): EMOTIONS[e["label"]] for e in (split[i] for i in range(len(split)))}
    ours = {int(e["index"]): SEVEN[::-1][e["label"]] for e in (mapped[i] for i in range(len(mapped)))}
    assert ours == {number: name for number, name in theirs.items() if name != "contempt"}
    assert len(ours) < len(theirs)


def test_what_cannot_be_opened_says_why(data_dir, tmp_path):
    with pytest.raises(DataError, match=r"no split 'trian'.*test"):
        loader.open_split(NAME, "trian", EMOTIONS, data_dir=str(data_dir))
    with pytest.raises(DataError, match="no class in common"):
        loader.open_split(NAME, "train", ("cat", "dog"), data_dir=str(data_dir))
    with pytest.raises(DataError, match="data prepare"):
        loader.open_split(NAME, "train", EMOTIONS, data_dir=str(tmp_path))


def fake(labels, images):
    records = [{"image": image, "label": label} for image, label in zip(images, labels, strict=True)]
    return loader.Split("fake/train", records, np.arange(len(records)), np.arange(8, dtype=np.int32), EMOTIONS)


def test_a_holdout_is_stratified_and_keeps_equal_pictures_on_one_side():
    rng = np.random.default_rng(0)
    labels = rng.choice(8, 2000, p=[0.3, 0.02, 0.08, 0.1, 0.2, 0.1, 0.1, 0.1])
    images = [str(i % 1700).encode() for i in range(2000)]  # the last 300 repeat the first, labels and all
    labels[1700:] = labels[:300]
    rest, held = loader.holdout(fake(labels, images), 0.1, seed=3)
    assert sorted([*rest.numbers, *held.numbers]) == list(range(2000))
    assert not {images[i] for i in rest.numbers} & {images[i] for i in held.numbers}
    counts, all_counts = (collections.Counter(labels[i] for i in numbers) for numbers in (held.numbers, range(2000)))
    assert all(abs(counts[c] - 0.1 * all_counts[c]) <= 2 for c in range(8))


def test_a_holdout_depends_on_its_seed_alone():
    labels, images = np.arange(400) % 8, [str(i).encode() for i in range(400)]
    first, again, other = (loader.holdout(fake(labels, images), 0.2, seed)[1].numbers for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_holdout_that_leaves_nothing_is_refused():
    with pytest.raises(DataError, match="leaves an empty split"):
        loader.holdout(fake([0, 1], [b"a", b"b"]), 0.1, seed=0)
