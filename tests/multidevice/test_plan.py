"""Plans against what compilers make: the prediction on CPU meshes of 1 to 8 devices, and one TPU compiled for real."""

import itertools
import json

import pytest

from tests.conftest import TINY, on_eight, separate

MESHES = ["1x1", "2x1", "8x1", "2x4", "4x2,mesh.shard_optimizer=true", "1x4,moe.implementation=all_to_all",
          "4x1,model.convolution=dft"]  # fmt: skip


@pytest.fixture(scope="module")
def optimized():
    """What is planned is the program as users compile it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "false")
        yield


@pytest.fixture(scope="module")
def planned():
    done = on_eight("tests.multidevice.planned", *MESHES)  # collectives and arrays do not depend on optimizations
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_the_predicted_collectives_are_those_of_the_compiled_programs(planned):
    """Every kind, every size of group, all bytes but a few scalars."""
    for name, found in planned.items():
        predicted, compiled = found["predicted"], found["compiled"]
        large = [{key for key, size in sums.items() if size > 64} for sums in (predicted, compiled)]
        assert large[0] == large[1], name
        for key, size in predicted.items():
            assert size == pytest.approx(compiled[key], rel=1e-3, abs=64), (name, key)
    assert planned["1x1"]["predicted"] == {} == planned["1x1"]["compiled"]
    assert len(planned["2x4"]["predicted"]) >= 5


def test_the_predicted_ratio_of_two_meshes_is_that_of_their_programs(planned):
    meshes = [name for name in MESHES if name != "1x1"]
    for one, other in itertools.combinations(meshes, 2):
        ratios = [
            sum(planned[one][which].values()) / sum(planned[other][which].values())
            for which in ("predicted", "compiled")
        ]
        assert ratios[0] == pytest.approx(ratios[1], rel=2e-3), (one, other)
    for one, other in itertools.combinations(MESHES, 2):
        ratios = [planned[one][which] / planned[other][which] for which in ("predicted_arguments", "arguments")]
        assert ratios[0] == pytest.approx(ratios[1], rel=1e-3), (one, other)


def test_the_command_compiles_for_cpus_and_says_where_the_memory_goes(optimized):
    parts = ["--config.batch_size=16", "--config.optimizer.accumulate=4"]
    done = separate("plan", f"--config={TINY}", "--cpus=2", *parts, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    own = found["memory"]["compiler"]
    assert found["kind"] == "compiled, not run" and found["config"]["devices"] == 2
    assert found["memory"]["total"] == own["argument"] + own["output"] - own["alias"] + own["temp"] + own["code"]
    assert found["memory"]["total"] == sum(found["memory"]["parts"].values())
    assert {row["axis"] for row in found["collectives"]} == {"data"} and "bound" not in found
    assert "DOES NOT FIT" not in done.stderr and "all-reduce" in done.stderr
    # The gradients of a batch in parts are summed in a loop, whose turns count.
    compiled, predicted = (sum(row["bytes"] for row in rows) for rows in (
        found["collectives"], found["predicted"]["collectives"]))  # fmt: skip
    assert any(row["loop"] == "4 turns" for row in found["collectives"])
    assert compiled == pytest.approx(predicted, abs=64)


def test_this_machines_own_step_is_predicted_compiled_and_run(optimized):
    done = separate("plan", f"--config={TINY}", "--here", "--config.batch_size=8", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kind"] == "compiled, and run" and found["memory"]["compiler"]["temp"] > 0
    measured = found["measured"]
    assert measured["images_per_second"] == pytest.approx(8e3 / measured["step_ms"]["median"], rel=1e-2)
    assert measured["peak_memory_bytes"] is None  # CPUs do not count it
    head, memory, *_, speed = next(part for part in done.stderr.split("\n\n") if "measured\n" in part).splitlines()[-5:]
    assert head.split() == ["predicted", "compiled", "measured"] and memory.split()[-1] == "?"
    assert speed.split() == ["images/s,", "at", "most", "?", "?", f"{measured['images_per_second']:,.0f}"]


#: Sizes whose arithmetic is nearly all in convolutions and matrix products; libtpu takes long for larger kernels.
WIDE = {
    "model.convolution": "direct", "model.cnnfe1.kernels": "(5, 3)", "model.cnnfe2.kernels": "(3, 3)",
    "model.cnnfe1.filters": "(96, 128)", "model.cnnfe2.filters": "(96, 128)",
    "model.resnet.stem_filters": "32", "model.resnet.filters": "(32, 64)", "model.cnnfe1_width": "64",
    "model.fuse_width": "64", "moe.hidden": "64", "augment.crop": "0", "augment.shift": "0", "augment.rotate": "0",
    "augment.mixup": "0", "augment.erase": "0", "augment.brightness": "0", "model.conv_dropout": "0",
    "batch_size": "256",
}  # fmt: skip


def taps(pixels, kernel, stride=1):
    """Pairs of an output pixel and a tap of its kernel that do not lie on padding, along one axis (SAME padding)."""
    out = -(-pixels // stride)
    before = max((out - 1) * stride + kernel - pixels, 0) // 2
    return sum(0 <= o * stride + k - before < pixels for o in range(out) for k in range(kernel))


def by_hand():
    """Floating-point operations of a training step for one picture of the network of WIDE: 2 for a multiply-add, three
    times for a layer with both gradients, twice for one that sees the picture."""

    def conv(pixels, kernel, d, f, stride=1, passes=3):
        return passes * 2 * taps(pixels, kernel, stride) ** 2 * d * f

    extractors = conv(32, 5, 3, 96, passes=2) + conv(16, 3, 96, 128)
    extractors += conv(32, 3, 3, 96, passes=2) + conv(16, 3, 96, 128)
    # Stem of stride 2 to 16 pixels, 3x3 pool of stride 2 to 7, a stage of 7 and one of 4 pixels, one block each.
    resnet = conv(32, 3, 3, 32, stride=2, passes=2)
    resnet += conv(7, 1, 32, 32) + conv(7, 3, 32, 32) + conv(7, 1, 32, 128) + conv(7, 1, 32, 128)
    resnet += conv(4, 1, 128, 64) + conv(4, 3, 64, 64) + conv(4, 1, 64, 256) + conv(4, 1, 128, 256)
    dense = 16 * 16 * 128 * 64 + (128 + 256) * 64 + 2 * (64 * 4 + 4 * 64 * 64) + 2 * 64 * 8
    return extractors + resnet + 3 * 2 * dense


@pytest.fixture(scope="module")
def for_tpu(optimized):
    """The one test program that libtpu compiles, with the least effort: no TPU is needed."""
    wide = [f"--config.{key}={value}" for key, value in WIDE.items()]
    done = separate("plan", f"--config={TINY}", "--topology", "v5e:2x2", "--fast", "--json", *wide)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_a_tpu_that_is_not_here_is_compiled_for(for_tpu):
    found, said = for_tpu
    own, memory = found["memory"]["compiler"], found["memory"]
    assert memory["total"] == own["argument"] + own["output"] - own["alias"] + own["temp"] + own["code"]
    assert memory["total"] == sum(memory["parts"].values()) and memory["fits"] and memory["capacity"] == 16 << 30
    assert found["config"]["devices"] == 4 and found["config"]["batch_per_device"] == 64
    assert {row["axis"] for row in found["collectives"]} == {"data"}
    bound = found["bound"]
    assert 0 < bound["step_ms"]["overlapped"] <= bound["step_ms"]["not_overlapped"]
    assert [row["chips"] for row in found["scaling"]] == [1, 2, 4]
    assert found["kind"] == "compiled with the least effort, not run" and "  - compiled with the least effort" in said
    assert "not measured" in said and "Traceback" not in said


def test_its_arithmetic_is_that_of_the_layers(for_tpu):
    found, _ = for_tpu
    assert found["arithmetic"]["flops_per_image"] == pytest.approx(by_hand(), rel=0.05)
    assert found["predicted"]["arithmetic"]["flops_per_image"] == pytest.approx(by_hand(), rel=0.01)


def test_a_shape_that_libtpu_does_not_know_is_one_line(optimized):
    done = separate("plan", f"--config={TINY}", "--config.batch_size=15", "--topology", "v5e:3x5")
    assert done.returncode == 1 and "v5e:3x5" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def test_what_does_not_fit_is_refused_with_the_compilers_own_figures(optimized):
    done = separate(
        "plan", f"--config={TINY}", "--config.augment.mixup=0", "--topology", "v5e:2x2", "--config.mesh.data=1",
        f"--config.batch_size={1 << 20}", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    memory = json.loads(done.stdout)["memory"]
    assert not memory["fits"] and "DOES NOT FIT" in done.stderr and "RESOURCE_EXHAUSTED" in memory["refused"]
    assert memory["needed"] > 16 << 30 > memory["compiler_capacity"] > 15 << 30
