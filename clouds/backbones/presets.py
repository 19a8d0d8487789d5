"""One function per built-in backbone: the numbers, and the built module. Imports nothing heavy by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clouds.core.interfaces import Backbone


def tiny(
    *, dims: tuple[int, ...] = (32, 64, 128, 256), depths: tuple[int, ...] = (2, 2, 4, 2), trainable: bool = False
) -> Backbone:
    """A ConvNeXt of 1.9 million parameters with a two-layer text tower, randomly initialised.

    It is for demos, tests and reading. Frozen random features say little: train it, or use a pretrained backbone.

    Args:
        dims: channels of res2..res5.
        depths: blocks of the four stages.
        trainable: whether the image trunk is trained; the text tower never is.
    """
    from clouds.backbones.tiny import TinyBackbone

    backbone = TinyBackbone(dims=tuple(dims), depths=tuple(depths))
    return backbone if trainable else backbone.freeze()


def timm_pyramid(*, model: str, pretrained: bool = True, trainable: bool = False) -> Backbone:
    """Any timm model with feature maps at strides 4, 8, 16 and 32 (ConvNeXt, ResNet, Swin, ...).

    Args:
        model: timm's name of it, with or without the tag of its weights.
        pretrained: download the published weights; False initialises randomly.
        trainable: train it too; frozen otherwise.
    """
    from clouds.backbones.timm_pyramid import TimmPyramid

    backbone = TimmPyramid(model, pretrained=pretrained)
    return backbone if trainable else backbone.freeze()
