"""The linear head: summed lateral projections and a 3x3 classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from clouds.core.contract.component import FeatureSpec
from clouds.core.contract.records import Features
from clouds.heads.layers import ChannelNorm
from clouds.heads.pixel import PixelHead


@final
class LinearHead(PixelHead):
    """Projects every level to one width, sums the levels at res2, and classifies pixels with a 3x3 convolution.

    Args:
        features: channels and strides of res2..res5.
        classes: number of classes k.
        width: channels of the summed map.
    """

    def __init__(self, features: Mapping[str, FeatureSpec], *, classes: int, width: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleDict(
            {
                level: nn.Sequential(ChannelNorm(spec.channels), nn.Conv2d(spec.channels, width, 1))
                for level, spec in features.items()
            }
        )
        self.norm = ChannelNorm(width)
        self.classify = nn.Conv2d(width, classes, 3, padding=1)

    def logits(self, features: Features) -> Float[Tensor, "b k h4 w4"]:
        # Project all levels, resize to res2, sum: "b c h w"
        size = features.res2.shape[-2:]
        summed = sum(
            functional.interpolate(lateral(features.levels()[level]), size=size, mode="bilinear", align_corners=False)
            for level, lateral in self.laterals.items()
        )
        # Classify "b k h w"
        return self.classify(functional.gelu(self.norm(summed)))
