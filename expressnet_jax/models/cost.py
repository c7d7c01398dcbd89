"""What a network is made of, and the arithmetic of what JAX has traced; a multiply-add is two operations.

Legend: D in, E experts, F out, N rows, P Q kernel height and width.
"""

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.core import jaxprs_in_params

from expressnet_jax import target
from expressnet_jax.config import Config
from expressnet_jax.models import canonical, expressnet

#: Counted as one operation for each number that they give; moves, comparisons and conversions are not.
_ELEMENTWISE = frozenset((
    "add", "add_any", "sub", "mul", "div", "rem", "max", "min", "neg", "sign", "abs", "floor", "round", "exp", "exp2",
    "log", "log1p", "expm1", "tanh", "logistic", "sqrt", "rsqrt", "pow", "integer_pow", "square", "erf", "sin", "cos",
    "select_n", "clamp", "and", "or", "xor", "not", "shift_left", "shift_right_logical",
))  # fmt: skip


def of_config(config: Config) -> dict[str, Any]:
    """`parameters` (BatchNorm statistics included), `batch_stats`, `parts` {name: parameters}, `flops_per_image`.

    Nothing is computed: shapes alone are traced.
    """
    model = nnx.eval_shape(lambda: expressnet.create(config))
    sizes = canonical.sizes(model)
    parts: Counter[str] = Counter()
    for name, size in sizes.items():
        parts[name.split("/")[0]] += size
    return {
        "parameters": sum(sizes.values()),
        "batch_stats": sum(size for name, size in sizes.items() if name.endswith(("/mean", "/var"))),
        "parts": dict(parts), "flops_per_image": flops_per_image(config), "classes": list(config.data.classes),
    }  # fmt: skip


def flops_per_image(config: Config) -> int:
    """Operations of the convolutions and matrix products of one forward pass.

    Counted in the traced network with every convolution done directly, padding included, as is usual: the work asked
    for, whatever implementation then does it with less.
    """
    model, moe = replace(config.model, convolution="direct"), replace(config.moe, implementation="dense")
    config = replace(config, model=model, moe=moe)
    side = config.model.image_size
    picture = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    found = count(jax.make_jaxpr(lambda x: expressnet.create(config)(x).logits)(picture).jaxpr, padding=True)
    return found["convolutions"] + found["products"]


def count(jaxpr: Any, *, padding: bool, times: int = 1) -> Counter[str]:
    """Operations of a traced program, executed so many times.

    Returns them by kind: "convolutions", those products with padding only if `padding`; "products" of matrices;
    "elementwise", arithmetic on single numbers and sums, about. Those of the first two once more by precision:
    "at bfloat16", "at float32", "at high", "at highest". Grouped products are counted as the compiler of the machine
    that programs are traced for (`target`) makes them: on a GPU each row is multiplied with the matrix of every group.
    """
    counts: Counter[str] = Counter()
    for equation in jaxpr.eqns:
        if not equation.outvars:
            continue
        name, out = equation.primitive.name, equation.outvars[0].aval
        if name == "conv_general_dilated":
            flops = times * _convolution(equation, padding=padding)
            counts.update({"convolutions": flops, f"at {_precision(equation)}": flops})
        elif name in ("dot_general", "ragged_dot", "ragged_dot_general"):
            flops = times * _product(equation)
            counts.update({"products": flops, f"at {_precision(equation)}": flops})
        elif name in _ELEMENTWISE:
            counts["elementwise"] += times * math.prod(out.shape)
        elif name.startswith(("reduce_", "cum")):
            counts["elementwise"] += times * math.prod(equation.invars[0].aval.shape)
        inner = times * int(equation.params["length"]) if name == "scan" else times
        for part in jaxprs_in_params(equation.params):
            counts.update(count(part, padding=padding, times=inner))
    return counts


def _precision(equation: Any) -> str:
    """How a product is to be computed: its numbers' own type, or the precision that is asked for."""
    asked = equation.params.get("precision")
    asked = asked[0] if isinstance(asked, tuple) else asked
    kind = np.result_type(*[var.aval.dtype for var in equation.invars[:2]]).name
    if kind in ("bfloat16", "float16"):
        return kind
    return {jax.lax.Precision.HIGH: "high", jax.lax.Precision.HIGHEST: "highest"}.get(asked, "float32")


def _product(equation: Any) -> int:
    left, right = (var.aval for var in equation.invars[:2])
    factor = 8 if jnp.issubdtype(left.dtype, jnp.complexfloating) else 2  # of complex numbers: 4 products, 4 sums
    out = math.prod(equation.outvars[0].aval.shape)
    if equation.primitive.name != "dot_general":  # rows, each with the matrix of its group: (N, D) and (E, D, F)
        rows = factor * (out * left.shape[-1] if len(right.shape) == 3 else math.prod(left.shape) * right.shape[-1])
        return rows * equation.invars[2].aval.shape[-1] if target.platform() == "gpu" else rows
    (contracted, _), _ = equation.params["dimension_numbers"]
    return factor * out * math.prod(left.shape[axis] for axis in contracted)


def _convolution(equation: Any, *, padding: bool) -> int:
    """All of it, or without the products with padding and with the zeros between the pixels of a dilated picture."""
    p, (left, right) = equation.params, (var.aval.shape for var in equation.invars[:2])
    numbers, out = p["dimension_numbers"], equation.outvars[0].aval.shape
    taps = 1
    for i in range(len(left) - 2):
        n, k, o = left[numbers.lhs_spec[i + 2]], right[numbers.rhs_spec[i + 2]], out[numbers.out_spec[i + 2]]
        at = np.arange(o)[:, None] * p["window_strides"][i] + np.arange(k) * p["rhs_dilation"][i] - p["padding"][i][0]
        between = p["lhs_dilation"][i]
        taps *= at.size if padding else int(((at >= 0) & (at <= (n - 1) * between) & (at % between == 0)).sum())
    images, features = out[numbers.out_spec[0]], out[numbers.out_spec[1]]
    return 2 * taps * images * features * right[numbers.rhs_spec[1]]
