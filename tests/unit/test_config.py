"""Configs, overrides, durations: what is accepted, and what the one line says where something is not."""

import dataclasses

import pytest

from expressnet_jax.config import Clock, Config, ConfigError
from expressnet_jax.config import files as config_files
from expressnet_jax.runs import optimizer


def test_every_packaged_config_and_recipe_loads_and_is_valid():
    packaged = {
        *("affectnet", "fer2013", "fer2013_medium", "fer2013_small", "ferplus", "ferplus_small", "rafdb"),
        "synthetic_faces",
    }
    assert packaged <= set(config_files.available())
    published = [f"{name}:paper" for name in ("affectnet", "fer2013", "rafdb", "synthetic_faces")]
    for name in [*config_files.available(), *published, "affectnet:paper8", "affectnet:seven", "affectnet:pod"]:
        assert config_files.load(name).data.classes


def test_only_published_recipes_validate_on_their_test_split():
    for name in config_files.available():
        assert config_files.load(name).data.validation_split != config_files.load(name).data.test_split
    assert config_files.load("rafdb:paper").data.validation_split == "test"
    c = config_files.load("affectnet:paper").data
    assert (c.holdout, c.validation_fraction, c.holdout_seed, c.test_split) == ("random", 0.2, 52, "held_out")


def test_the_paper_recipe_is_the_published_one():
    c = config_files.load("fer2013:paper")
    assert (c.optimizer.name, c.optimizer.learning_rate, c.schedule.decay) == ("adam", 1e-4, 0.95)
    assert (c.batch_size, c.total, c.early_stop.patience, c.label_smoothing) == (32, "15epochs", 5, 0.1)
    assert (c.preprocess.color_order, c.preprocess.normalize) == ("bgr", "unit")
    assert c.augment == type(c.augment)()
    assert c.data.validation_split == c.data.test_split == "test"


def test_the_recipe_for_a_pod_is_32_pictures_a_chip_at_the_rate_of_lamb_for_8192():
    c = config_files.load("affectnet:pod")
    clock = Clock(c.batch_size, 287_651)
    assert clock.steps("1epochs") == 35 and clock.steps(c.schedule.warmup) == 176 and clock.steps(c.total) == 3160
    assert c.batch_size // 256 == c.model.batchnorm_group == 32
    rate = optimizer.schedule(c, Clock(c.batch_size, 287_651, 3160))
    assert [float(rate(s)) for s in (0, 88, 176, 3160)] == pytest.approx([0, 0.01, 0.02, 0], abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([("model.batchnorm_group", "48")], ["batch of 128", "model.batchnorm_group=48"]),
        ([("model.batchnorm_group", "64"), ("optimizer.accumulate", "4")], ["batch of 32", "group=64"]),
        ([("model.batchnorm_group", "-1")], ["batchnorm_group=-1"]),
        ([("optimizer.scaling", "squareroot")], ["scaling='squareroot'", "none, linear, sqrt"]),
        ([("optimizer.base_batch", "0")], ["base_batch=0", "above 0"]),
    ],
)
def test_settings_for_large_batches_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(ConfigError) as caught:
        config_files.load("fer2013", changes)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_overrides_are_read_as_the_kind_of_value_they_replace():
    pairs = [("moe.num_experts", "8"), ("optimizer.learning_rate", "1"), ("augment.flip", "true"),
             ("model.cnnfe2.kernels", "5,3"), ("model.cnnfe2.filters", "(8, 16)"), ("total", "7steps")]  # fmt: skip
    c = config_files.load("fer2013", pairs)
    assert c.moe.num_experts == 8 and c.optimizer.learning_rate == 1.0 and c.augment.flip is True
    assert c.model.cnnfe2.kernels == (5, 3) and c.model.cnnfe2.filters == (8, 16) and c.total == "7steps"


