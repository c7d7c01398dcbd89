"""Which random changes to the training pictures help?

    expressnet ablate --study=augmentation --out DIR

All of the config's, none, and all but one. Brightness and contrast go together. An arm that removes what a config does
not have is left out, and named; a config with erasing or mixup needs an arm for that too.

For any config. Hardware: 2 CPU cores with fer2013_small. Time: 7 settings x 3 seeds = 21 runs of an hour.
Measured: not yet run.
"""


def get_study():
    parts = {
        "flip": {"flip": "false"}, "crop": {"crop": "0"}, "shift": {"shift": "0"}, "rotation": {"rotate": "0"},
        "light": {"brightness": "0", "contrast": "0"},
    }  # fmt: skip
    off = {name: {f"augment.{key}": value for key, value in part.items()} for name, part in parts.items()}
    others = {"augment.saturation": "0", "augment.erase": "0", "augment.mixup": "0"}
    none = others | {key: value for one in off.values() for key, value in one.items()}
    return {
        "question": "Which augmentations raise accuracy, and which could go?",
        "config": "fer2013_small",
        "baseline": "whole",
        "arms": {"whole": {}, "none": none, **{f"without {name}": one for name, one in off.items()}},
    }
