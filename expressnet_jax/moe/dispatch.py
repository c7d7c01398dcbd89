"""How images reach their experts and come back: movement only, no policy.

Legend: B image, E experts, D in, F out.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def dense(x: jax.Array, weights: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """Every expert answers for every image; `weights` select. The published form, and the oracle of any other.

    Args: x (B, D); weights (B, E), 0 where not selected; kernel (E, D, F); bias (E, F).
    Returns (B, F) in the dtype of x: sum over e of weights[b, e] * relu(x[b] @ kernel[e] + bias[e]).
    """
    answers = jax.nn.relu(jnp.einsum("bd,edf->bef", x, kernel.astype(x.dtype)) + bias.astype(x.dtype))  # (B, E, F)
    return jnp.einsum("be,bef->bf", weights.astype(x.dtype), answers)
