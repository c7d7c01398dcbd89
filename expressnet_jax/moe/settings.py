"""What a mixture of experts is made of: the section `moe` of a config."""

from dataclasses import dataclass
from typing import Literal, get_args

from data_pipelines.common.ranges import NonNegativeFloat, PositiveFloat, PositiveInt

Implementation = Literal["auto", "dense", "capacity", "dropless", "all_gather", "all_to_all"]
IMPLEMENTATIONS: tuple[Implementation, ...] = get_args(Implementation)


@dataclass(frozen=True)
class MoE:
    num_experts: PositiveInt = 4
    top_k: PositiveInt = 2
    hidden: PositiveInt = 512  # width of each expert, and so of the layer's output
    layers: PositiveInt = 1  # dense layers of each expert, a relu after each
    # top_k: the likeliest; soft: every expert, weighted; random: top_k by a router that never learns
    router: Literal["top_k", "soft", "random"] = "top_k"
    renormalize: bool = False  # gates divided by their sum: a softmax over the selected experts alone
    noise_std: NonNegativeFloat = 0.0  # of a Gaussian on the logits in training; V-MoE takes 1 / num_experts
    # Weights of the auxiliary losses (formulas: moe/router.py), per layer and added to the loss.
    importance_loss: NonNegativeFloat = 0.0
    load_loss: NonNegativeFloat = 0.0  # needs noise
    balance_loss: NonNegativeFloat = 0.0
    z_loss: NonNegativeFloat = 0.0
    balance_bias: NonNegativeFloat = 0.0  # step of the selection bias that balances without a loss; DeepSeek: 0.001
    # How images reach their experts (docs/moe.md); auto never drops a pair of image and expert.
    implementation: Implementation = "auto"
    capacity_factor: PositiveFloat = 1.25  # capacity, all_to_all: room of an expert, as a multiple of an even share
    by_weight: bool = False  # capacity, all_to_all: a full expert keeps the images of the largest gates, not the first

    @property
    def selected(self) -> int:
        """K, the number of experts that answer for an image."""
        return self.num_experts if self.router == "soft" else self.top_k
