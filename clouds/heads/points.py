"""Point sampling for mask losses (Kirillov et al., PointRend, CVPR 2020, section 3.1). Points are (x, y) in 0..1."""

from __future__ import annotations

from typing import Protocol, final, runtime_checkable

import torch
from attrs import frozen
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from clouds.core.interfaces import ImageGenerators

OVERSAMPLE = 3.0  # candidates per point
IMPORTANCE = 0.75  # share of points taken where the mask is least certain


@runtime_checkable
class PointSource(Protocol):
    """Where masks are compared. Layers are numbered from 0 (bare queries); the last one is the final prediction."""

    def matching(self, layer: int, image: int, mask_logits: Float[Tensor, "q h w"]) -> Float[Tensor, "p 2"]:
        """Points for the matching costs of one image; all its masks share them."""
        ...

    def loss(
        self, layer: int, mask_logits: Float[Tensor, "n h w"], images: Int[Tensor, " n"]
    ) -> Float[Tensor, "n p 2"]:
        """Points for the losses of n matched masks, in the order of their images, then of their queries."""
        ...


@final
@frozen(eq=False)
class RandomPoints:
    """Uniform points for the costs, mostly uncertain ones for the losses, as published.

    Attributes:
        count: points per mask.
        generator: source of the random numbers; None takes torch's. From `ImageGenerators` each image draws its own.
    """

    count: int
    generator: torch.Generator | None

    def matching(self, layer: int, image: int, mask_logits: Float[Tensor, "q h w"]) -> Float[Tensor, "p 2"]:
        return uniform(1, self.count, mask_logits, self._of(image))[0]

    def loss(
        self, layer: int, mask_logits: Float[Tensor, "n h w"], images: Int[Tensor, " n"]
    ) -> Float[Tensor, "n p 2"]:
        if not isinstance(self.generator, ImageGenerators):
            return uncertain(mask_logits, self.count, self.generator)
        owners, counts = images.unique_consecutive(return_counts=True)
        parts = mask_logits.split(counts.tolist())
        drawn = [
            uncertain(part, self.count, self._of(image)) for image, part in zip(owners.tolist(), parts, strict=True)
        ]
        return torch.cat(drawn)

    def _of(self, image: int) -> torch.Generator | None:
        return self.generator.images[image] if isinstance(self.generator, ImageGenerators) else self.generator


@final
@frozen(eq=False)
class FixedPoints:
    """The same given points "b p 2" for all layers and masks of an image, in costs and losses."""

    points: Float[Tensor, "b p 2"]

    def matching(self, layer: int, image: int, mask_logits: Float[Tensor, "q h w"]) -> Float[Tensor, "p 2"]:
        return self.points[image].to(mask_logits)

    def loss(
        self, layer: int, mask_logits: Float[Tensor, "n h w"], images: Int[Tensor, " n"]
    ) -> Float[Tensor, "n p 2"]:
        return self.points.to(mask_logits)[images]


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
    chosen = least_certain(mask_logits, candidates, int(points * IMPORTANCE))
    return torch.cat((chosen, uniform(len(mask_logits), points - chosen.shape[1], mask_logits, generator)), dim=1)


def least_certain(
    mask_logits: Float[Tensor, "n h w"], candidates: Float[Tensor, "n p 2"], count: int
) -> Float[Tensor, "n c 2"]:
    """The `count` candidates whose mask logit is nearest to 0."""
    certainty = sample(mask_logits[:, None], candidates)[:, 0].abs()
    nearest = certainty.topk(count, dim=1, largest=False).indices
    return candidates.gather(1, nearest[..., None].expand(-1, -1, 2))
