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
    # One product for each expert: as a single one, XLA's CPU compiler first turns the experts' kernels about.
    each = jnp.broadcast_to(x, (kernel.shape[0], *x.shape))  # (E, B, D)
    answers = jax.nn.relu(each @ kernel.astype(x.dtype) + bias.astype(x.dtype)[:, None])  # (E, B, F)
    return jnp.einsum("be,ebf->bf", weights.astype(x.dtype), answers)
