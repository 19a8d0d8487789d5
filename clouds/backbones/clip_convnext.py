"""CLIP ConvNeXt: the backbone of the paper's main results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from jaxtyping import Float
from torch import Tensor, nn

from clouds.backbones.blocks import convnext_blocks
from clouds.backbones.clip_backbone import MEAN, STD, ClipBackbone
from clouds.backbones.levels import sized
from clouds.backbones.tokenizers import Tokenizer
from clouds.core.contract.adaptation import Block, Blocks
from clouds.core.contract.records import Features
from clouds.kernels.mask_pool import mask_pool


@final
class ClipConvNeXt(ClipBackbone, Blocks):
    """ConvNeXt of an open_clip model (Liu et al., CVPR 2022; Cherti et al., CVPR 2023).

    res2..res5 are the outputs of the four stages, `dense` is res5. Pooling averages `dense` under a mask, then applies
    the trunk's LayerNorm and the projection into the text space.

    Args:
        clip_model: an open_clip model whose image tower is a timm ConvNeXt.
        tokenizer: maps texts to token ids.
        mean, std: per channel, 0..255.
    """

    def __init__(
        self,
        clip_model: nn.Module,
        tokenizer: Tokenizer,
        *,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        visual: Any = clip_model.visual
        super().__init__(
            clip_model,
            tokenizer,
            channels=[stage["num_chs"] for stage in visual.trunk.feature_info],
            pooling=[visual.trunk.head, visual.head],
            mean=mean,
            std=std,
        )

    @property
    def blocks(self) -> tuple[Block, ...]:
        trunk: Any = self.clip_model.visual.trunk  # pyright: ignore[reportAttributeAccessIssue]
        return convnext_blocks(trunk.stages)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Features:
        trunk: Any = self.clip_model.visual.trunk  # pyright: ignore[reportAttributeAccessIssue]
        x = trunk.stem(self.normalize(sized(images)))
        levels: list[Tensor] = []
        for stage in trunk.stages:
            x = stage(x)
            levels.append(x)
        res2, res3, res4, res5 = levels
        return Features(res2=res2, res3=res3, res4=res4, res5=res5, dense=trunk.norm_pre(res5))

    def pool(self, dense: Float[Tensor, "b d h w"], masks: Float[Tensor, "b q hm wm"]) -> Float[Tensor, "b q e"]:
        visual: Any = self.clip_model.visual
        # Mean under each mask "b q d"
        pooled = mask_pool(dense, masks)
        # Norm and projection see each mask as a 1 x 1 image "bq d 1 1"
        one_pixel_each = pooled.flatten(0, 1)[..., None, None]
        return visual.head(visual.trunk.head(one_pixel_each)).unflatten(0, pooled.shape[:2])
