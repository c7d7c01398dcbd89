"""Are experts worth more than one dense layer, for the same operations and the same parameters?

    expressnet ablate --study=experts_flop_matched --out DIR

In all arms but the last one, top_k x hidden is 512: the experts that answer need the same operations, whatever their
number ("FLOP-matched"; where all answers are computed anyway, as on a CPU, nothing is saved by it, and the plan and
the page count the operations of all experts). `hidden` is also the width of a layer's output: the head reads 2 x 64
numbers of 16 experts and 2 x 1,024 of the widest dense layer, which is part of what is compared. Parameters against the
baseline's 2,178,847, by `expressnet inspect`:

    2 experts, top 1: +2,556     8 experts, top 4: +264     16 experts, top 8: +3,480     (0.16 % at most)
    dense, same parameters (1 expert of 4 x 256): +9,210 (0.42 %), with twice the baseline's operations
    4 experts, top 1: +529,920   4 experts, top 4: -264,960   dense, same operations: -261,126

For fer2013_small alone, since the widths are absolute: for a config of the full network (hidden 512) double them.
Hardware: 2 CPU cores. Time: 8 settings x 3 seeds = 24 runs of an hour. Measured: not yet run.
"""


def get_study():
    def arm(experts, top, hidden):
        return {"moe.num_experts": str(experts), "moe.top_k": str(top), "moe.hidden": str(hidden)}

    return {
        "question": "Are experts worth more than one dense layer of the same operations or the same parameters?",
        "config": "fer2013_small",
        "baseline": "4 experts, top 2",
        "arms": {
            "4 experts, top 2": arm(4, 2, 256),
            "2 experts, top 1": arm(2, 1, 512),
            "8 experts, top 4": arm(8, 4, 128),
            "16 experts, top 8": arm(16, 8, 64),
            "4 experts, top 1": arm(4, 1, 512),
            "4 experts, top 4": arm(4, 4, 128),
            "dense, same operations": arm(1, 1, 512),
            "dense, same parameters": arm(1, 1, 1024),
        },
    }
