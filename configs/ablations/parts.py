"""Which parts does the network need?

    expressnet ablate --study=parts --out DIR

Each branch and each mixture of experts left out, both mixtures, and each branch alone. Without cnnfe1 its moe_cnn goes
too; without cnnfe2 and the ResNet, the fuse layer and moe_expression go (`model.without`). The ResNet alone comes
twice: with fuse layer and experts, and as `model.network=backbone` with a linear head. Nothing is made wider to
replace what is missing, so every arm but the first has fewer parameters (`expressnet inspect`).

For any config. Hardware: 2 CPU cores with fer2013_small. Time: 11 settings x 3 seeds = 33 runs of at most an hour.
Measured: not yet run.
"""


def get_study():
    single = ("cnnfe1", "cnnfe2", "resnet", "moe_cnn", "moe_expression")
    removed = {
        "whole": "",
        **{f"without {name}": name for name in single},
        "without experts": "moe_cnn,moe_expression",
        "cnnfe1 alone": "cnnfe2,resnet",
        "cnnfe2 alone": "cnnfe1,resnet",
        "resnet alone": "cnnfe1,cnnfe2",
    }
    return {
        "question": "Which branches and which layers of experts does the accuracy depend on?",
        "config": "fer2013_small",
        "baseline": "whole",
        "arms": {name: {"model.without": parts} for name, parts in removed.items()}
        | {"backbone": {"model.network": "backbone"}},
    }
