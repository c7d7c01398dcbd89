"""Which experts answer for which image: policy only, no data is moved here. Everything is computed in float32.

Legend: B image, E experts, K selected, D in.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Routing(NamedTuple):
    """A router's decision, and its sums over the (global) batch."""

    weights: jax.Array  # (B, E): the gate probability of each selected expert, 0 for the others
    probabilities: jax.Array  # (B, E): softmax over all experts
    load: jax.Array  # (E,): images that selected each expert
    importance: jax.Array  # (E,): sum of the probabilities
    entropy: jax.Array  # (): sum over images of the entropy of the probabilities, in nats


def softmax_top_k(logits: jax.Array, k: int, mask: jax.Array) -> Routing:
    """Softmax over all experts, then the k largest kept as they are, not renormalised (arXiv 2510.13493, section 3).

    Args: logits (B, E) float; mask (B,) bool, false for padding, which no sum counts.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    probabilities = jax.nn.softmax(logits)
    _, chosen = jax.lax.top_k(probabilities, k)  # (B, K)
    selected = jax.nn.one_hot(chosen, logits.shape[-1], dtype=logits.dtype).sum(1)  # (B, K, E) -> (B, E)
    counted = mask[:, None].astype(logits.dtype)  # (B, 1)
    return Routing(
        weights=probabilities * selected,
        probabilities=probabilities,
        load=(selected * counted).sum(0),
        importance=(probabilities * counted).sum(0),
        entropy=-(probabilities * jax.nn.log_softmax(logits) * counted).sum(),
    )
