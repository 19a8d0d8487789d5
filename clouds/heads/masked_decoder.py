"""Transformer decoder with masked attention (Cheng et al., Mask2Former, CVPR 2022, section 3.2)."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from clouds.core.interfaces import HeadOutput
from clouds.heads.layers import Attention, Mlp, sine_position
from clouds.heads.pixel_decoder import PixelFeatures

_LEVELS = 3


@final
class MaskedLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward; each with a residual and a norm behind it."""

    def __init__(self, *, width: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.cross, self.own = Attention(width, heads), Attention(width, heads)
        self.feedforward = Mlp(width, feedforward, width)
        self.cross_norm, self.own_norm, self.feedforward_norm = (nn.LayerNorm(width) for _ in range(3))

    def forward(
        self,
        x: Float[Tensor, "b q c"],
        query_position: Float[Tensor, "b q c"],
        memory: Float[Tensor, "b n c"],
        memory_position: Float[Tensor, "n c"],
        mask: Bool[Tensor, "b 1 q n"],
    ) -> Float[Tensor, "b q c"]:
        x = self.cross_norm(x + self.cross(x + query_position, memory + memory_position, memory, mask))
        x = self.own_norm(x + self.own(x + query_position, x + query_position, x))
        return self.feedforward_norm(x + self.feedforward(x))


@final
class MaskedDecoder(nn.Module):
    """Queries become masks and classes.

    A mask is made from the queries before the first layer and after each layer; each layer attends only where the mask
    before it is open (logit >= 0). The mask at a level comes from mask features resized to that level once:
    interpolation is linear, so this is the same number as resizing the masks. In eval mode the intermediate masks
    are never made at full size.

    Args:
        classes: number of classes k; one more output is "no object".
        queries, width, layers, heads, feedforward: sizes.
    """

    def __init__(self, *, classes: int, queries: int, width: int, layers: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.query_features = nn.Embedding(queries, width)
        self.query_position = nn.Embedding(queries, width)
        self.level_embedding = nn.Embedding(_LEVELS, width)
        self.layers = nn.ModuleList(
            MaskedLayer(width=width, heads=heads, feedforward=feedforward) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.class_embed = nn.Linear(width, classes + 1)
        self.mask_embed = Mlp(width, width, width, width)

    def forward(self, pixels: PixelFeatures) -> HeadOutput:
        batch = len(pixels.mask_features)
        x = self.query_features.weight.expand(batch, -1, -1)
        query_position = self.query_position.weight.expand(batch, -1, -1)
        keys = [
            (level.flatten(2).transpose(1, 2) + self.level_embedding.weight[index], _positions(level))
            for index, level in enumerate(pixels.levels)
        ]
        small = [_resize(pixels.mask_features, level.shape[-2:]).flatten(2) for level in pixels.levels]
        auxiliary: list[HeadOutput] = []
        for index, layer in enumerate(self.layers):
            level = index % _LEVELS
            mask_embed = self.mask_embed(self.norm(x))
            if self.training:
                auxiliary.append(self._predict(x, pixels.mask_features))
            mask = _open(torch.bmm(mask_embed.detach(), small[level].detach()))
            x = layer(x, query_position, *keys[level], mask)
        final_prediction = self._predict(x, pixels.mask_features)
        return HeadOutput(
            class_logits=final_prediction.class_logits,
            mask_logits=final_prediction.mask_logits,
            auxiliary=tuple(auxiliary),
        )

    def _predict(self, x: Float[Tensor, "b q c"], mask_features: Float[Tensor, "b c h w"]) -> HeadOutput:
        x = self.norm(x)
        masks = torch.einsum("bqc,bchw->bqhw", self.mask_embed(x), mask_features)
        return HeadOutput(class_logits=self.class_embed(x), mask_logits=masks)


def _open(mask_logits: Float[Tensor, "b q n"]) -> Bool[Tensor, "b 1 q n"]:
    """Where a query may attend; one with an empty mask attends everywhere."""
    inside = mask_logits >= 0
    return (inside | ~inside.any(-1, keepdim=True))[:, None]


def _positions(level: Float[Tensor, "b c h w"]) -> Float[Tensor, "n c"]:
    channels, height, width = level.shape[1:]
    return sine_position(height, width, channels, level.device).flatten(1).T


def _resize(features: Float[Tensor, "b c h w"], size: torch.Size) -> Tensor:
    return functional.interpolate(features, size=size, mode="bilinear", align_corners=False)
