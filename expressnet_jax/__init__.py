"""ExpressNet-MoE for facial-expression recognition, in JAX (Banerjee, Gothwal, Biswas; arXiv 2510.13493).

import expressnet_jax
model = expressnet_jax.load("artifacts/small")
for picture in model.predict(["a.jpg", "b.jpg"]): ...
"""

from typing import Any

__version__ = "0.1.0"


def load(*args: Any, **kwargs: Any) -> Any:
    """An artifact of `expressnet export`, ready to predict; see `expressnet_jax.predict.recognizer.load`."""
    from expressnet_jax.predict import recognizer

    return recognizer.load(*args, **kwargs)
