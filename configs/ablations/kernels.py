"""Are large kernels worth their arithmetic?

    expressnet ablate --study=kernels --out DIR

The kernels of the two convolutional branches, large to small as in the config, all of 3 pixels, and twice as large;
filters and depth stay. Of 3,237,967 parameters small kernels in both take away 28,480 (0.9 %), and large ones in both
add 198,400 (6.1 %).

For fer2013_small, whose branches have 5 and 4 blocks at 48 pixels; another config needs lists of its own lengths.
Hardware: 2 CPU cores. Time: 5 settings x 3 seeds = 15 runs of about an hour. Measured: not yet run with whole
trainings; three of the settings with a short one at 32 pixels: small kernels in cnnfe1 were better than the config's by
4.13 points (0.82 to 7.43); for large ones no difference was shown (docs/ablations.md).
"""


def get_study():
    def arm(first="15,11,5,3,3", second="5,3,3,3"):
        return {"model.cnnfe1.kernels": first, "model.cnnfe2.kernels": second}

    return {
        "question": "Do large kernels raise accuracy, in the first branch and in the second?",
        "config": "fer2013_small",
        "baseline": "as they are",
        "arms": {
            "as they are": arm(),
            "small in both": arm("3,3,3,3,3", "3,3,3,3"),
            "small in cnnfe1": arm("3,3,3,3,3"),
            "large in cnnfe1": arm("31,21,11,5,3"),
            "large in both": arm("31,21,11,5,3", "11,7,5,3"),
        },
    }
