"""The ready-made studies: every arm is a network of its own that the config's checks accept."""

import re

import pytest
from flax import nnx

from expressnet_jax.ablation import sweep
from expressnet_jax.config import files as config_files
from expressnet_jax.models import canonical, expressnet
from tests.conftest import ROOT

FILES = sorted((ROOT / "configs" / "ablations").glob("*.py"))
STUDIES = {path.stem: config_files.call(path, "get_study", what="study") for path in FILES}
#: What a study's user has to give; no check opens the file.
GIVEN = {"init.backbone": "weights.h5"}


def arms(name, config=None):
    """The configs of a study's arms; ConfigError where one is none."""
    study = STUDIES[name]
    given = [(key, GIVEN[key]) for key in study.get("needs", {})]
    return {
        arm: config_files.load(config or study["config"], [*given, *settings.items()])
        for arm, settings in study["arms"].items()
    }


def parameters(config):
    return sum(canonical.sizes(nnx.eval_shape(lambda: expressnet.create(config))).values())


def test_all_studies_are_here():
    assert set(STUDIES) == {
        "experts_by_topk", "experts_flop_matched", "balance", "router", "parts", "kernels", "preprocessing",
        "augmentation", "pretrained", "worth",
    }  # fmt: skip
    assert not set(STUDIES) & set(config_files.available())  # no config to train by itself


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_complete_and_its_arms_are_different_networks_or_recipes(name):
    study, doc = STUDIES[name], next(path for path in FILES if path.stem == name).read_text().split('"""')[1]
    assert set(study) - {"needs"} == {"question", "config", "baseline", "arms"}
    assert study["question"].endswith("?") and study["baseline"] in study["arms"]
    assert sweep.ready_made(name)["seeds"] == 3
    assert all(type(value) is str for settings in study["arms"].values() for value in settings.values())
    assert all(isinstance(why, str) and why and "\n" not in why for why in study.get("needs", {}).values())
    made = list(arms(name).values())
    assert len(made) >= 3 and len(set(made)) == len(made)
    given = [(key, GIVEN[key]) for key in study.get("needs", {})]
    found = sweep.resolve(study["config"], given, study["arms"])
    assert [arm.name for arm in found.arms] == list(study["arms"]) and not found.left_out
    assert f"--study={name} " in doc and "Hardware:" in doc and re.search(r"Measured:\s(not yet run|.*\d)", doc)
    runs = len(study["arms"]) * 3
    assert f"{len(study['arms'])} settings x 3 seeds = {runs} runs" in doc


@pytest.mark.parametrize(
    ("name", "config"),
    [
        (name, config)
        for name in ("experts_by_topk", "balance", "router", "parts", "preprocessing", "augmentation")
        for config in ("fer2013", "rafdb", "affectnet", "ferplus", "synthetic_faces")
    ],
)
def test_those_for_any_config_fit_the_other_configs_too(name, config):
    made = list(arms(name, config).values())
    # The drawn faces are only mirrored: to remove what they do not have changes nothing, and a study leaves it out.
    repeated = 5 if (name, config) == ("augmentation", "synthetic_faces") else 0
    assert len(set(made)) == len(made) - repeated


def test_experts_of_equal_operations_have_the_parameters_that_the_study_says():
    made = arms("experts_flop_matched")
    base = parameters(made["4 experts, top 2"])
    doc = next(path for path in FILES if path.stem == "experts_flop_matched").read_text()
    assert f"baseline's {base:,}" in doc
    for name, config in made.items():
        moe, more = config.moe, parameters(config) - base
        if name != "dense, same parameters":
            assert moe.top_k * moe.hidden == 512
        if name in ("2 experts, top 1", "8 experts, top 4", "16 experts, top 8"):
            assert abs(more) <= 0.0016 * base
        if name != "4 experts, top 2":
            assert re.search(rf"{re.escape(name)}[^:\n]*: {re.escape(f'{more:+,}')}\b", doc), (name, more)
    dense = made["dense, same parameters"].moe
    assert dense.num_experts == 1 and dense.hidden == 4 * made["4 experts, top 2"].moe.hidden
    assert 0 < parameters(made["dense, same parameters"]) - base < 0.0045 * base


def test_experts_by_top_k_keep_their_width_and_the_numbers_of_kernels_are_right():
    made = arms("experts_by_topk")
    assert {config.moe.hidden for config in made.values()} == {256}
    assert {(config.moe.num_experts, config.moe.top_k) for config in made.values()} == {
        (1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (8, 1), (8, 2), (16, 1), (16, 2)
    }  # fmt: skip
    sizes = {name: parameters(config) for name, config in arms("kernels").items()}
    base = sizes["as they are"]
    doc = next(path for path in FILES if path.stem == "kernels").read_text()
    for number in (base, base - sizes["small in cnnfe1"], sizes["large in both"] - base):
        assert f"{number:,}" in doc
    assert arms("kernels")["as they are"] == config_files.load("fer2013_small")


def test_parts_are_removed_by_name():
    made = arms("parts")
    assert made["whole"] == config_files.load("fer2013_small")
    assert all(made[f"without {part}"].model.without == (part,) for part in
               ("cnnfe1", "cnnfe2", "resnet", "moe_cnn", "moe_expression"))  # fmt: skip
    for branch in ("cnnfe1", "cnnfe2", "resnet"):
        assert {"cnnfe1", "cnnfe2", "resnet"} & {*made[f"{branch} alone"].model.parts} == {branch}
    assert made["backbone"].model.network == "backbone"
