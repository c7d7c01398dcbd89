"""Which form a convolution takes: asked for by name, or the fastest that was measured."""

import dataclasses

import pytest

from expressnet_jax import target
from expressnet_jax.config import PRESETS, ConfigError
from expressnet_jax.config import files as config_files
from expressnet_jax.models import choice


def test_a_layer_s_own_form_comes_before_that_of_all():
    text = "direct,cnnfe1/conv1=fft, cnnfe2/conv1=auto"
    assert choice.asked(text, "cnnfe1/conv1") == "fft"
    assert choice.asked(text, "cnnfe1/conv2") == "direct"
    assert choice.asked(text, "cnnfe2/conv1") == ""
    assert choice.asked("auto", "cnnfe1/conv1") == choice.asked("cnnfe2/conv1=dft", "cnnfe1/conv1") == ""


def test_on_cpus_a_measured_layer_takes_its_own_row():
    for row in choice._MEASURED["cpu"]:
        shape = (row.taps, row.taps, row.d, row.f)
        for train, form in ((True, row.training), (False, row.inference)):
            assert choice.fastest((row.pixels,) * 2, shape, train=train) == form
        assert "fft" not in row  # with jax 0.11 on a CPU it can wait for its own thread pool for ever


@pytest.mark.parametrize("backend", ["cpu", "gpu", "tpu"])
def test_everywhere_the_large_kernels_are_transformed_and_those_of_3_pixels_are_not(backend):
    with target.compiling_for(backend):
        for taps, side, d, f in ((75, 224, 3, 8), (50, 112, 8, 16)):
            assert choice.fastest((side, side), (taps, taps, d, f), train=True) == "dft"
        for taps, side, d, f in ((25, 56, 16, 32), (15, 224, 3, 16)):  # a GPU's memory is too slow for a transform
            form = choice.fastest((side, side), (taps, taps, d, f), train=True)
            assert form == ("direct" if backend == "gpu" else "dft")
        for side, d, f in ((56, 64, 64), (28, 128, 128), (14, 256, 256), (7, 512, 512)):
            assert choice.fastest((side, side), (3, 3, d, f), train=True) == "direct"
        assert choice.fastest((56, 56), (1, 1, 64, 256), train=True) == "direct"


def test_the_target_is_this_machine_again_after_an_exception():
    before = target.platform()
    with pytest.raises(ValueError, match="refused"), target.compiling_for("tpu"):
        raise ValueError("refused")
    assert target.platform() == before != "tpu"


def test_the_line_for_the_log_names_every_layer_with_its_form():
    model = dataclasses.replace(PRESETS["paper"][0], convolution="cnnfe1/conv1=fft")
    line = choice.describe(model, train=True)
    assert "cnnfe1/conv1 75x75 fft" in line
    assert line.count("conv") == len(model.cnnfe1.kernels) + len(model.cnnfe2.kernels) + 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dtf", "did you mean dft?"),
        ("cnnfe1/conv9=fft", "no layer 'cnnfe1/conv9'"),
        ("cnnfe1/conv1=wavelet", "one of:"),
        ("cnnfe1/conv1=dft", "cnnfe1/conv1 has a stride"),
    ],
)
def test_an_unknown_form_or_layer_is_refused(text, said):
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        config_files.load("fer2013_small", [("model.convolution", text), ("model.cnnfe1.stride", "2")])


def test_a_strided_convolution_has_no_choice_and_the_next_reads_its_smaller_map():
    model = config_files.load("fer2013", [("model.cnnfe1.stride", "2"), ("model.image_size", "150")]).model
    found = {name: (side, kernel) for name, side, kernel in choice.layers(model) if name.startswith("cnnfe1")}
    assert list(found) == [f"cnnfe1/conv{i}" for i in range(2, 7)]
    assert found["cnnfe1/conv2"] == (37, (50, 50, 8, 16)) and found["cnnfe1/conv6"] == (2, (3, 3, 128, 256))
    backbone = config_files.load("fer2013", [("model.network", "backbone")]).model
    assert not list(choice.layers(backbone)) and choice.describe(backbone, train=True) == "convolutions: all direct"


def test_blocks_without_a_pool_keep_the_side_of_their_map():
    small = PRESETS["small"][0]
    changed = dataclasses.replace(small.cnnfe2, kernels=(3,) * 6, filters=(8,) * 6, unpooled=(1, 4))
    sides = [side for name, side, _ in choice.layers(dataclasses.replace(small, cnnfe2=changed)) if "cnnfe2" in name]
    assert sides == [48, 48, 24, 12, 12, 6]
