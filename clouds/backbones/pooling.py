"""Pooling of pixel features under masks, without ever building a [b q c h w] tensor."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional


def inside_of(masks: Float[Tensor, "b q hm wm"], size: tuple[int, int]) -> Bool[Tensor, "b q n"]:
    """Which of the n = height x width pixels lie inside each mask: logits, resized bilinearly, above 0."""
    if tuple(masks.shape[-2:]) != size:
        masks = functional.interpolate(masks, size=size, mode="bilinear", align_corners=False)
    return (masks > 0).flatten(2)


def masked_mean(dense: Float[Tensor, "b d h w"], masks: Float[Tensor, "b q hm wm"]) -> Float[Tensor, "b q d"]:
    """Mean of the pixels inside each mask; 0 for an empty mask (the denominator is count + 1e-8, as published)."""
    inside = inside_of(masks, (dense.shape[-2], dense.shape[-1]))
    total = inside.to(dense.dtype) @ dense.flatten(2).mT
    return total / (inside.sum(-1, keepdim=True) + 1e-8)


def masked_attention(
    query: Float[Tensor, "_ 1 d"],
    key: Float[Tensor, "b n d"],
    value: Float[Tensor, "b n d"],
    inside: Bool[Tensor, "b q n"],
    *,
    heads: int,
) -> Float[Tensor, "b q d"]:
    """Multi-head attention of one query per image (or one for all), restricted to the pixels inside each mask.

    All vectors are already projected. An empty mask attends to nothing and gives 0.
    """
    batch, queries, _ = inside.shape
    empty = ~inside.any(-1, keepdim=True)
    attended = functional.scaled_dot_product_attention(
        _split(query, heads).expand(batch, heads, queries, -1),
        _split(key, heads),
        _split(value, heads),
        attn_mask=(inside | empty)[:, None],  # a row without any key would be NaN on some devices
    )
    return attended.transpose(1, 2).flatten(2).masked_fill(empty, 0)


def _split(vectors: Tensor, heads: int) -> Tensor:
    """ "b n d" to "b heads n d/heads"."""
    return vectors.unflatten(-1, (heads, -1)).transpose(1, 2)
