"""Which parts of the network earn their keep?

    expressnet ablate --study=worth --out DIR --config.total=12epochs --config.eval_every=100% --config.save_every=100%

Each branch left out; kernels of 3 pixels in cnnfe1; a dense layer of the same width instead of each mixture (one
expert, whose gate is always 1); and other numbers of experts. One baseline, the config as it is: 4 experts, of which
the likeliest 2 answer.

For any config whose cnnfe1 has 4 blocks and which has 4 experts. Hardware: 2 CPU cores with fer2013_small. Time:
9 settings x 3 seeds = 27 runs of 5 minutes with the command above. Measured: not yet run.
"""


def get_study():
    def mixture(experts, top, balance="0"):
        return {"moe.num_experts": str(experts), "moe.top_k": str(top), "moe.balance_loss": balance}

    return {
        "question": "Which branches, large kernels and experts does the accuracy depend on?",
        "config": "fer2013_small",
        "baseline": "as it is",
        "arms": {
            "as it is": {},
            "without cnnfe1": {"model.without": "cnnfe1"},
            "without cnnfe2": {"model.without": "cnnfe2"},
            "without resnet": {"model.without": "resnet"},
            "small kernels in cnnfe1": {"model.cnnfe1.kernels": "3,3,3,3"},
            "dense layers, no mixtures": mixture(1, 1),
            "8 experts, top 2": mixture(8, 2),
            "4 experts, top 1": mixture(4, 1),
            "4 experts, top 2, balanced": mixture(4, 2, "0.01"),
        },
    }
