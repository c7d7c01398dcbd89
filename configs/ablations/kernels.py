"""Are large kernels worth their arithmetic?

    expressnet ablate --study=kernels --out DIR

The first branch with kernels of 3 pixels alone and with twice as large ones, the second, which has kernels of 3 pixels,
with large ones, and both with large ones; filters and depth stay. Of 2,178,847 parameters small kernels take away
11,648 (0.5 %), and large ones in both add 319,104 (15 %).

For fer2013_small, whose branches have 4 and 5 blocks at 48 pixels; another config needs lists of its own lengths.
Hardware: 2 CPU cores. Time: 5 settings x 3 seeds = 15 runs of about an hour. Measured: not yet run. With the sizes that
the small network had before, trained shortly at 32 pixels, kernels of 3 pixels in cnnfe1 were better than large ones by
4.13 points (0.82 to 7.43; docs/ablations.md).
"""


def get_study():
    def arm(first="9,5,3,3", second="3,3,3,3,3"):
        return {"model.cnnfe1.kernels": first, "model.cnnfe2.kernels": second}

    return {
        "question": "Do large kernels raise accuracy, in the first branch and in the second?",
        "config": "fer2013_small",
        "baseline": "as they are",
        "arms": {
            "as they are": arm(),
            "small in cnnfe1": arm("3,3,3,3"),
            "large in cnnfe1": arm("19,11,5,3"),
            "large in cnnfe2": arm(second="11,7,5,3,3"),
            "large in both": arm("19,11,5,3", "11,7,5,3,3"),
        },
    }
