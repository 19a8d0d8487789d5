"""CLIP's modified ResNets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from clouds.backbones.clip_backbone import MEAN, STD, ClipBackbone
from clouds.backbones.levels import sized
from clouds.backbones.pooling import masked_attention
from clouds.backbones.tokenizers import Tokenizer
from clouds.core.contract.records import Features
from clouds.kernels.mask_pool import inside_of


@final
class ClipResNet(ClipBackbone):
    """ModifiedResNet of an open_clip model (Radford et al., ICML 2021).

    res2..res5 are the outputs of the four stages, `dense` is res5. Masks are pooled by CLIP's attention pool. The query
    is the mean of all pixels; keys are the pixels under the mask, with position embeddings resized to the map. An empty
    mask gives the bias of the output projection.

    Args:
        clip_model: an open_clip model whose image tower is a ModifiedResNet.
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
            channels=[
                stage[-1].conv3.out_channels for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4)
            ],
            pooling=[visual.attnpool],
            mean=mean,
            std=std,
        )

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Features:
        visual: Any = self.clip_model.visual
        res2 = visual.layer1(visual.stem(self.normalize(sized(images))))
        res3 = visual.layer2(res2)
        res4 = visual.layer3(res3)
        res5 = visual.layer4(res4)
        return Features(res2=res2, res3=res3, res4=res4, res5=res5, dense=res5)

    def pool(self, dense: Float[Tensor, "b d h w"], masks: Float[Tensor, "b q hm wm"]) -> Float[Tensor, "b q e"]:
        pool: Any = self.clip_model.visual.attnpool  # pyright: ignore[reportAttributeAccessIssue]
        size = (dense.shape[-2], dense.shape[-1])
        # Pixels "b hw d", their mean as the query "b 1 d", pixels with positions as keys "b hw d"
        pixels = dense.flatten(2).mT
        query = pixels.mean(1, keepdim=True) + pool.positional_embedding[:1]
        keys = pixels + resized_positions(pool.positional_embedding[1:], size)
        # Attend within each mask "b q d", project to the text space "b q e"
        attended = masked_attention(
            pool.q_proj(query), pool.k_proj(keys), pool.v_proj(keys), inside_of(masks, size), heads=pool.num_heads
        )
        return pool.c_proj(attended)


def resized_positions(grid: Float[Tensor, "n d"], size: tuple[int, int]) -> Float[Tensor, "m d"]:
    """Resize a square grid of position embeddings bilinearly to height x width."""
    side = round(len(grid) ** 0.5)
    square = grid.mT.unflatten(-1, (side, side))[None]
    return functional.interpolate(square, size=size, mode="bilinear", align_corners=False)[0].flatten(1).mT
