"""Are experts worth more than one dense layer, for the same operations and the same parameters?

    expressnet ablate --study=experts_flop_matched --out DIR

In all arms but the last one, top_k x hidden is 512: as many operations by the experts that answer, whatever their
number ("FLOP-matched"; a machine that computes all answers anyway, as a CPU does, saves nothing by it). The width of the
layer's output, and so of what the head reads, is `hidden`, which is why parameters do not match to the last one. By
`expressnet inspect --config=fer2013_small ...`, of which the baseline has 2,223,575:

    the same to 0.2 %: 2 experts, top 1: +2,554; 8 experts, top 4: +262; 16 experts, top 8: +3,423
    dense, same parameters (1 expert of 4 x 256): +9,210, 0.4 %; twice the baseline's operations in experts
    4 experts, top 1: +529,920; 4 experts, top 4: -265,984; dense, same operations: -260,102

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
        "seeds": 3,
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
