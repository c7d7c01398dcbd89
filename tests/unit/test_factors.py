"""Accuracy by the factors of drawn faces against counts by hand and SciPy's statistics."""

import itertools

import numpy as np
import pytest
from scipy import stats

from data_pipelines import splits
from data_pipelines.builders.synthetic_faces import SEED
from data_pipelines.labels import EMOTIONS
from data_pipelines.synthetic import sample_factors
from expressnet_jax.evaluation.factors import by_factor, spread
from expressnet_jax.evaluation.of_run import text_of


class Records(list):
    """Examples in memory, read as a data source reads them."""

    def __getitems__(self, numbers):
        return [self[number] for number in numbers]


def drawn(count):
    """The factors of faces as a data source gives them: float32, and text as bytes."""
    kinds = {float: np.float32, int: int, str: str.encode}
    return [{key: kinds[type(v)](v) for key, v in vars(sample_factors(3, i)).items()} for i in range(count)]


def split_of(records):
    label_map = np.arange(8, dtype=np.int32)
    return splits.Split("fake/test", Records(records), np.arange(len(records)), label_map, EMOTIONS, (48, 48, 1))


def rows_of(table):
    """Rows as `by_factor` gives them, from (value, examples, right)."""
    return [{"value": v, "examples": n, "accuracy": k / n, "interval": [0, 1]} for v, n, k in table]


def test_every_row_is_counted_by_hand():
    factors = drawn(1500)
    rng = np.random.default_rng(0)
    index, right = rng.permutation(1500)[:1300].astype(np.int32), rng.random(1300) < 0.7
    found = by_factor(split_of([{"factors": f} for f in factors]), index, right)
    assert {"skin_tone", "|yaw|", "|pitch|", "|roll|", "light_strength", "glasses", "covering", "age"} <= set(found)
    for name, rows in found.items():
        field, edges = name.strip("|"), [row["value"].split(" to ") for row in rows]
        assert sum(row["examples"] for row in rows) == 1300
        for i, (row, edge) in enumerate(zip(rows, edges, strict=True)):
            inside = []
            for number, answer in zip(index, right, strict=True):
                value = factors[number][field]
                if len(edge) == 1:
                    belongs = (value.decode() if isinstance(value, bytes) else str(value)) == edge[0]
                else:
                    size = abs(value) if name != field else value
                    belongs = float(edge[0]) <= size < float(edge[1]) or (i == len(rows) - 1 and size == float(edge[1]))
                if belongs:
                    inside.append(answer)
            assert row["examples"] == len(inside) > 0 and row["accuracy"] == pytest.approx(np.mean(inside)), (name, row)
            ci = stats.binomtest(int(np.sum(inside)), len(inside)).proportion_ci(method="wilson")
            assert row["interval"] == pytest.approx([ci.low, ci.high])
    assert [row["value"] for row in found["skin_tone"]] == [str(tone) for tone in range(1, 11)]


def test_the_drawn_data_set_has_them(data_dir):
    split = splits.open_split("synthetic_faces/tiny", "test", EMOTIONS, data_dir=str(data_dir))
    index = split.load(np.arange(64))["index"]
    found = by_factor(split, index, np.ones(64, bool))
    tones = [str(sample_factors(SEED, 8000 + 160 + 64 + i).skin_tone) for i in range(64)]
    assert {row["value"]: row["examples"] for row in found["skin_tone"]} == {t: tones.count(t) for t in set(tones)}
    assert {row["accuracy"] for rows in found.values() for row in rows} == {1.0}


def test_a_data_set_without_factors_has_none():
    assert by_factor(split_of([{"label": 1}]), np.zeros(1, np.int32), np.ones(1, bool)) is None


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(2,\) and right of shape \(3,\)"):
        by_factor(split_of([{"factors": {}}]), np.zeros(2, np.int32), np.ones(3, bool))
    with pytest.raises(ValueError, match="no rows"):
        spread([])


@pytest.mark.parametrize("table", [
    [("1", 120, 100), ("2", 140, 100), ("3", 90, 75), ("4", 150, 125)],
    [("a", 400, 250), ("b", 300, 210)],
    [(str(i), 100, 80 + (i % 3)) for i in range(10)],
])  # fmt: skip
def test_spread_is_scipys_chi_squared_test(table):
    found = spread(rows_of(table))
    expected = stats.chi2_contingency([[k for _, _, k in table], [n - k for _, n, k in table]], correction=False)
    assert found["chi2"] == pytest.approx(expected.statistic)
    assert found["p_value"] == pytest.approx(expected.pvalue, abs=0.025)


def test_the_p_value_counts_all_ways_to_deal_out_the_answers():
    sizes, correct = [5, 4, 3], [5, 1, 1]
    groups = np.repeat(np.arange(3), sizes)

    def chi2(counts):
        return stats.chi2_contingency([counts, np.subtract(sizes, counts)], correction=False).statistic

    counts = [np.bincount(groups[list(places)], minlength=3) for places in itertools.combinations(range(12), 7)]
    exact = np.mean([chi2(c) >= chi2(correct) - 1e-9 for c in counts])
    found = spread(rows_of(zip("abc", sizes, correct, strict=True)))
    assert found["p_value"] == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 10_000))


def test_spread_names_the_groups_and_is_never_certain():
    found = spread(rows_of([("1", 500, 50), ("2", 500, 450), ("3", 500, 250)]))
    assert (found["best"], found["worst"]) == ("2", "1") and found["gap"] == pytest.approx(0.8)
    assert found["p_value"] == pytest.approx(1 / 10_001)
    for rows in ([("1", 10, 5)], [("1", 10, 10), ("2", 5, 5)], [("1", 10, 0), ("2", 5, 0)]):
        assert spread(rows_of(rows))["p_value"] == 1 and spread(rows_of(rows))["gap"] == 0


def test_the_text_has_every_row_and_gap():
    rows = rows_of([("1", 500, 50), ("10", 500, 450)])
    lines = text_of("factors", {"skin_tone": rows, "glasses": rows_of([("none", 1000, 500)])}).splitlines()
    assert any(line.split()[:4] == ["skin_tone", "1", "10.0", "%"] for line in lines)
    assert any(line.split()[:3] == ["10", "90.0", "%"] for line in lines)
    assert any(line.split()[:4] == ["glasses", "none", "50.0", "%"] for line in lines)
    assert lines[-1] == "skin_tone: 80.0 points between 10 and 1, p = 0.0001"
