"""Point sampling for mask losses (Kirillov et al., PointRend, CVPR 2020, section 3.1). Points are (x, y) in 0..1."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

OVERSAMPLE = 3.0  # candidates per point
IMPORTANCE = 0.75  # share of points taken where the mask is least certain


def sample(maps: Float[Tensor, "n c h w"], points: Float[Tensor, "n p 2"]) -> Float[Tensor, "n c p"]:
    """Bilinear values of maps at points; outside of the map is 0."""
    grid = (2 * points - 1)[:, :, None]
    return functional.grid_sample(maps, grid, align_corners=False)[..., 0]


def uniform(count: int, points: int, like: Tensor, generator: torch.Generator | None) -> Float[Tensor, "n p 2"]:
    """Uniform random points. They are drawn on the generator's device (the CPU by default) and then moved."""
    device = generator.device if generator is not None else torch.device("cpu")
    return torch.rand(count, points, 2, generator=generator, device=device).to(like)


def uncertain(
    mask_logits: Float[Tensor, "n h w"], points: int, generator: torch.Generator | None
) -> Float[Tensor, "n p 2"]:
    """Random points, most of them where mask logits are nearest to 0."""
    candidates = uniform(len(mask_logits), int(points * OVERSAMPLE), mask_logits, generator)
    certainty = sample(mask_logits[:, None], candidates)[:, 0].abs()
    chosen = int(points * IMPORTANCE)
    nearest = certainty.topk(chosen, dim=1, largest=False).indices
    hard = candidates.gather(1, nearest[..., None].expand(-1, -1, 2))
    return torch.cat((hard, uniform(len(mask_logits), points - chosen, mask_logits, generator)), dim=1)
