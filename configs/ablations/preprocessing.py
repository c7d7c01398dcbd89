"""What does the published preprocessing cost?

    expressnet ablate --study=preprocessing --out DIR
    expressnet ablate --study=preprocessing --out DIR --config fer2013 --config.init.backbone=FILE.h5

As published (BGR divided by 255) against what VGGFace2's weights were trained on (BGR, 0 to 255 minus the channels'
means), ImageNet's, and zero mean and unit deviation, of all pictures together or of each one. It matters most with
weights from elsewhere, the second command: the published system feeds its VGGFace2 weights something that they have
never seen. On grey pictures such as FER-2013's the order of the colours matters only for the means that are
subtracted. `init.preprocess` is off in every arm, or the weights' own preprocessing would replace all of them.

For any config; mean and deviation of `standard` are FER-2013's. Hardware: 2 CPU cores with fer2013_small. Time:
5 settings x 3 seeds = 15 runs of an hour. Measured: not yet run.
"""


def get_study():
    def arm(order, normalize, **more):
        made = {"preprocess.color_order": order, "preprocess.normalize": normalize, "init.preprocess": "false"}
        return made | {f"preprocess.{key}": value for key, value in more.items()}

    return {
        "question": "What does the published preprocessing (BGR divided by 255) cost against correct ones?",
        "config": "fer2013_small",
        "baseline": "as published",
        "arms": {
            "as published": arm("bgr", "unit"),
            "vggface2": arm("bgr", "vggface2"),
            "imagenet": arm("rgb", "imagenet"),
            "standard": arm("rgb", "standard", mean="0.507", std="0.255"),
            "per_image": arm("rgb", "per_image"),
        },
    }
