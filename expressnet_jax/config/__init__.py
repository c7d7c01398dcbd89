"""Settings of a run: dataclasses, presets and recipes, the checks that join several, files, lengths of training."""

from expressnet_jax.config.files import PRESETS, default_config, for_48_pixels, of_recipe, our_config, to_dict
from expressnet_jax.config.settings import BRANCHES, Augment, Clock, Config, ConfigError, Extractor, Model, Preprocess

__all__ = [
    "BRANCHES", "PRESETS", "Augment", "Clock", "Config", "ConfigError", "Extractor", "Model", "Preprocess",
    "default_config", "for_48_pixels", "of_recipe", "our_config", "to_dict",
]  # fmt: skip
