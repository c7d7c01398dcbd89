"""Settings of a run: the dataclasses (settings), the files that hold them (files), lengths of training (duration)."""

from expressnet_jax.config.settings import (
    BRANCHES,
    MIXTURES,
    PRESETS,
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
    default_config,
    our_config,
    to_dict,
)

__all__ = [
    "BRANCHES", "MIXTURES", "PRESETS", "Augment", "Config", "ConfigError", "Data", "EarlyStop", "Ema", "Extractor",
    "Init", "Mesh", "Model", "Optimizer", "Preprocess", "ResNet", "Schedule", "default_config", "our_config", "to_dict",
]  # fmt: skip
