"""Which settings a study compares: grids, lists, random draws; what does not fit is left out and named."""

import numpy as np
import pytest

from expressnet_jax import cli
from expressnet_jax.ablation import sweep
from expressnet_jax.commands import ablate
from expressnet_jax.config import ConfigError
from tests.conftest import TINY


def test_a_grid_has_every_combination_the_last_key_fastest():
    found = sweep.grid("moe.num_experts=1,2;moe.top_k=1,2")
    pairs = [(one["moe.num_experts"], one["moe.top_k"]) for one in found]
    assert pairs == [("1", "1"), ("1", "2"), ("2", "1"), ("2", "2")]


def test_commas_in_brackets_belong_to_a_value():
    found = sweep.grid("model.cnnfe1.kernels=(5,3),(3,3) ; augment.flip=true,")
    assert [one["model.cnnfe1.kernels"] for one in found] == ["(5,3)", "(3,3)"]
    assert {one["augment.flip"] for one in found} == {"true"}


@pytest.mark.parametrize("text", ["", "moe.top_k", "moe.top_k=", "=1", "a=1;a=2", ";"])
def test_what_is_no_grid_is_one_line(text):
    with pytest.raises(ConfigError) as raised:
        sweep.grid(text)
    assert "--sweep" in str(raised.value) and "\n" not in str(raised.value)


def test_random_draws_are_the_same_again_and_inside_their_bounds():
    text = "optimizer.learning_rate=log:1e-4:1e-2;augment.crop=uniform:0:0.3;moe.num_experts=4,8"
    found = sweep.draws(text, 200)
    assert found == sweep.draws(text, 200) != sweep.draws(text, 200, seed=1)
    rates = np.array([float(one["optimizer.learning_rate"]) for one in found])
    assert rates.min() >= 1e-4 and rates.max() <= 1e-2
    assert np.mean(rates < 1e-3) == pytest.approx(0.5, abs=0.12)  # even in the logarithm
    crops = np.array([float(one["augment.crop"]) for one in found])
    assert 0 <= crops.min() < 0.05 and 0.25 < crops.max() <= 0.3
    assert {one["moe.num_experts"] for one in found} == {"4", "8"}


@pytest.mark.parametrize("bounds", ["log:0:1", "log:1:1", "uniform:2:1", "log:1", "uniform:a:b"])
def test_bounds_that_are_none_are_one_line(bounds):
    with pytest.raises(ConfigError, match="LOW below HIGH"):
        sweep.draws(f"optimizer.learning_rate={bounds}", 2)


def test_a_list_has_a_setting_a_line(tmp_path):
    path = tmp_path / "settings.txt"
    path.write_text("# two\nmoe.top_k=1\n\n--config.moe.top_k=2 --config.moe.num_experts=8  # eight\n")
    assert sweep.listed(path) == [{"moe.top_k": "1"}, {"moe.top_k": "2", "moe.num_experts": "8"}]


@pytest.mark.parametrize("text", ["moe.top_k 1\n", "\n", "=3\n", None])
def test_a_list_that_is_none_is_one_line(tmp_path, text):
    path = tmp_path / "settings.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match="--list"):
        sweep.listed(path)


def test_names_use_as_little_of_the_keys_as_tells_them_apart():
    found = sweep.named([{"moe.top_k": "1", "optimizer.name": "sgd"}, {"moe.top_k": "2", "optimizer.name": "sgd"}])
    assert list(found) == ["top_k=1 name=sgd", "top_k=2 name=sgd"]
    found = sweep.named([{"optimizer.name": "sgd", "schedule.name": "cosine"}])
    assert list(found) == ["optimizer.name=sgd schedule.name=cosine"]


def test_what_does_not_fit_is_left_out_with_its_reason():
    settings = sweep.named(sweep.grid("moe.num_experts=1,2;moe.top_k=1,2"))
    found = sweep.resolve(TINY, [], settings)
    assert [arm.name[12:] for arm in found.arms] == ["1 top_k=1", "2 top_k=1", "2 top_k=2"]
    (left_out,) = found.left_out
    assert left_out["arm"] == "num_experts=1 top_k=2" and "more than moe.num_experts=1" in left_out["why"]