def test_a_preset_comes_before_the_sizes_beside_it():
    c = config_files.load("fer2013", [("model.image_size", "64"), ("model.preset", "small")])
    assert c.model.image_size == 64 and c.model.cnnfe1_width == 256 and c.moe.hidden == 256


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("moe.num_expert", "8", ["moe.num_expert", "did you mean moe.num_experts"]),
        ("optimzer.name", "sgd", ["did you mean optimizer.name"]),
        ("moe.num_experts", "many", ["moe.num_experts", "'many'", "whole number"]),
        ("moe", "8", ["moe is a section"]),
        ("optimizer.name", "adm", ["did you mean adam", "sgd"]),
        ("model.preset", "smal", ["did you mean small"]),
        ("data.sampling", "balance", ["did you mean balanced", "sqrt"]),
        ("data.also", "rafdb", ["data.also='rafdb'", "NAME=RATE"]),
        ("data.also", "rafdb=0", ["data.also='rafdb=0'", "above 0"]),
        ("data.also", "rafdb=1,ferplus=nan", ["'ferplus=nan'", "above 0"]),
        ("total", "3weeks", ["total", "'3weeks'", "15epochs"]),
        ("total", "50%", ["total", "percentage"]),
        ("batch_size", "0", ["batch_size=0"]),
        ("batch_size", "{[]: 1}", ["batch_size"]),
        ("model.image_size", "1", ["nothing of 1 pixel is left after 5 pools"]),
        ("model.cnnfe2.stride", "16", ["nothing of 224 pixels is left after 4 pools and a stride of 16"]),
        ("moe.top_k", "5", ["top_k=5", "num_experts=4"]),
        ("moe.load_loss", "0.1", ["load_loss=0.1", "noise_std"]),
        ("moe.router", "topk", ["did you mean top_k", "soft", "random"]),
        ("moe.implementation", "all2all", ["did you mean all_to_all", "dropless"]),
        ("moe.balance_loss", "-1", ["balance_loss=-1.0"]),
        ("model.conv_dropout", "1.0", ["conv_dropout=1.0", "below 1"]),
        ("mesh.expert", "3", ["num_experts=4", "mesh.expert=3"]),
        ("optimizer.accumulate", "3", ["batch_size=128", "accumulate=3"]),
        ("model.cnnfe1.kernels", "3,3", ["2 kernels", "6 filters"]),
        ("model.cnnfe1.kernels", "3,3,0,3,3,3", ["model.cnnfe1.kernels=0", "above 0"]),
        ("model.cnnfe2.unpooled", "2,5", ["model.cnnfe2.unpooled=2,5", "before the last, 5"]),
        ("model.cnnfe1.unpooled", "3,1", ["model.cnnfe1.unpooled=3,1", "in order"]),
        ("model.cnnfe1.unpooled", "1,1", ["model.cnnfe1.unpooled=1,1", "once"]),
        ("model.resnet.blocks", "3,4,6,-3", ["model.resnet.blocks=-3", "above 0"]),
        ("model.image_size", "8", ["8 pixels"]),
        ("data.classes", "anger", ["data.classes"]),
        ("augment.erase", "1.5", ["augment.erase=1.5", "probability"]),
        ("mesh.data", "0", ["mesh.data=0", "-1 for all devices"]),
        ("model.dtype", "3", ["model.dtype='3'", "float32, bfloat16"]),
        ("seed", "-1", ["seed=-1"]),
        ("seed", str(2**40), ["seed", "2^32"]),
        ("data.workers", "-1", ["data.workers=-1"]),
        ("optimizer.clip_norm", "-1", ["clip_norm=-1.0"]),
        ("optimizer.learning_rate", "1e999", ["learning_rate=inf", "finite"]),
        ("optimizer.name", "adam", ["adam takes no weight_decay", "adamw"]),
        ("model.resnet.stem_stride", "128", ["stride 128", "2 pixels"]),
    ],
)
def test_a_mistake_is_one_line_with_the_names_and_numbers(key, value, words):
    with pytest.raises(ConfigError) as caught:
        config_files.load("fer2013", [(key, value)])
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_an_unknown_config_names_the_nearest_one():
    with pytest.raises(ConfigError, match="did you mean fer2013"):
        config_files.load("fer213")
    for name in config_files.available():
        with pytest.raises(ConfigError, match="no recipe 'papr'"):
            config_files.load(f"{name}:papr")


