"""Classification models of torchvision as backbones: `torchvision:NAME`."""

from pathlib import Path

from clouds import Component, hookimpl

FAMILY = "torchvision"


@hookimpl
def clouds_resolve(kind, name):
    family, _, model = name.partition(":")
    if kind != "backbone" or family != FAMILY or not model:
        return None
    return Component(
        name=name,
        kind="backbone",
        factory="clouds_torchvision:torchvision",
        summary=f"torchvision's {model} as a feature pyramid",
        source=f"torchvision: {model}",
        licence="BSD-3-Clause; of the weights: see torchvision's page of the model",
        provides=["res2", "res3", "res4", "res5"],
        options={"model": model},
    )


def torchvision(
    *,
    model: str,
    pretrained: bool | Path = True,
    trainable: bool = False,
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53),
    std: tuple[float, float, float] = (58.395, 57.12, 57.375),
    unit_rms: bool = False,
):
    """A classification model of torchvision, without its classifier.

    Args:
        model: torchvision's name of the model.
        pretrained: load the default weights; False initialises randomly; a path reads a local file with torchvision's
            keys (.safetensors, .pth).
        trainable: train the backbone; otherwise it is frozen.
        mean, std: normalisation of the weights' training images, per channel (RGB, 0..255).
        unit_rms: scale each pixel's channels to a mean square of 1.
    """
    from clouds_torchvision.pyramid import build_pyramid  # so that torch is only imported when building

    backbone = build_pyramid(model, pretrained=pretrained, mean=mean, std=std, unit_rms=unit_rms)
    return backbone if trainable else backbone.freeze()
