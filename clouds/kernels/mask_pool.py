"""Mask pooling: the mean of a map under each mask (Ghiasi et al., OpenSeg, ECCV 2022; Xu et al., ODISE, CVPR 2023)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

_EPSILON = 1e-8


def mask_pool(features: Float[Tensor, "b c h w"], mask_logits: Float[Tensor, "b q hm wm"]) -> Float[Tensor, "b q c"]:
    """Mean of `features` over the pixels whose mask logit is above 0; an empty mask gives 0.

    Masks of another size are resized bilinearly first. No gradient passes through the masks.
    """
    if mask_logits.shape[-2:] != features.shape[-2:]:
        mask_logits = functional.interpolate(
            mask_logits, size=features.shape[-2:], mode="bilinear", align_corners=False
        )
    inside = (mask_logits > 0).to(features.dtype)
    area = inside.sum((-2, -1))[..., None] + _EPSILON
    return torch.einsum("bchw,bqhw->bqc", features, inside / area[..., None])