def test_a_broken_config_file_is_one_line(tmp_path):
    path = tmp_path / "mine.py"
    head = "from expressnet_jax.config import default_config\ndef get_config(recipe):\n    c = default_config()\n"
    for text, word in {
        "import nothing_like_this\n": "nothing_like_this",
        head + "    c.optimzer.name = 'sgd'\n    return c\n": "optimzer",
        head + "    c.batch_size = 'many'\n    return c\n": "batch_size",
        head + "    return 1 / 0\n": "ZeroDivisionError",
        head + "    return {}\n": "not a ConfigDict",
        "x = 1\n": "get_config",
    }.items():
        path.write_text(text)
        with pytest.raises(ConfigError, match=word) as caught:
            config_files.load(str(path))
        assert "\n" not in str(caught.value)


def test_a_config_survives_json():
    c = config_files.load("fer2013_small")
    assert config_files.from_dict(dataclasses.asdict(c)) == c
    changed = dataclasses.replace(c, seed=3)
    assert config_files.differences(c, changed) == ["seed: 0 -> 3"]
    with pytest.raises(ConfigError, match="unknown config key seeds"):
        config_files.from_dict({"seeds": 1})


def test_further_data_sets_are_parsed_with_their_rates():
    c = config_files.load("fer2013", [("data.also", "rafdb=0.5, ferplus=2")])
    assert c.data.further == [("rafdb", 0.5), ("ferplus", 2.0)] and Config().data.further == []


def test_durations():
    clock = Clock(batch_size=32, examples=1000, total_steps=400)
    assert [clock.steps(d) for d in ("30steps", "2epochs", "1 epoch", "320examples", "5%", "0steps")] == [
        30, 62, 31, 10, 20, 0,
    ]  # fmt: skip
    assert clock.steps("1examples") == 1  # something rather than nothing
    assert clock.epoch(125) == 4.0
    assert Config().total == "15epochs"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([("moe.renormalize", "true"), ("moe.top_k", "1")], ["renormalize", "top_k=1"]),
        ([("moe.router", "random"), ("moe.z_loss", "0.1")], ["router=random", "balance_bias"]),
    ],
)
def test_settings_of_the_router_that_could_do_nothing_are_refused(changes, words):
    with pytest.raises(ConfigError) as caught:
        config_files.load("fer2013", changes)
    assert all(word in str(caught.value) for word in words)


START = """from expressnet_jax.config import default_config
def get_config(recipe=None):
    c = default_config("small")
"""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("c.moe.num_expert = 3", "line 4: unknown config key moe.num_expert; did you mean num_experts?"),
        ("c.moe.update(top_k=9)", "line 4: moe.top_k=9 is more than moe.num_experts=4"),
        ("c.total = '9epocs'", "line 4: total='9epocs' is not a duration"),
        ("c.model.preset = 'smal'", "line 4: model.preset='smal'; did you mean small?"),
        ("default_config('smal')", "line 4 cannot be used: no preset 'smal'; did you mean small?"),
        ("c.batch_size = 1 / 0", "line 4 cannot be used: ZeroDivisionError"),
        ("c.batch_size = 1 +", "line 4 cannot be used: SyntaxError"),
    ],
)
def test_a_mistake_in_a_file_names_its_line_and_the_nearest_name(line, said, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f"{START}    {line}\n    c.data.classes = ('a', 'b')  # not total, top_k\n    return c\n")
    with pytest.raises(ConfigError) as error:
        config_files.load(str(path))
    assert f"{path}, {said}" in str(error.value)
    with pytest.raises(ConfigError, match=r"no config '.*/mine_.py'; did you mean mine.py\?"):
        config_files.load(str(tmp_path / "mine_.py"))


def test_a_mistake_of_the_command_line_blames_no_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f"{START}    c.data.classes, c.moe.top_k = ('a', 'b'), 9\n    return c\n")
    assert config_files.load(str(path), [("moe.num_experts", "12")]).moe.top_k == 9
    with pytest.raises(ConfigError, match=r"^moe.top_k=9 is more than moe.num_experts=2$"):
        config_files.load(str(path), [("moe.num_experts", "2")])
