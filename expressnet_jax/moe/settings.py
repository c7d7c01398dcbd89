"""What a mixture of experts is made of: the section `moe` of a config."""

from __future__ import annotations

from dataclasses import dataclass

IMPLEMENTATIONS = ("auto", "dense", "capacity", "dropless", "all_gather", "all_to_all")
ROUTERS = ("top_k", "soft", "random")


@dataclass(frozen=True)
class MoE:
    num_experts: int = 4
    top_k: int = 2
    hidden: int = 512  # width of each expert, and so of the layer's output
    layers: int = 1  # dense layers of each expert, a relu after each
    router: str = "top_k"  # top_k; soft: every expert, weighted; random: top_k by a router that never learns
    renormalize: bool = False  # gates divided by their sum: a softmax over the selected experts alone
    noise_std: float = 0.0  # of a Gaussian on the logits in training; V-MoE takes 1 / num_experts
    # Weights of the auxiliary losses (formulas: moe/router.py), per layer and added to the loss.
    importance_loss: float = 0.0
    load_loss: float = 0.0  # needs noise
    balance_loss: float = 0.0
    z_loss: float = 0.0
    balance_bias: float = 0.0  # step of the selection bias that balances without a loss; DeepSeek takes 0.001
    # How images reach their experts (docs/moe.md); auto never drops a pair of image and expert.
    implementation: str = "auto"
    capacity_factor: float = 1.25  # capacity, all_to_all: room of an expert, as a multiple of an even share
    by_weight: bool = False  # capacity, all_to_all: an expert that is full keeps its surest images, not the first ones
