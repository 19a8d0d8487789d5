"""Pixel decoder: turns a backbone's pyramid into mask features and the levels that queries attend to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from attrs import define
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from clouds.core.contract.component import FeatureSpec
from clouds.core.contract.records import Features
from clouds.core.system.errors import ConfigError
from clouds.heads.deformable_encoder import DeformableEncoder
from clouds.heads.layers import NormConv, PointwiseConv

_ENCODED = ("res5", "res4", "res3")  # coarse to fine
_GROUPS = 32


@define(eq=False, kw_only=True)
class PixelFeatures:
    """Output of the pixel decoder, input of the transformer decoder.

    Attributes:
        mask_features: "b c h/4 w/4"; mask logits are products with them.
        levels: "b c h/s w/s" at strides 32, 16, 8, in this order.
    """

    mask_features: Float[Tensor, "b c h w"]
    levels: tuple[Tensor, Tensor, Tensor]


@final
class PixelDecoder(nn.Module):
    """Deformable attention over res3..res5, then one top-down step to the stride of res2.

    Cheng et al., Mask2Former, CVPR 2022, section 3.2; parameter names match its published module.

    Args:
        features: channels and strides of res2..res5.
        width: channels of every output; a multiple of 64.
        heads, layers, points, feedforward: sizes of the encoder.

    Raises:
        ConfigError: `width` is not divisible into groups or heads.
    """

    def __init__(
        self,
        features: Mapping[str, FeatureSpec],
        *,
        width: int,
        heads: int,
        layers: int,
        points: int,
        feedforward: int,
    ) -> None:
        super().__init__()
        if width % (2 * _GROUPS) or width % heads:
            raise ConfigError(
                f"width={width} must be a multiple of {2 * _GROUPS} (two channels in each of the norms' {_GROUPS} "
                f"groups) and of heads={heads}"
            )
        self.input_proj = nn.ModuleList(
            nn.Sequential(PointwiseConv(features[level].channels, width), nn.GroupNorm(_GROUPS, width))
            for level in _ENCODED
        )
        for weight in self.input_proj.parameters():
            if weight.ndim > 1:
                nn.init.xavier_uniform_(weight)
        self.transformer = DeformableEncoder(
            width=width, heads=heads, levels=len(_ENCODED), points=points, layers=layers, feedforward=feedforward
        )
        self.mask_features = PointwiseConv(width, width)
        self.adapter_1 = NormConv(features["res2"].channels, width, 1, relu=False)
        self.layer_1 = NormConv(width, width, 3, relu=True)

    def forward(self, features: Features) -> PixelFeatures:
        # Project res5, res4, res3 to "b c h/s w/s" and encode them jointly
        levels = features.levels()
        projected = [project(levels[name]) for project, name in zip(self.input_proj, _ENCODED, strict=True)]
        coarse, middle, fine = self.transformer(projected)
        # Top-down step: res2 "b c h/4 w/4" plus the finest level, upsampled
        lateral = self.adapter_1(features.res2)
        # `fine` has channels-last strides, with which CPU interpolation is five times slower
        above = functional.interpolate(fine.contiguous(), size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        lateral += above
        # Mask features "b c h/4 w/4"
        return PixelFeatures(mask_features=self.mask_features(self.layer_1(lateral)), levels=(coarse, middle, fine))
