"""What are weights from elsewhere worth to the ResNet?

    expressnet ablate --study=pretrained --out DIR --config.init.backbone=FILE

FILE is yours: VGGFace2's ResNet-50 as the paper starts from, or another (docs/weights.md). Weights bring the
preprocessing that they were trained with, so there are two more arms: the weights with the config's own preprocessing,
which they have not seen, and random weights with VGGFace2's preprocessing, so that the two changes can be told apart.

For configs of the full network, whose ResNet-50 such files fit; an artifact of this project's own fits the config that
it was made with, small ones too. Hardware: one GPU or a TPU slice with fer2013. Time: 4 settings x 3 seeds = 12 runs.
Measured: not yet run.
"""


def get_study():
    vggface2 = {"preprocess.color_order": "bgr", "preprocess.normalize": "vggface2"}
    return {
        "question": "What does the ResNet gain from weights of other faces, and how much of it is preprocessing?",
        "config": "fer2013",
        "baseline": "scratch",
        "needs": {"init.backbone": "a file with the ResNet's weights, such as VGGFace2's ResNet-50 as .h5"},
        "arms": {
            "scratch": {"init.backbone": ""},
            "scratch, VGGFace2's preprocessing": {"init.backbone": "", **vggface2},
            "pretrained": {},
            "pretrained, own preprocessing": {"init.preprocess": "false"},
        },
    }
