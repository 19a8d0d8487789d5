"""The semantic branch of Panoptic FPN: a feature pyramid, one small decoder per level, and a 1x1 classifier.

Kirillov, Girshick, He, Dollar: "Panoptic Feature Pyramid Networks", CVPR 2019, section 3.1 and figure 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from clouds.core.contract.component import FeatureSpec
from clouds.core.contract.records import Features
from clouds.core.system.errors import ConfigError
from clouds.heads.layers import NormConv, PointwiseConv
from clouds.heads.pixel import PixelHead

_GROUP = 32  # channels must divide into the 32 groups of the group norm


@final
class FpnHead(PixelHead):
    """Feature pyramid with a top-down path; each level is decoded to res2, and the sum is classified per pixel.

    Args:
        features: channels and strides of res2..res5.
        classes: number of classes k.
        pyramid_width: channels of the feature pyramid.
        width: channels of the decoders; a multiple of 32.

    Raises:
        ConfigError: `pyramid_width` is below 1, or `width` is not a multiple of 32.
    """

    def __init__(self, features: Mapping[str, FeatureSpec], *, classes: int, pyramid_width: int, width: int) -> None:
        super().__init__()
        if pyramid_width < 1:
            raise ConfigError(f"head fpn: pyramid_width is {pyramid_width}; expected at least 1")
        if width < 1 or width % _GROUP:
            raise ConfigError(f"head fpn: width is {width}; expected a multiple of {_GROUP}, for group norm")
        self.laterals = nn.ModuleDict(
            {level: PointwiseConv(spec.channels, pyramid_width) for level, spec in features.items()}
        )
        self.outputs = nn.ModuleDict(
            {level: nn.Conv2d(pyramid_width, pyramid_width, 3, padding=1) for level in features}
        )
        self.decoders = nn.ModuleDict(
            {level: _decoder(pyramid_width, width, halvings=index) for index, level in enumerate(features)}
        )
        self.classify = nn.Conv2d(width, classes, 1)

    def logits(self, features: Features) -> Float[Tensor, "b k h4 w4"]:
        # Top-down path: project each level and add the coarser map "b c h/s w/s"
        levels = features.levels()
        merged = self.laterals["res5"](levels["res5"])
        pyramid = {"res5": merged}
        for level in ("res4", "res3", "res2"):
            finer = self.laterals[level](levels[level])
            merged = finer + functional.interpolate(merged, size=finer.shape[-2:], mode="nearest")
            pyramid[level] = merged
        # Decode every level to res2 and sum "b c h/4 w/4"
        decoded = sum(decode(self.outputs[level](pyramid[level])) for level, decode in self.decoders.items())
        # Classify "b k h4 w4"
        return self.classify(decoded)


def _decoder(inputs: int, width: int, *, halvings: int) -> nn.Sequential:
    """3x3 convolution, group norm, ReLU and a bilinear doubling per halving of the level; res2 has no doubling."""
    layers: list[nn.Module] = []
    for index in range(max(halvings, 1)):
        layers.append(NormConv(width if index else inputs, width, 3, relu=True))
        if halvings:
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers)
