"""Are large kernels worth their arithmetic?

    expressnet ablate --study=kernels --out DIR

The kernels of the two convolutional branches, large to small as in the config, all of 3 pixels, and twice as large;
filters and depth stay. Of 2,197,231 parameters small kernels in both take away 41,216 (1.9 %), and large ones in both
add 576,768 (26 %).

For fer2013_small, whose branches have 4 blocks each at 48 pixels; another config needs lists of its own lengths.
Hardware: 2 CPU cores. Time: 5 settings x 3 seeds = 15 runs of about an hour. Measured: not yet run. With the sizes that
the small network had before, trained shortly at 32 pixels, kernels of 3 pixels in cnnfe1 were better than large ones by
4.13 points (0.82 to 7.43; docs/ablations.md).
"""


def get_study():
    def arm(first="9,5,3,3", second="5,3,3,3"):
        return {"model.cnnfe1.kernels": first, "model.cnnfe2.kernels": second}

    return {
        "question": "Do large kernels raise accuracy, in the first branch and in the second?",
        "config": "fer2013_small",
        "baseline": "as they are",
        "arms": {
            "as they are": arm(),
            "small in both": arm("3,3,3,3", "3,3,3,3"),
            "small in cnnfe1": arm("3,3,3,3"),
            "large in cnnfe1": arm("19,11,5,3"),
            "large in both": arm("19,11,5,3", "11,7,5,3"),
        },
    }
