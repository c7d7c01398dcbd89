"""Settings of a run: dataclasses, presets and recipes, the checks that join several, files, lengths of training."""

from expressnet_jax.config.presets import PRESETS, default_config, our_config
from expressnet_jax.config.settings import (
    BRANCHES,
    MIXTURES,
    Augment,
    Config,
    ConfigError,
    Data,
    EarlyStop,
    Ema,
    Extractor,
    Init,
    Mesh,
    Model,
    Optimizer,
    Preprocess,
    ResNet,
    Schedule,
    to_dict,
)

__all__ = [
    "BRANCHES", "MIXTURES", "PRESETS", "Augment", "Config", "ConfigError", "Data", "EarlyStop", "Ema", "Extractor",
    "Init", "Mesh", "Model", "Optimizer", "Preprocess", "ResNet", "Schedule", "default_config", "our_config", "to_dict",
]  # fmt: skip
