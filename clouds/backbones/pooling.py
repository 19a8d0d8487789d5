"""Attention pooling under masks, without a [b q c h w] intermediate."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional


def masked_attention(
    query: Float[Tensor, "_ 1 d"],
    key: Float[Tensor, "b n d"],
    value: Float[Tensor, "b n d"],
    inside: Bool[Tensor, "b q n"],
    *,
    heads: int,
) -> Float[Tensor, "b q d"]:
    """Multi-head attention of one query per image (or one for all), restricted to the pixels of each mask.

    Inputs are already projected. An empty mask gives 0.
    """
    batch, queries, _ = inside.shape
    empty = ~inside.any(-1, keepdim=True)
    attended = functional.scaled_dot_product_attention(
        _split(query, heads).expand(batch, heads, queries, -1),
        _split(key, heads),
        _split(value, heads),
        attn_mask=(inside | empty)[:, None],  # a row without keys gives NaN on some devices
    )
    return attended.transpose(1, 2).flatten(2).masked_fill(empty, 0)


def _split(vectors: Tensor, heads: int) -> Tensor:
    """ "b n d" to "b heads n d/heads"."""
    return vectors.unflatten(-1, (heads, -1)).transpose(1, 2)
