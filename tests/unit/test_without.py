"""Networks with parts removed: their sizes by a formula of their own, that everything left learns, what is refused."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from data_pipelines.common.errors import DataError
from expressnet_jax.checkpoint import weight_import
from expressnet_jax.checkpoint.weight_files import WeightsError
from expressnet_jax.config import Clock, ConfigError, to_dict
from expressnet_jax.config import files as config_files
from expressnet_jax.evaluation import answers as answering
from expressnet_jax.export import artifact, compare, from_run, inspection, model_card, onnx_format
from expressnet_jax.models import canonical, choice, cost, expressnet, inference
from expressnet_jax.plan import search, trace
from expressnet_jax.runs import folder as run_folder
from expressnet_jax.runs import optimizer as optimizers
from expressnet_jax.runs import restore
from expressnet_jax.runs import state as states
from expressnet_jax.train import step as steps
from tests import networks
from tests.conftest import TINY

#: What is removed, and the parts and MoE layers that are then left.
CASES = {
    "": ("cnnfe1 cnnfe2 fuse moe_cnn moe_expression resnet", "moe_cnn moe_expression"),
    "cnnfe1": ("cnnfe2 fuse moe_expression resnet", "moe_expression"),
    "cnnfe2": ("cnnfe1 fuse moe_cnn moe_expression resnet", "moe_cnn moe_expression"),
    "resnet": ("cnnfe1 cnnfe2 fuse moe_cnn moe_expression", "moe_cnn moe_expression"),
    "moe_cnn": ("cnnfe1 cnnfe2 fuse moe_expression resnet", "moe_expression"),
    "moe_expression": ("cnnfe1 cnnfe2 fuse moe_cnn resnet", "moe_cnn"),
    "moe_cnn,moe_expression": ("cnnfe1 cnnfe2 fuse resnet", ""),
    "cnnfe2,resnet": ("cnnfe1 moe_cnn", "moe_cnn"),
    "cnnfe1,cnnfe2": ("fuse moe_expression resnet", "moe_expression"),
    "cnnfe1,resnet,moe_expression": ("cnnfe2 fuse", ""),
}
SINGLE = [case for case in CASES if case and "," not in case]


#: Widths that all differ, so that one in the place of another is seen; little to compile.
SMALL = {
    "model.cnnfe1_width": "10", "model.fuse_width": "12", "moe.hidden": "14", "model.image_size": "16",
    "model.resnet.stem_pool": "false", "model.resnet.blocks": "2", "model.resnet.filters": "4",
    "model.convolution": "direct",
    **{f"augment.{name}": "0" for name in ("crop", "shift", "rotate", "brightness", "erase", "mixup")},
    "model.conv_dropout": "0", "model.dense_dropout": "0",
}  # fmt: skip


def config(without="", *changes):
    return config_files.load(TINY, [*SMALL.items(), ("model.without", without), *changes])


def images(c, count=4):
    side = c.model.image_size
    return np.random.default_rng(0).random((count, side, side, 3), np.float32)


def extractor(spec):
    d, total = 3, 0
    for taps, f in zip(spec.kernels, spec.filters, strict=True):
        total += taps * taps * d * f + f + 4 * f  # the kernel, its bias, and BatchNorm's four vectors
        d = f
    return total


def residual(spec):
    d = spec.stem_filters
    total = spec.stem_kernel**2 * 3 * d + 4 * d
    for blocks, f in zip(spec.blocks, spec.filters, strict=True):
        total += 4 * d * f + 16 * f  # the first block's projection
        for _ in range(blocks):
            total += d * f + 9 * f * f + 4 * f * f + 4 * (f + f + 4 * f)
            d = 4 * f
    return total


def by_formula(c, parts):
    """Numbers of each part, from the sizes in the config alone."""
    model, moe, classes = c.model, c.moe, len(c.data.classes)
    side = model.image_size // 2 ** (len(model.cnnfe1.kernels) - 1)
    flat, last = side**2 * model.cnnfe1.filters[-1], 4 * model.resnet.filters[-1]
    fused = model.cnnfe2.filters[-1] * ("cnnfe2" in parts) + last * ("resnet" in parts)

    def mixture(d):
        return d * moe.num_experts + moe.num_experts + moe.num_experts * (d * moe.hidden + moe.hidden)

    read = moe.hidden if "moe_cnn" in parts else model.cnnfe1_width * ("cnnfe1" in parts)
    read += moe.hidden if "moe_expression" in parts else model.fuse_width * ("fuse" in parts)
    sizes = {
        "cnnfe1": extractor(model.cnnfe1) + flat * model.cnnfe1_width + model.cnnfe1_width,
        "cnnfe2": extractor(model.cnnfe2), "resnet": residual(model.resnet),
        "fuse": fused * model.fuse_width + model.fuse_width,
        "moe_cnn": mixture(model.cnnfe1_width), "moe_expression": mixture(model.fuse_width),
    }  # fmt: skip
    return {name: size for name, size in sizes.items() if name in parts} | {"head": read * classes + classes}


@functools.cache
def whole():
    return cost.of_config(config())


@pytest.mark.parametrize("without", CASES)
def test_parameters_are_those_of_what_is_left_and_the_layers_are_named(without):
    c, (parts, routed) = config(without), CASES[without]
    found = cost.of_config(c)
    assert found["parts"] == by_formula(c, parts.split())
    assert expressnet.routed_layers(c) == tuple(routed.split()) and sorted(c.model.parts) == parts.split()
    assert (found["flops_per_image"] < whole()["flops_per_image"]) == bool(without)
    layers = {name.split("/")[0] for name, _, _ in choice.layers(c.model)}
    assert layers == {"cnnfe1", "cnnfe2"} & set(parts.split())


def test_the_formula_gives_the_published_network_its_size():
    c = config_files.load("fer2013:paper")
    sizes = canonical.sizes(nnx.eval_shape(lambda: expressnet.create(c)))
    assert sum(by_formula(c, CASES[""][0].split()).values()) == sum(sizes.values())


@pytest.mark.parametrize("without", [*SINGLE, "moe_cnn,moe_expression", "cnnfe2,resnet"])
def test_outputs_are_finite_and_gradients_reach_all_that_is_left(without):
    c = config(without, ("moe.router", "soft"))
    graph, params, stats = nnx.split(networks.network(c), nnx.Param, nnx.BatchStat)

    @jax.jit
    def run(params, x):
        def loss(params):
            output = nnx.merge(graph, params, stats, copy=True)(x, train=True)
            targets = jax.nn.one_hot(jnp.arange(len(x)), len(c.data.classes))
            return optax.softmax_cross_entropy(output.logits, targets).mean(), output

        return jax.grad(loss, has_aux=True)(params)

    slopes, output = run(params, images(c))
    assert output.logits.shape == (4, 8) and bool(jnp.isfinite(output.logits).all())
    assert set(output.features) == set(CASES[without][0].split())
    assert set(output.routing) == set(CASES[without][1].split())
    still = {
        "/".join(map(str, path)) for path, value in nnx.to_flat_state(slopes) if not np.abs(value.get_value()).max() > 0
    }
    assert not still


@pytest.mark.parametrize("without", ["moe_cnn,moe_expression", "cnnfe1"])
def test_a_training_step_and_an_evaluation_run(without):
    c = config(without, ("moe.balance_loss", "0.1"))
    clock = Clock(c.batch_size, 160, 24)
    optimizer = optimizers.create(c, clock)
    state = networks.state(c, networks.network(c))
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (16, 16, 16, 3), np.uint8), "label": rng.integers(0, 8, 16, np.int32),
        "mask": np.ones(16, bool), "index": np.arange(16, dtype=np.int32),
    }  # fmt: skip
    step = jax.jit(steps.train_step(c, states.graph(c), optimizer, optimizers.schedule(c, clock)))
    after, sums = step(state, steps.zero_sums(c), batch)
    assert float(sums["steps"]) == 1 and float(sums["count"]) == 16 and np.isfinite(float(sums["loss"]))
    assert {key.split("/")[0] for key in sums if "/" in key} == set(CASES[without][1].split())
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), after.params, state.params)
    assert all(moved["head"].values())
    logits = np.asarray(jax.jit(answering.step(c))(after, batch)["logits"])
    assert logits.shape == (16, 8) and np.isfinite(logits).all()


@pytest.mark.parametrize(
    ("without", "normalized"),
    [("cnnfe1", "false"), ("cnnfe2,resnet", "false"), ("cnnfe2,moe_cnn", "false"), ("", "true")],
)
def test_prepared_exported_and_imported_it_answers_as_before(without, normalized, tmp_path):
    c = config(
        without, ("model.convolution", "auto"), ("model.cnnfe1.kernels", "15,9"), ("model.dense_batchnorm", normalized)
    )
    model = networks.network(c)
    weights = canonical.to_canonical(model)
    pictures = compare.random_pictures(0, 3, 20, 24)
    expected = jax.jit(lambda images: artifact.answer(c)(model, images))(pictures)
    assert set(expected) == set(artifact.outputs(c))
    onnx_format.write(tmp_path / "model.onnx", c, weights)
    prepared = inference.prepare(networks.network(c), c)
    runs = [onnx_format.load(tmp_path / "model.onnx"), jax.jit(lambda images: artifact.answer(c)(prepared, images))]
    for run in runs:
        found = run(pictures)
        assert set(found) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, atol=1e-5 * float(np.abs(value).max()), err_msg=name)
    facts = from_run.facts(inspection.Trained(c, 1, {}, "raw", weights), tmp_path, str(tmp_path))
    meta = {
        "calibration": None, "stored": None,
        "run": facts, "config": to_dict(c), "classes": c.data.classes, "dtype": "float32", "weights": "raw",
        "step": 1, "digest": "0", "compared": {}, "quantized": {},
        "real_pictures": 1, "faces": None,
    }  # fmt: skip
    less = f" without {without.replace(',', ', ')}" if without else ""
    assert f"ExpressNet-MoE{less}\n" in model_card.card(meta, {}, artifact.outputs(c))
    artifact.write_weights(tmp_path / "model.safetensors", weights, "float32", artifact.about_weights(c))
    other = networks.filled(c, {name: np.zeros_like(value) for name, value in weights.items()})
    report = weight_import.apply(other, weight_import.load(tmp_path / "model.safetensors", c))
    assert not report.left and canonical.digest(canonical.to_canonical(other)) == canonical.digest(weights)
    other = networks.network(config())
    with pytest.raises(WeightsError, match=r"does not fit: .*init\.strict=false"):
        weight_import.apply(other, weight_import.load(tmp_path / "model.safetensors", config()))


@pytest.mark.parametrize("without", ["cnnfe1", "cnnfe2,resnet", "moe_cnn,moe_expression"])
def test_a_plan_counts_what_is_left(without):
    c = config(without)
    params = jax.eval_shape(lambda: nnx.split(expressnet.create(c), nnx.Param, ...)[1])
    rows = trace.traffic(c, 2, 1, "cpu")
    sizes = {row["what"]: row["bytes"] for row in rows}
    learned = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert sizes["gradients"] + sizes.get("experts' gradients", 0) == 4 * learned
    assert ("experts' gradients" in sizes) == bool(CASES[without][1])
    assert 0 < trace.kept(c, "cpu") < trace.kept(config(), "cpu")
    if not CASES[without][1]:
        with pytest.raises(ConfigError, match="--splits goes with a network that has experts"):
            search.splits(c, None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.without": "cnnfe3"}, ["no part 'cnnfe3'", "did you mean cnnfe", "moe_expression"]),
        ({"model.without": "fuse"}, ["no part 'fuse'", "one of: cnnfe1, cnnfe2, resnet"]),
        ({"model.without": "3"}, ["model.without=3", "not a text"]),
        ({"model.without": "cnnfe1,cnnfe2,resnet"}, ["leaves no branch"]),
        ({"model.without": "cnnfe1,cnnfe1"}, ["model.without=cnnfe1,cnnfe1", "once", ": cnnfe1"]),
        ({"model.without": "moe_cnn,cnnfe2"}, ["in their order", ": cnnfe2,moe_cnn"]),
        ({"model.without": "cnnfe1,moe_cnn"}, ["goes with another: cnnfe1"]),
        ({"model.without": "cnnfe2,resnet,moe_expression"}, ["goes with another: cnnfe2,resnet"]),
        ({"model.without": "cnnfe1", "model.network": "backbone"}, ["model.network=backbone"]),
        ({"model.without": "moe_cnn,moe_expression", "mesh.expert": "2"}, ["no experts", "mesh.expert=2"]),
        ({"model.without": "resnet", "init.backbone": "some.h5"}, ["no ResNet", "init.backbone=some.h5"]),
        ({"model.without": "cnnfe1", "model.convolution": "cnnfe1/conv1=fft,auto"}, ["no layer 'cnnfe1/conv1'"]),
    ],
)
def test_settings_that_make_no_network_are_refused_in_one_line(changes, words):
    with pytest.raises(ConfigError) as caught:
        config_files.load(TINY, list(changes.items()))
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_the_command_line_names_parts_and_an_empty_text_names_none():
    assert config("cnnfe1,moe_expression").model.without == ("cnnfe1", "moe_expression")
    assert config("").model.without == ()
    assert config("moe_cnn", ("mesh.expert", "2")).mesh.expert == 2


def test_a_run_from_before_the_setting_has_all_parts_and_starts_none_with_others(tmp_path):
    tree = json.loads(json.dumps(to_dict(config())))
    del tree["model"]["without"]
    assert config_files.from_dict(tree) == config()
    (tmp_path / "config.json").write_text(json.dumps(tree))
    assert run_folder.read_config(tmp_path) == config()
    c = config("cnnfe1")
    c = dataclasses.replace(c, init=dataclasses.replace(c.init, run=str(tmp_path)))
    with pytest.raises(DataError, match=r"has the parts cnnfe1, .* and this network cnnfe2, .* same parts"):
        restore.model_from_run(c)
