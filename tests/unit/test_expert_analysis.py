"""What experts answer for: hand-counted cases, and scikit-learn's mutual information."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]
from sklearn import metrics as sk  # type: ignore[import-untyped]
from sklearn.metrics.cluster import expected_mutual_information  # type: ignore[import-untyped]

from expressnet_jax.evaluation import experts
from expressnet_jax.evaluation.answers import Answers
from expressnet_jax.evaluation.of_run import text_of

quick = settings(deadline=None, max_examples=60)
CLASSES = ("anger", "disgust", "fear", "happiness")


def routed(probabilities, label, k=1, index=None, chosen=None, lacking=()):
    """Answers of a network with one routed layer, which selects the K likeliest experts."""
    p, label = np.asarray(probabilities, np.float32), np.asarray(label, np.int32)
    chosen = np.argsort(-p, axis=1, kind="stable")[:, :k] if chosen is None else np.asarray(chosen)
    index = np.arange(len(p)) if index is None else np.asarray(index)
    logits = np.zeros((len(p), len(CLASSES)), np.float32)
    logits[:, list(lacking)] = -np.inf
    return Answers(CLASSES, index.astype(np.int32), label, logits, logits, {"moe": (p, chosen.astype(np.int32))})


def random_case(seed, n=80, e=5, k=2):
    rng = np.random.default_rng(seed)
    return routed(rng.dirichlet(np.ones(e), n), rng.integers(0, len(CLASSES), n), k)


def test_a_case_counted_by_hand():
    p = [[0.7, 0.2, 0.1, 0], [0.6, 0.3, 0.1, 0], [0.1, 0.8, 0.1, 0], [0.5, 0.1, 0.4, 0]]
    found = experts.of(routed(p, [0, 0, 1, 3], k=2))["moe"]
    assert (found["experts"], found["selected"], found["dead"]) == (4, 2, 2)  # 2 is selected, never first
    assert found["load"] == [4 / 8, 3 / 8, 1 / 8, 0] and found["first"] == [3 / 4, 1 / 4, 0, 0]
    assert found["importance"] == pytest.approx([1.9 / 4, 1.4 / 4, 0.7 / 4, 0])
    # Of the third, experts 0 and 2 are equal: the first is selected.
    assert found["classes"] == [[2, 1, 0, 1], [2, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert [[s["index"] for s in each] for each in found["surest"]] == [[0, 1, 3], [2], [], []]
    assert found["surest"][1] == [{"index": 2, "label": 1, "probability": pytest.approx(0.8)}]
    # First choices 0 0 1 0, classes a a d h: 0.811 bits of choice, all told by the class.
    assert found["mutual_information"] == pytest.approx(-0.75 * math.log2(0.75) - 0.25 * math.log2(0.25))
    assert found["normalized_mutual_information"] == pytest.approx(found["mutual_information"] / 1.5)


@pytest.mark.parametrize("seed", range(8))
def test_figures_of_random_routing(seed):
    answers = random_case(seed, k=1 + seed % 3)
    p, chosen = answers.routing["moe"]
    found = experts.of(answers)["moe"]
    first = chosen[:, 0]
    assert found["mutual_information"] == pytest.approx(sk.mutual_info_score(answers.label, first) / math.log(2))
    homogeneity = sk.homogeneity_score(answers.label, first)  # 1 - H(class | choice) / H(class)
    assert found["normalized_mutual_information"] == pytest.approx(homogeneity)
    assert found["entropy"] == pytest.approx(stats.entropy(p.astype(float), axis=1).mean(), rel=1e-6)
    assert found["load"] == pytest.approx([(chosen == e).sum() / chosen.size for e in range(5)])
    assert found["importance"] == pytest.approx(list(p.mean(0)), rel=1e-5)
    counted = [[int(((chosen == e).any(1) & (answers.label == c)).sum()) for c in range(4)] for e in range(5)]
    assert found["classes"] == counted
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_where_all_experts_answer_the_first_choices_are_counted():
    answers = random_case(0, e=3, k=3)
    found = experts.of(answers)["moe"]
    first = answers.routing["moe"][1][:, 0]
    assert found["load"] == pytest.approx(np.bincount(first, minlength=3) / len(first))
    assert np.sum(found["classes"]) == len(first) and len(set(found["load"])) > 1
    assert "first choice for" in text_of("experts", {"moe": found}, CLASSES)


@quick
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 6), st.integers(1, 6))
def test_information_and_its_expectation_are_those_of_scikit_learn(seed, n, rows, columns):
    rng = np.random.default_rng(seed)
    one, other = rng.integers(0, rows, n), rng.integers(0, columns, n)
    table = np.zeros((rows, columns), int)  # rows and columns without counts stay in it
    np.add.at(table, (one, other), 1)
    assert experts.mutual_information(table) == pytest.approx(sk.mutual_info_score(one, other) / math.log(2), abs=1e-12)
    expected = expected_mutual_information(sk.cluster.contingency_matrix(one, other).astype(np.int64), n)
    assert experts.expected_information(table) == pytest.approx(expected / math.log(2), abs=1e-10)


def test_information_by_chance_is_the_mean_over_all_shuffles():
    first, label = np.array([0, 0, 1, 1, 2, 0]), np.array([0, 1, 1, 2, 2, 2])
    found = experts.of(routed(np.eye(3)[first], label))["moe"]
    shuffled = [sk.mutual_info_score(label, order) for order in set(itertools.permutations(first))]
    assert found["mutual_information_by_chance"] == pytest.approx(np.mean(shuffled) / math.log(2))


def test_independent_choices_tell_no_more_than_chance_and_told_ones_all():
    rng = np.random.default_rng(0)
    label, first = rng.integers(0, 4, 5000), rng.integers(0, 4, 5000)
    chance = experts.of(routed(np.eye(4)[first], label))["moe"]
    # Miller and Madow's approximation of the same bias: (rows - 1) (columns - 1) / 2 n nats.
    assert chance["mutual_information_by_chance"] == pytest.approx(9 / 10000 / math.log(2), rel=0.01)
    assert chance["mutual_information"] < 3 * chance["mutual_information_by_chance"]
    told = experts.of(routed(np.eye(4)[3 - label], label))["moe"]
    assert told["normalized_mutual_information"] == pytest.approx(1) and told["entropy"] == 0


def test_the_surest_examples_are_in_order_with_ties_by_index():
    index = [40, 30, 20, 10, 0]
    p = [[0.75, 0.25], [0.75, 0.25], [0.875, 0.125], [0.25, 0.75], [0.5, 0.5]]
    answers = routed(p, [0, 1, 2, 3, 0], index=index, chosen=[[0], [0], [0], [1], [1]])
    found = experts.of(answers, surest=2)["moe"]["surest"]
    assert found[0] == [
        {"index": 20, "label": 2, "probability": 0.875},
        {"index": 30, "label": 1, "probability": 0.75},
    ]
    assert [s["index"] for s in found[1]] == [10, 0]
    assert len(experts.of(answers)["moe"]["surest"][0]) == 3  # all that chose it, where they are fewer


def test_only_classes_that_the_data_set_has_are_counted_and_numbered():
    found = experts.of(routed(np.eye(2)[[0, 1, 1]], [0, 2, 3], lacking=(1,)))["moe"]
    assert found["classes"] == [[1, 0, 0], [0, 1, 1]]
    assert [s["label"] for s in found["surest"][1]] == [1, 2]


def test_one_example_one_expert_and_one_class():
    found = experts.of(routed([[1.0]], [2]))["moe"]
    assert (found["load"], found["importance"], found["entropy"], found["dead"]) == ([1], [1], 0, 0)
    assert found["mutual_information"] == found["mutual_information_by_chance"] == 0
    assert found["normalized_mutual_information"] is None
    assert "nothing" not in text_of("experts", {"moe": found}, CLASSES)


def test_a_network_without_experts_has_nothing_to_tell():
    answers = routed([[1.0]], [0])
    answers.routing.clear()
    assert experts.of(answers) == {} and text_of("experts", {}, CLASSES) == ""


@quick
@given(st.integers(0, 2**32 - 1), st.integers(2, 80), st.integers(1, 5), st.integers(2, 4))
def test_agreement_is_the_mean_adjusted_mutual_information_of_scikit_learn(seed, n, e, s):
    rng = np.random.default_rng(seed)
    choices = [rng.integers(0, e, n) for _ in range(s)]
    choices[1] = np.where(rng.random(n) < 0.7, e - 1 - choices[0], choices[1])
    # scikit-learn says 1 where both put all together or all apart; nothing is told by that, so it is left out.
    pairs = [
        sk.adjusted_mutual_info_score(a, b)
        for a, b in itertools.combinations(choices, 2)
        if {len(set(a)), len(set(b))} not in ({1}, {n})
    ]
    found = experts.agreement(choices)
    assert (found is None) == (not pairs)
    assert not pairs or found == pytest.approx(np.mean(pairs), abs=1e-8)


def test_agreement_does_not_depend_on_the_numbers_of_the_experts():
    rng = np.random.default_rng(3)
    one, other = rng.integers(0, 6, 300), rng.integers(0, 6, 300)
    order = rng.permutation(6)
    assert experts.agreement([one, order[one]]) == pytest.approx(1)
    assert experts.agreement([one, order[one], one]) == pytest.approx(1)
    assert experts.agreement([one, other]) == pytest.approx(experts.agreement([order[one], other]))
    assert abs(experts.agreement([one, other])) < 0.05


@pytest.mark.parametrize("choices", [[], [[0, 1, 0]], [[0, 0, 0], [0, 0, 0]], [[0, 0], [1, 1], [0, 0]], [[0], [1]]])
def test_no_agreement_where_nothing_can_disagree(choices):
    assert experts.agreement(choices) is None


def test_runs_that_set_the_same_one_of_many_apart_agree():
    assert experts.agreement([[0] * 1999 + [1], [1] * 1999 + [0]]) == pytest.approx(1)


def test_a_run_with_one_expert_left_agrees_with_no_other():
    assert experts.agreement([[0, 0, 0, 0], [0, 1, 0, 1]]) == pytest.approx(0, abs=1e-12)


def test_agreement_of_different_examples_is_refused():
    with pytest.raises(ValueError, match="2, 3 examples"):
        experts.agreement([[0, 1], [0, 1, 1]])


def test_the_text_names_the_classes_and_the_chance():
    answers = routed(np.eye(3)[[0, 0, 0, 1]], [3, 3, 0, 1])
    text = text_of("experts", experts.of(answers), CLASSES)
    lines = text.splitlines()
    assert lines[0].startswith(
        "moe: 3 experts, 1 selected, 1 dead (nobody's first choice), entropy 0.000 of at most 1.099 nats"
    )
    assert "0.811 bits" in lines[1] and "by chance" in lines[1] and "54.1 %" in lines[1]
    assert " ".join(lines[3].split()) == "0 75.0 % 75.0 % 75.0 % happiness 66.7 %, anger 33.3 %"
    assert lines[5].endswith("nothing")
