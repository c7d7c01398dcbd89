#!/usr/bin/env bash
# The gradient of jnp.max is wrong, infinite or NaN, in a CPU program compiled with JAX_DISABLE_MOST_OPTIMIZATIONS.
#
# Versions: jax and jaxlib 0.10.2 and (Python 3.12) 0.11.2, numpy 2.4.6, Linux x86-64.
# Belief: the setting makes compiling faster and programs slower; values stay, but for a rounding.
# Behaviour: JAX gives the gradient of a maximum to the operands that equal the result, divided by their number. The
# gradient is right with all optimizations, and not finite without them: a number of equal operands of 0, as where
# `x * scale + bias` is computed twice and rounded differently (the likely cause; the machine code was not looked at).
# A select by comparison (below: `larger`) is right with both.
#
# With jax 0.11.2 it is the same but for the version.
# Output seen:
#   jax 0.10.2 optimized True: max over an axis: finite, as one operation at a time; select: the same
#   jax 0.10.2 optimized False: max over an axis: NOT FINITE; select: the same
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
jax=0.10.2
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 12))' && jax=0.11.2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "jax==$jax" "jaxlib==$jax" numpy==2.4.6 2>/dev/null

cat >"$folder/gradient.py" <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np

rng = np.random.default_rng(0)
x = jnp.asarray(rng.standard_normal((2, 16, 16, 4)), jnp.float32)
scale, bias = (jnp.asarray(rng.standard_normal(4), jnp.float32) for _ in range(2))


def pairs(x):
    return x.reshape(2, 8, 2, 16, 4)


def over_axis(x):
    return pairs(x * scale + bias).max(2).sum()


def larger(x):
    split = pairs(x * scale + bias)
    return jnp.where(split[:, :, 0] >= split[:, :, 1], split[:, :, 0], split[:, :, 1]).sum()


wanted = np.asarray(jax.grad(over_axis)(x))  # one operation at a time
first, second = (np.asarray(jax.jit(jax.grad(f))(x)) for f in (over_axis, larger))
said = "NOT FINITE" if not np.isfinite(first).all() else "finite, " + (
    "as one operation at a time" if np.allclose(first, wanted, rtol=1e-5) else "OTHER VALUES")
optimized = not jax.config.values["jax_disable_most_optimizations"]
same = "the same" if np.allclose(second, wanted, rtol=1e-5) else "OTHER VALUES"
print(f"jax {jax.__version__} optimized {optimized}: max over an axis: {said}; select: {same}")
PYTHON

failed=0
for disable in false true; do
    said=$(JAX_PLATFORMS=cpu JAX_DISABLE_MOST_OPTIMIZATIONS=$disable "$folder/venv/bin/python" "$folder/gradient.py")
    echo "$said"
    case "$disable $said" in
    "false "*"finite, as one operation at a time; select: the same") ;;
    "true "*"NOT FINITE; select: the same") ;;
    *) failed=1 ;;
    esac
done
exit $failed