def test_settings_that_come_to_the_same_are_compared_once():
    found = sweep.resolve(TINY, [], {"four": {"moe.num_experts": "4"}, "two": {"moe.num_experts": "2"}, "none": {}})
    assert [arm.name for arm in found.arms] == ["four", "two"]
    assert found.left_out == [{"arm": "none", "why": "the same settings as four"}]


@pytest.mark.parametrize(
    "settings",
    [
        {"a": {"moe.experts": "1"}, "b": {"moe.experts": "2"}},  # no such key
        {"a": {"moe.num_experts": "2"}},  # nothing to compare with
        {"a": {"moe.num_experts": "x"}, "b": {}},
        {"a": {"seed": "1"}, "b": {"seed": "2"}},
    ],
)
def test_studies_that_compare_nothing_are_refused(settings):
    with pytest.raises(ConfigError) as raised:
        sweep.resolve(TINY, [], settings)
    assert "\n" not in str(raised.value)


def test_the_baseline_is_the_config_unchanged_or_the_one_asked_for():
    arms = sweep.resolve(TINY, [], sweep.named(sweep.grid("moe.num_experts=2,4,8"))).arms
    assert sweep.baseline(arms, TINY, [], None) == "num_experts=4"  # what tests/tiny.py has
    assert sweep.baseline(arms, TINY, [("moe.top_k", "1")], None) == "num_experts=2"  # none: the first
    assert sweep.baseline(arms, TINY, [], "num_experts=8") == "num_experts=8"
    with pytest.raises(ConfigError, match="did you mean num_experts=8"):
        sweep.baseline(arms, TINY, [], "num_experts=88")


def test_a_study_file_of_ones_own_and_its_mistakes(tmp_path):
    path = tmp_path / "mine.py"
    facts = {"question": "?", "config": "x", "baseline": "a", "arms": {"a": {}}}
    path.write_text(f"def get_study():\n    return {facts}\n")
    assert sweep.ready_made(str(path))["name"] == "mine"
    facts["arms"] = {"a": {"moe.top_k": 1, "augment.flip": True, "model.cnnfe1.kernels": (5, 3)}}
    path.write_text(f"def get_study():\n    return {facts}\n")
    written = {"moe.top_k": "1", "augment.flip": "true", "model.cnnfe1.kernels": "(5,3)"}  # as on the command line
    assert sweep.ready_made(str(path))["arms"] == {"a": written}
    for text, words in [
        ("def get_study():\n    return None\n", "it is not an object"),
        (f"def get_study():\n    return {facts | {'arms': ['a']}}\n", "arms is not an object"),
        (f"def get_study():\n    return {facts | {'arms': {'a': 'x'}}}\n", "arms.a is not an object"),
        (f"def get_study():\n    return {facts | {'seeds': 'three'}}\n", "seeds is not a whole number"),
        ("def get_study():\n    return {'arms': {}}\n", "question is missing"),
        ("def get_study():\n    return 1 / 0\n", "ZeroDivisionError"),
        ("", "get_study"),
    ]:
        path.write_text(text)
        with pytest.raises(ConfigError, match=words):
            sweep.ready_made(str(path))
    with pytest.raises(ConfigError, match="no study 'missing'"):
        sweep.ready_made("missing")


def test_random_draws_keep_the_unchanged_config_whatever_they_are_compared_with(tmp_path):
    words = ["ablate", f"--config={TINY}", "--sweep", "seed=log:1e-3:1", "--random", "3", "--out", str(tmp_path)]
    sets = []
    for more in ([], ["--baseline", "unchanged"]):
        options = cli.parser().parse_args([*words, *more])
        sets.append(list(ablate._own(options)["arms"]))
    assert sets[0] == sets[1] and sets[0][0] == "unchanged" and len(sets[0]) == 4
