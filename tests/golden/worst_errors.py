"""Builds the paper's network in one dtype, with one form of convolution, and prints, as JSON, its largest relative
errors against golden.npz: of all values in float64, of those before any gradient in float32.

A process of its own, since float64 is a setting of the whole process:
    JAX_ENABLE_X64=1 python -m tests.golden.worst_errors float64 dft
"""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from expressnet_jax.config import Config
from expressnet_jax.config import files as config_files
from expressnet_jax.models import canonical, expressnet
from tests.golden import inputs

_TAPS = {"cnnfe1.out": "cnnfe1", "cnnfe2.out": "cnnfe2", "resnet.out": "resnet", "fuse.out": "fuse"}


def network(dtype: str, form: str) -> expressnet.ExpressNet:
    config = config_files.load("fer2013:paper", [("model.convolution", form)])
    model = zeros(dataclasses.replace(config, model=dataclasses.replace(config.model, dtype=dtype)))
    canonical.from_canonical(model, weights(model))
    return model


def zeros(config: Config) -> expressnet.ExpressNet:
    """A network without the random values that would be compiled only to be thrown away."""
    graph, abstract = nnx.split(nnx.eval_shape(lambda: expressnet.create(config)))
    return nnx.merge(graph, jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), abstract))


def weights(model: expressnet.ExpressNet) -> dict[str, np.ndarray]:
    """What the golden values were made with, by canonical name."""
    return {name: inputs.weight(name, shape) for name, shape in canonical.shapes(model).items()}


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference, as a fraction of the largest wanted value."""
    return float(np.abs(np.asarray(found) - wanted).max() / np.abs(wanted).max())


def worst_of_each(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest relative error of any one value; where 0 is wanted (an expert never chosen), the value itself."""
    return float((np.abs(found - wanted) / np.where(wanted == 0, 1, np.abs(wanted))).max())


def inference_errors(model: expressnet.ExpressNet, golden: dict[str, np.ndarray], dtype: str) -> dict[str, float]:
    graph, state = nnx.split(model)
    output = jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, jnp.asarray(inputs.images(), dtype))
    found = {"head": output.logits}
    for tap in golden:
        name = tap.removeprefix("eval/")
        if name.endswith(".gate_probs"):
            found[name] = output.routing[name.removesuffix(".gate_probs")].probabilities
        elif tap.startswith("eval/") and name != "head":
            found[name] = output.features[_TAPS.get(name, name)]
    return {f"eval/{name}": relative(value, golden[f"eval/{name}"]) for name, value in found.items()}


def training_errors(model: expressnet.ExpressNet, golden: dict[str, np.ndarray], dtype: str) -> dict[str, float]:
    graph, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    targets = optax.smooth_labels(jax.nn.one_hot(golden["labels"], 7, dtype=dtype), 0.1)

    def loss(params, images):  # pictures that were constants would be transformed by the compiler
        net = nnx.merge(graph, params, stats, copy=True)
        logits = net(images, train=True).logits
        return optax.softmax_cross_entropy(logits, targets).mean(), (logits, nnx.state(net, nnx.BatchStat))

    images = jnp.asarray(inputs.images(), dtype)
    if dtype == "float32":  # its gradients have no bound to be held to
        return {"train/loss": relative(jax.jit(loss)(params, images)[0], golden["train/loss"])}
    (value, (logits, after)), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, images)
    moved = canonical.to_canonical(nnx.merge(graph, params, after))
    slopes = canonical.to_canonical(nnx.merge(graph, gradients, stats))
    names = [str(name) for name in golden["train/grad_names"]]
    norms = np.array([np.linalg.norm(slopes[name].ravel()) for name in names])
    projections = np.array([inputs.projection(name, slopes[name]) for name in names])
    errors = {
        "train/loss": relative(value, golden["train/loss"]),
        "train/logits": relative(logits, golden["train/logits"]),
        "train/grad_l2": worst_of_each(norms, golden["train/grad_l2"]),
        "train/grad_proj": worst_of_each(projections, golden["train/grad_proj"]),
    }
    for key in golden:
        if key.startswith("train/after/"):
            name = key.removeprefix("train/after/").replace(".", "/")
            errors[key] = relative(moved[name], golden[key])
    return errors


def main() -> None:
    dtype, form = sys.argv[1:]
    with np.load(inputs.GOLDEN, allow_pickle=False) as file:
        golden = dict(file)
    model = network(dtype, form)
    print(json.dumps(inference_errors(model, golden, dtype) | training_errors(model, golden, dtype)))


if __name__ == "__main__":
    main()
