"""Which random changes to the training pictures help?

    expressnet ablate --study=augmentation --out DIR

All of the config's, none, and all but one. Brightness and contrast go together. An arm that removes what a config does
not have is left out, and named; a config with erasing or mixup needs an arm for that too.

For any config. Hardware: 2 CPU cores with fer2013_small. Time: 7 settings x 3 seeds = 21 runs of an hour.
Measured: not yet run.
"""

_OFF = {
    "flip": {"augment.flip": "false"},
    "crop": {"augment.crop": "0"},
    "shift": {"augment.shift": "0"},
    "rotation": {"augment.rotate": "0"},
    "light": {"augment.brightness": "0", "augment.contrast": "0"},
}
_OTHERS = {"augment.saturation": "0", "augment.erase": "0", "augment.mixup": "0"}


def get_study():
    none = _OTHERS | {key: value for off in _OFF.values() for key, value in off.items()}
    return {
        "question": "Which augmentations raise accuracy, and which could go?",
        "config": "fer2013_small",
        "baseline": "whole",
        "seeds": 3,
        "arms": {"whole": {}, "none": none, **{f"without {name}": off for name, off in _OFF.items()}},
    }
