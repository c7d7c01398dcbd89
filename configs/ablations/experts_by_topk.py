"""How many experts, and how many of them answer? Every expert as wide as the config has it ("width-matched").

    expressnet ablate --study=experts_by_topk --out DIR

1, 2, 4, 8 and 16 experts, of which the likeliest one or two answer (of 1 expert, one). The head always has the same
width. Parameters grow with the number of experts, and the operations that are needed with the number that answers (the
plan and the page count those of all experts, as they are computed by default). So a larger arm may win by its size
alone: experts_flop_matched.py keeps that equal.

For any config. Hardware: 2 CPU cores with fer2013_small. Time: 9 settings x 3 seeds = 27 runs of an hour.
Measured: with a short training at 32 pixels, 82 minutes: one answering expert of 8 or 16 is worse than two of 4; for
the others no difference is shown (docs/ablations.md). Not yet run with whole trainings.
"""

from data_pipelines.common.text import counted


def get_study():
    pairs = [(e, k) for e in (1, 2, 4, 8, 16) for k in (1, 2) if k <= e]
    return {
        "question": "How many experts should each layer have, and how many of them should answer for a picture?",
        "config": "fer2013_small",
        "baseline": "4 experts, top 2",
        "arms": {
            f"{counted(e, 'expert')}, top {k}": {"moe.num_experts": str(e), "moe.top_k": str(k)} for e, k in pairs
        },
    }
