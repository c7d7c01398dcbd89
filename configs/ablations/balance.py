"""Does it help to balance the experts, and by which means?

    expressnet ablate --study=balance --out DIR

Each loss, the noise and the selection bias alone and, where papers use them so, together; weights and steps are those
of the papers (docs/moe.md), and of this project's own trial of a collapsed router. The noise of 0.25 is 1 / E for 4
experts. Balance itself is in the runs' metrics.jsonl and in the report.

For any config of 4 experts. Hardware: 2 CPU cores with fer2013_small. Time: 10 settings x 3 seeds = 30 runs of an hour.
Measured: not yet run.
"""


def get_study():
    means = ("noise_std", "importance_loss", "load_loss", "balance_loss", "z_loss", "balance_bias")
    none = {f"moe.{name}": "0" for name in means}
    changes = {
        "none": {},
        "noise": {"moe.noise_std": "0.25"},
        "importance loss": {"moe.importance_loss": "0.1"},  # Shazeer et al. 2017
        "noise, load loss": {"moe.noise_std": "0.25", "moe.load_loss": "0.1"},
        "noise, importance and load losses": {
            "moe.noise_std": "0.25", "moe.importance_loss": "0.005", "moe.load_loss": "0.005"  # V-MoE
        },
        "balance loss 0.01": {"moe.balance_loss": "0.01"},  # Switch
        "balance loss 0.05": {"moe.balance_loss": "0.05"},
        "z loss": {"moe.z_loss": "0.001"},  # ST-MoE
        "bias 0.001": {"moe.balance_bias": "0.001"},  # DeepSeek
        "bias 0.02": {"moe.balance_bias": "0.02"},
    }  # fmt: skip
    return {
        "question": "Does balancing the experts raise accuracy, and by which means?",
        "config": "fer2013_small",
        "baseline": "none",
        "arms": {name: none | change for name, change in changes.items()},
    }
