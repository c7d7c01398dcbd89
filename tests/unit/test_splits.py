"""Hold-outs: stratified, equal pictures on one side, or as scikit-learn cuts them."""

import collections

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from data_pipelines import splits
from data_pipelines.common.errors import DataError
from data_pipelines.labels import EMOTIONS


class Records(list):
    """Examples in memory, read as a data source reads them."""

    def __getitems__(self, numbers):
        return [self[number] for number in numbers]


def fake(labels, images):
    records = Records({"image": image, "label": label} for image, label in zip(images, labels, strict=True))
    numbers, label_map = np.arange(len(records)), np.arange(8, dtype=np.int32)
    return splits.Split("fake/train", records, numbers, label_map, EMOTIONS, (48, 48, 1))


def test_a_holdout_is_stratified_and_keeps_equal_pictures_on_one_side():
    rng = np.random.default_rng(0)
    labels = rng.choice(8, 2000, p=[0.3, 0.02, 0.08, 0.1, 0.2, 0.1, 0.1, 0.1])
    images = [str(i % 1700).encode() for i in range(2000)]  # the last 300 repeat the first, labels and all
    labels[1700:] = labels[:300]
    rest, held = splits.clean_holdout(fake(labels, images), 0.1, seed=3)
    assert sorted([*rest.numbers, *held.numbers]) == list(range(2000))
    assert not {images[i] for i in rest.numbers} & {images[i] for i in held.numbers}
    counts, all_counts = (collections.Counter(labels[i] for i in numbers) for numbers in (held.numbers, range(2000)))
    assert all(abs(counts[c] - 0.1 * all_counts[c]) <= 2 for c in range(8))


def test_a_holdout_depends_on_its_seed_alone():
    labels, images = np.arange(400) % 8, [str(i).encode() for i in range(400)]
    first, again, other = (splits.clean_holdout(fake(labels, images), 0.2, seed)[1].numbers for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_holdout_that_leaves_nothing_is_refused():
    with pytest.raises(DataError, match="leaves an empty split"):
        splits.clean_holdout(fake([0, 1], [b"a", b"b"]), 0.1, seed=0)


@pytest.mark.parametrize(("fraction", "seed"), [(0.2, 52), (0.1, 0), (0.37, 7)])
@pytest.mark.parametrize("counts", [(4616, 4336, 3608, 3472, 3244, 3043, 2995, 2861), (10, 10, 10), (5, 3, 2, 40)])
def test_a_random_holdout_is_that_of_scikit_learn(counts, fraction, seed):
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))
    split = fake(labels, [b""] * len(labels))
    rest, held = splits.random_holdout(split, fraction, seed)
    theirs = train_test_split(np.arange(len(labels)), test_size=fraction, random_state=seed, stratify=labels)
    assert [sorted(part.numbers) for part in (rest, held)] == [sorted(part) for part in theirs]


def test_the_published_split_of_affectnet_has_the_published_sizes():
    counts = (4616, 4336, 3608, 3472, 3244, 3043, 2995, 2861)
    for kept, sizes in ((counts, (22540, 5635)), (counts[:4] + counts[5:], (19944, 4987))):
        labels = np.repeat(np.arange(len(kept)), kept)
        parts = splits.random_holdout(fake(labels, [b""] * len(labels)), 0.2, 52)
        assert tuple(map(len, parts)) == sizes


def test_votes_become_shares_of_the_classes_in_use():
    votes = np.array([[0, 1, 0, 0, 6, 3, 0, 0], [0, 10, 0, 0, 0, 0, 0, 0]], np.float32)  # by EMOTIONS
    split = fake([4, 1], [b"", b""])
    mapped = splits.Split(
        "f", split.records, split.numbers, np.array([-1, -1, -1, -1, 1, 0, -1, -1], np.int32),
        ("neutral", "happiness"), (48, 48, 1), votes=True,
    )  # fmt: skip
    np.testing.assert_allclose(mapped._votes(votes), [[3 / 9, 6 / 9], [0, 0]])
