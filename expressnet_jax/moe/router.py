"""Which experts answer for which image, and with what weight: policy only, no data is moved here.

Everything is computed in float32. Every sum leaves padding out and runs over the whole batch of all devices.

Legend: B image, E experts, K selected (E for the soft router).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from expressnet_jax.moe.settings import MoE

#: The losses that `losses` knows; each has a weight of the same name in the config, 0 by default.
LOSSES = ("importance_loss", "load_loss", "balance_loss", "z_loss")


class Sums(NamedTuple):
    """Sums over the images of a batch: all that losses and statistics need, and added up over micro-batches."""

    images: jax.Array  # ()
    load: jax.Array  # (E,): images that selected each expert
    importance: jax.Array  # (E,): of the probabilities
    likely_load: jax.Array  # (E,): of the probability to be selected under other noise; 0 without noise
    squared_log_z: jax.Array  # (): of the square of the logarithm of the softmax's denominator
    entropy: jax.Array  # (): of the entropy of the probabilities, in nats
    dropped: jax.Array  # (): (image, expert) pairs that the movement had no room for


class Routing(NamedTuple):
    """A router's decision for a batch."""

    chosen: jax.Array  # (B, K) int32: the experts of each image, the likeliest first
    gates: jax.Array  # (B, K): the weight of each of them
    probabilities: jax.Array  # (B, E): softmax over all experts
    sums: Sums

    @property
    def weights(self) -> jax.Array:
        """(B, E): the gate of each selected expert, 0 for the others."""
        return spread(self.chosen, self.gates, self.probabilities.shape[-1])


def spread(chosen: jax.Array, values: jax.Array, e: int) -> jax.Array:
    """(B, K) values of the chosen experts to (B, E), 0 for the others; a choice outside 0 ... E - 1 counts nowhere."""
    return jnp.einsum("bk,bke->be", values, jax.nn.one_hot(chosen, e, dtype=values.dtype))


def route(
    logits: jax.Array, mask: jax.Array, config: MoE, *, key: jax.Array | None = None, bias: jax.Array | None = None
) -> Routing:
    """Softmax over all experts, then the K largest, kept as they are (arXiv 2510.13493, section 3).

    Args:
        logits: (B, E) float.
        mask: (B,) bool, false for padding, which no sum counts.
        config: `router`: "top_k" and "random" take the `top_k` likeliest experts, "soft" all of them. `renormalize`
            divides the gates by their sum, which is the same as a softmax over the selected logits alone.
        key: for training with noise: the logits get a Gaussian of `noise_std` (V-MoE, arXiv 2106.05974, section 2.2,
            takes 1 / E) before the softmax. None: no noise.
        bias: (E,), added to the probabilities for the selection alone, never to a gate (arXiv 2408.15664).
    """
    clean = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    noisy, k, e = clean, config.selected, logits.shape[-1]
    if key is not None and config.noise_std:
        noisy = clean + config.noise_std * jax.random.normal(key, clean.shape, clean.dtype)
    probabilities = jax.nn.softmax(noisy)
    _, chosen = jax.lax.top_k(probabilities if bias is None else probabilities + bias, k)  # (B, K)
    gates = jnp.take_along_axis(probabilities, chosen, axis=-1)
    if bias is not None:  # which orders the choices too: the likeliest first again
        gates, order = jax.lax.top_k(gates, k)
        chosen = jnp.take_along_axis(chosen, order, axis=-1)
    if config.renormalize:
        gates /= gates.sum(-1, keepdims=True)
    counted = mask[:, None].astype(clean.dtype)  # (B, 1)
    likely = _selected_again(clean, noisy, k, config.noise_std) if noisy is not clean else jnp.zeros_like(clean)
    sums = Sums(
        images=counted.sum(),
        load=(spread(chosen, jnp.ones_like(gates), e) * counted).sum(0),
        importance=(probabilities * counted).sum(0),
        likely_load=(likely * counted).sum(0),
        squared_log_z=(jax.nn.logsumexp(clean, -1) ** 2 * mask).sum(),
        entropy=-(probabilities * jax.nn.log_softmax(noisy) * counted).sum(),
        dropped=jnp.zeros((), clean.dtype),
    )
    return Routing(chosen, gates, probabilities, sums)


def losses(sums: Sums) -> dict[str, jax.Array]:
    """The auxiliary losses of one layer over a batch, before their weights. E experts, B images, K selected.

    importance_loss: the squared coefficient of variation of sum_b p_be (Shazeer 2017, arXiv 1701.06538, eq. 6 and 7).
    load_loss: the same of sum_b P(e is selected for b under other noise) (Shazeer 2017, appendix A; V-MoE, appendix A).
    balance_loss: E sum_e f_e p_e with f_e the fraction of the B K selections that are e, and p_e the mean probability;
        1 where balanced (GShard, arXiv 2006.16668, section 2.2; Switch, arXiv 2101.03961, eq. 4 to 6).
    z_loss: the mean square of log sum_e exp(logit_e) (ST-MoE, arXiv 2202.08906, eq. 5).
    """
    count, selections = jnp.maximum(sums.images, 1), jnp.maximum(sums.load.sum(), 1)
    fractions = jax.lax.stop_gradient(sums.load / selections)
    return {
        "importance_loss": _squared_variation(sums.importance),
        "load_loss": _squared_variation(sums.likely_load),
        "balance_loss": sums.load.size * (fractions * sums.importance / count).sum(),
        "z_loss": sums.squared_log_z / count,
    }


def weighted_loss(sums: Sums, config: MoE) -> jax.Array:
    """What one layer adds to the loss of a batch."""
    found = losses(sums)
    return sum((getattr(config, name) * found[name] for name in LOSSES if getattr(config, name)), start=jnp.zeros(()))


def balanced(bias: jax.Array, load: jax.Array, rate: float) -> jax.Array:
    """The selection bias (E,) after a batch: raised by `rate` for an expert with less than the mean load, lowered for
    one with more (DeepSeek's balance without a loss, arXiv 2408.15664, algorithm 1)."""
    return bias + rate * jnp.sign(load.mean() - load)


def _selected_again(clean: jax.Array, noisy: jax.Array, k: int, std: float) -> jax.Array:
    """(B, E): the probability that expert e stays among the K largest if its own noise alone is drawn again."""
    e = clean.shape[-1]
    if k == e:
        return jnp.ones_like(clean)
    largest, chosen = jax.lax.top_k(noisy, k + 1)  # (B, K + 1)
    inside = spread(chosen[:, :k], jnp.ones_like(largest[:, :k]), e) > 0
    others_kth = jnp.where(inside, largest[:, k:], largest[:, k - 1 : k])  # (B, E): the K-th largest without e
    return jax.scipy.stats.norm.cdf((clean - others_kth) / std)


def _squared_variation(values: jax.Array) -> jax.Array:
    """Variance over the squared mean; 0 where all values are 0."""
    mean = values.mean()
    return jnp.where(mean > 0, values.var() / jnp.maximum(mean, 1e-9) ** 2, 0.0)
