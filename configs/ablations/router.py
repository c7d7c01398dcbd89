"""What is a learned router worth?

    expressnet ablate --study=router --out DIR

The learned router against one that is drawn once and never learns (it still sends similar pictures to the same
experts), against all experts weighted by their probability, and against gates that are divided by their sum.

For any config with top_k above 1 and, because of the frozen router, no balance losses. Hardware: 2 CPU cores with
fer2013_small. Time: 4 settings x 3 seeds = 12 runs of an hour. Measured: not yet run.
"""


def get_study():
    def arm(router, renormalize="false"):
        return {"moe.router": router, "moe.renormalize": renormalize}

    return {
        "question": "Is a learned choice of experts better than a frozen random one, and than no choice at all?",
        "config": "fer2013_small",
        "baseline": "learned",
        "arms": {
            "learned": arm("top_k"),
            "learned, renormalized": arm("top_k", "true"),
            "frozen random": arm("random"),
            "soft": arm("soft"),
        },
    }
