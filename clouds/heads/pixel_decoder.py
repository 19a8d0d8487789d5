"""Pixel decoders: from a backbone's pyramid to mask features and the levels that queries attend to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from attrs import frozen
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from clouds.core.component import FeatureSpec
from clouds.core.interfaces import Features
from clouds.heads.layers import ChannelNorm


@frozen(eq=False, kw_only=True)
class PixelFeatures:
    """What a pixel decoder hands to the transformer decoder.

    Attributes:
        mask_features: "b c h/4 w/4"; masks are products with it.
        levels: "b c h/s w/s" at strides 32, 16, 8, in this order.
    """

    mask_features: Float[Tensor, "b c h w"]
    levels: tuple[Tensor, Tensor, Tensor]


@final
class LateralPixelDecoder(nn.Module):
    """Top-down sums of lateral projections, smoothed by 3x3 convolutions.

    Lin et al., Feature Pyramid Networks, CVPR 2017; as pixel decoder: MaskFormer (Cheng et al., NeurIPS 2021).

    Args:
        features: channels and strides of res2..res5.
        width: channels of every output.
    """

    def __init__(self, features: Mapping[str, FeatureSpec], *, width: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleDict(
            {
                level: nn.Sequential(ChannelNorm(spec.channels), nn.Conv2d(spec.channels, width, 1))
                for level, spec in features.items()
            }
        )
        self.smooth = nn.ModuleDict(
            {
                level: nn.Sequential(nn.Conv2d(width, width, 3, padding=1), ChannelNorm(width), nn.GELU())
                for level in features
            }
        )
        self.mask_projection = nn.Conv2d(width, width, 1)

    def forward(self, features: Features) -> PixelFeatures:
        levels = features.levels()
        outputs: dict[str, Tensor] = {}
        above: Tensor | None = None
        for level in reversed(levels):
            here = self.laterals[level](levels[level])
            if above is not None:
                here = here + functional.interpolate(above, size=here.shape[-2:], mode="bilinear", align_corners=False)
            above = outputs[level] = self.smooth[level](here)
        return PixelFeatures(
            mask_features=self.mask_projection(outputs["res2"]),
            levels=(outputs["res5"], outputs["res4"], outputs["res3"]),
        )
