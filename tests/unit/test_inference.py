"""The network prepared for inference answers as before; blocks computed twice for their gradient give the same one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from expressnet_jax.config import files as config_files
from expressnet_jax.models import expressnet, inference
from tests.conftest import TINY

answer = nnx.jit(lambda model, images: model(images).logits)
LARGE = [("model.cnnfe1.kernels", "15,9"), ("model.cnnfe2.kernels", "11,3")]


def trained(config):
    """A network whose statistics and scales are none of the values they start with."""
    model = expressnet.create(config)
    rng = np.random.default_rng(0)
    for _, variable in nnx.to_flat_state(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))):
        value = variable.get_value()
        variable.set_value(value + jnp.asarray(0.1 * rng.random(value.shape), value.dtype))
    return model


def images(config):
    side = config.model.image_size
    return jnp.asarray(np.random.default_rng(1).random((3, side, side, 3)), jnp.float32)


@pytest.mark.parametrize("form", ["auto", "fft", "dft", "direct"])
@pytest.mark.parametrize("network", ["expressnet", "backbone"])
def test_a_prepared_network_answers_as_before(form, network):
    config = config_files.load(TINY, [*LARGE, ("model.convolution", form), ("model.network", network)])
    graph, state = nnx.split(trained(config))
    before = answer(nnx.merge(graph, state), images(config))
    prepared = nnx.merge(*inference.prepared(nnx.merge(graph, state), config))
    np.testing.assert_allclose(answer(prepared, images(config)), before, atol=1e-4 * float(jnp.abs(before).max()))
    names = {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(prepared))}
    assert not any("resnet" in name and "_bn" in name for name in names)
    transformed = network == "expressnet" and form != "direct"
    assert any(name.endswith("spectrum") for name in names) == transformed


def test_the_network_that_is_prepared_stays_as_it_is():
    config = config_files.load(TINY, [*LARGE, ("model.convolution", "fft"), ("model.without", "cnnfe2,resnet")])
    model = trained(config)
    before = answer(model, images(config))
    prepared = nnx.merge(*inference.prepared(model, config))
    np.testing.assert_allclose(answer(prepared, images(config)), before, atol=1e-4 * float(jnp.abs(before).max()))
    assert np.array_equal(answer(model, images(config)), before)
    assert model.cnnfe1.conv1.spectrum is None and prepared.cnnfe1.conv1.spectrum is not None


def test_the_fuse_layer_is_normalized_before_its_relu():
    config = config_files.load(TINY, [("model.dense_batchnorm", "true"), ("model.dense_dropout", "0")])
    fuse = trained(config).fuse
    x = np.random.default_rng(2).standard_normal((5, fuse.dense.kernel.shape[0]))
    before = x @ np.asarray(fuse.dense.kernel[...], np.float64)
    scale, bias, mean, var = (
        np.asarray(getattr(fuse.dense_bn, name)[...]) for name in ("scale", "bias", "mean", "var")
    )
    for train, of, spread in ((False, mean, var), (True, before.mean(0), before.var(0))):
        expected = np.maximum((before - of) / np.sqrt(spread + config.model.batchnorm_epsilon) * scale + bias, 0)
        np.testing.assert_allclose(fuse([jnp.asarray(x, jnp.float32)], train=train, rngs=None), expected, atol=1e-5)


def test_remat_gives_the_same_gradient_and_statistics_with_dropout_on():
    def gradient(remat):
        config = config_files.load(TINY, [("model.remat", str(remat).lower())])
        graph, params, stats = nnx.split(expressnet.create(config), nnx.Param, nnx.BatchStat)

        def loss(params, x):
            model = nnx.merge(graph, params, stats, copy=True)
            logits = model(x, train=True, rngs=nnx.Rngs(dropout=jax.random.key(0))).logits
            return (logits**2).sum(), nnx.state(model, nnx.BatchStat)

        return config, jax.jit(jax.value_and_grad(loss, has_aux=True)), params

    config, plain, params = gradient(False)
    _, again, _ = gradient(True)
    x = images(config)
    assert dataclasses.replace(config.model, remat=True) != config.model
    for a, b in zip(jax.tree.leaves(plain(params, x)), jax.tree.leaves(again(params, x)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(a).max() + 1))
    assert str(jax.make_jaxpr(again)(params, x)).count("remat") > str(jax.make_jaxpr(plain)(params, x)).count("remat")
