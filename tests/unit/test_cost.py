"""What networks cost: the published one's figures, and operations counted by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from expressnet_jax.config import files as config_files
from expressnet_jax.models import cost


def traced(function, *shapes):
    return jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)).jaxpr


def test_the_published_network_costs_what_it_did():
    found = cost.of_config(config_files.load("fer2013:paper"))
    assert (found["parameters"], found["batch_stats"]) == (35_931_871, 55_120)
    assert found["flops_per_image"] == 34_543_810_624
    assert sum(found["parts"].values()) == found["parameters"] and found["parts"]["resnet"] == 23_561_152
    assert found["classes"] == ["anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"]


@pytest.mark.parametrize(("padding", "taps"), [(True, (5 * 3) ** 2), (False, (5 * 3 - 2) ** 2)])
def test_padding_counts_only_where_it_is_asked_for(padding, taps):
    def convolve(x, kernel):
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    found = cost.count(traced(convolve, (2, 5, 5, 4), (3, 3, 4, 6)), padding=padding)
    assert found == {"convolutions": 2 * taps * 2 * 4 * 6, "at float32": 2 * taps * 2 * 4 * 6}


def test_products_are_counted_as_often_as_a_loop_turns_and_by_precision():
    def products(x, w):
        x, _ = lax.scan(lambda x, _: (x @ w, None), x, length=7)
        return jnp.matmul(x, w, precision="highest")

    once = 2 * 3 * 4 * 4
    found = cost.count(traced(products, (3, 4), (4, 4)), padding=False)
    assert found == {"products": 8 * once, "at float32": 7 * once, "at highest": once}


def test_sums_and_arithmetic_on_single_numbers_are_elementwise():
    found = cost.count(traced(lambda x: (jnp.exp(x) * x).sum(), (3, 5)), padding=False)
    assert found == {"elementwise": 3 * 15}
