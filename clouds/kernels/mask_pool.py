"""Mask pooling: the mean of a map under each mask (Ghiasi et al., OpenSeg, ECCV 2022; Xu et al., ODISE, CVPR 2023)."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

_EPSILON = 1e-8  # keeps the mean of an empty mask at 0, as published


def mask_pool(features: Float[Tensor, "b c h w"], mask_logits: Float[Tensor, "b q hm wm"]) -> Float[Tensor, "b q c"]:
    """Mean of `features` over the pixels inside each mask; 0 for an empty mask. Masks get no gradient."""
    inside = inside_of(mask_logits, (features.shape[-2], features.shape[-1]))
    total = inside.to(features.dtype) @ features.flatten(2).mT
    return total / (inside.sum(-1, keepdim=True) + _EPSILON)


def inside_of(mask_logits: Float[Tensor, "b q hm wm"], size: tuple[int, int]) -> Bool[Tensor, "b q n"]:
    """Which of the n = height x width pixels lie inside each mask: logits, resized bilinearly, above 0."""
    if tuple(mask_logits.shape[-2:]) != size:
        mask_logits = functional.interpolate(mask_logits, size=size, mode="bilinear", align_corners=False)
    return (mask_logits > 0).flatten(2)
