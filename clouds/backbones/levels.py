"""Strides, feature specs and valid image sizes of all backbones."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from clouds.core.contract.component import FeatureSpec
from clouds.core.contract.interfaces import LEVELS, SIZE_DIVISOR
from clouds.core.system.errors import DataError

STRIDES = (4, 8, 16, 32)


def specs_of(channels: Sequence[int]) -> dict[str, FeatureSpec]:
    """Feature specs of res2..res5 from their channels."""
    return {
        level: FeatureSpec(channels=count, stride=stride)
        for level, count, stride in zip(LEVELS, channels, STRIDES, strict=True)
    }


def sized(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Check the image size and return the images.

    Raises:
        DataError: height or width is not a positive multiple of 32.
    """
    height, width = images.shape[-2:]
    if height % SIZE_DIVISOR or width % SIZE_DIVISOR or not (height and width):
        raise DataError(
            f"backbone: images are {height} x {width} pixels (height x width); expected positive multiples of "
            f"{SIZE_DIVISOR}; pad them (Pipeline.pad does, with the backbone's mean)"
        )
    return images
