"""Prints each form's largest relative difference from `direct` in float64, forward and gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from expressnet_jax.models.large_conv import conv2d


def main() -> None:
    rng = np.random.default_rng(0)
    shapes = [(2, 20, 20, 3, 3, 2, 4), (1, 50, 31, 5, 4, 6, 2), (1, 7, 9, 30, 25, 1, 2), (2, 64, 64, 15, 15, 3, 4)]
    shapes += [tuple(rng.integers(1, top) for top in (4, 40, 40, 30, 30, 6, 6)) for _ in range(6)]
    worst = {"fft": 0.0, "dft": 0.0}
    for b, h, w, p, q, d, f in shapes:
        arrays = [jnp.asarray(rng.standard_normal(s)) for s in ((b, h, w, d), (p, q, d, f), (b, h, w, f))]
        assert arrays[0].dtype == jnp.float64

        @partial(jax.jit, static_argnums=0)
        def results(form, x, kernel, g):
            value, pull = jax.vjp(lambda x, k: conv2d(x, k, form), x, kernel)
            return [value, *pull(g)]

        wanted = results("direct", *arrays)
        for form in worst:
            for found, right in zip(results(form, *arrays), wanted, strict=True):
                worst[form] = max(worst[form], float(jnp.abs(found - right).max() / jnp.abs(right).max()))
    print(*(f"{form} {error}" for form, error in worst.items()))


if __name__ == "__main__":
    main()
