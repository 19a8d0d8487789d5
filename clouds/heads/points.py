"""Where masks are compared (Kirillov et al., PointRend, CVPR 2020, section 3.1). Points are (x, y) in 0..1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, final, runtime_checkable

import torch
from attrs import frozen
from jaxtyping import Float, Int
from torch import Tensor

from clouds.core.contract.interfaces import ImageGenerators
from clouds.kernels.point_sample import point_sample

OVERSAMPLE = 3.0  # candidates per point
IMPORTANCE = 0.75  # share of points taken where the mask is least certain


@runtime_checkable
class PointSource(Protocol):
    """Where masks are compared. Layers are numbered from 0 (bare queries); the last one is the final prediction.

    All layers and images are matched before any loss is computed. Points may be on any device.
    """

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
class _Drawn:
    """Random points of one layer: of each image for the costs; candidates, and what joins them, for the losses."""

    costs: list[Float[Tensor, "p 2"]]
    losses: list[tuple[Float[Tensor, "_ c 2"], Float[Tensor, "_ r 2"]]]


@final
@frozen(eq=False)
class RandomPoints:
    """Uniform points for the costs, mostly uncertain ones for the losses, as published.

    Attributes:
        count: points per mask.
        layers: what was drawn for each layer, by its number.
    """

    count: int
    layers: dict[int, _Drawn]

    @classmethod
    def draw(
        cls,
        count: int,
        rng: torch.Generator | None,
        *,
        layers: Sequence[int],
        masks: Sequence[int],
        device: torch.device,
    ) -> RandomPoints:
        """Draw layer by layer, for the costs and then for the losses.

        Args:
            count: points per mask.
            rng: source of the numbers; None takes torch's. From `ImageGenerators` each image draws its own.
                A generator of another kind of device than `device` is asked for a seed alone, so that nothing is
                copied; on CUDA points are others than on a CPU, for the same generator.
            layers: their numbers, in the order in which they draw.
            masks: masks of each image that are matched in a layer.
            device: where masks are, and points will be.
        """
        if isinstance(rng, ImageGenerators):
            images = [_on(device, one) for one in rng.images]
            owners = list(zip(images, masks, strict=True))
        else:
            source = _on(device, rng)
            images = [source] * len(masks)
            owners = [(source, sum(masks))]
        drawn: dict[int, _Drawn] = {}
        for layer in layers:
            costs = [uniform(1, count, one, device)[0] for one in images]
            losses = [_candidates(number, count, one, device) for one, number in owners if number]
            drawn[layer] = _Drawn(costs, losses)
        return cls(count, drawn)

    def matching(self, layer: int, image: int, mask_logits: Float[Tensor, "q h w"]) -> Float[Tensor, "p 2"]:
        return self.layers[layer].costs[image]

    def loss(
        self, layer: int, mask_logits: Float[Tensor, "n h w"], images: Int[Tensor, " n"]
    ) -> Float[Tensor, "n p 2"]:
        drawn = zip(*self.layers[layer].losses, strict=True)
        candidates, others = (torch.cat(parts).to(mask_logits.device) for parts in drawn)
        chosen = least_certain(mask_logits, candidates, int(self.count * IMPORTANCE))
        return torch.cat((chosen, others), dim=1)


@final
@frozen(eq=False)
class FixedPoints:
    """The same given points "b p 2" for all layers and masks of an image, in costs and losses."""

    points: Float[Tensor, "b p 2"]

    def matching(self, layer: int, image: int, mask_logits: Float[Tensor, "q h w"]) -> Float[Tensor, "p 2"]:
        return self.points[image]

    def loss(
        self, layer: int, mask_logits: Float[Tensor, "n h w"], images: Int[Tensor, " n"]
    ) -> Float[Tensor, "n p 2"]:
        return self.points.to(images.device)[images]


def uniform(count: int, points: int, rng: torch.Generator | None, device: torch.device) -> Float[Tensor, "n p 2"]:
    """Uniform random points on the generator's device; on `device` without one."""
    return torch.rand(count, points, 2, generator=rng, device=device if rng is None else rng.device)


def least_certain(
    mask_logits: Float[Tensor, "n h w"], candidates: Float[Tensor, "n p 2"], count: int
) -> Float[Tensor, "n c 2"]:
    """The `count` candidates whose mask logit is nearest to 0."""
    certainty = point_sample(mask_logits[:, None], candidates)[:, 0].abs()
    if certainty.device.type == "cpu":  # bits order as numbers above 0 do, and a row of integers sorts faster
        rows = certainty.float().view(torch.int32)
        nearest = torch.stack([row.sort(stable=True).indices[:count] for row in rows])
    else:
        nearest = certainty.topk(count, dim=1, largest=False).indices
    return candidates.gather(1, nearest[..., None].expand(-1, -1, 2))


def _on(device: torch.device, rng: torch.Generator | None) -> torch.Generator | None:
    """A generator of `device` in place of one of another kind of device, which gives its seed."""
    if rng is None or rng.device.type == device.type:
        return rng
    seed = torch.randint(2**63 - 1, (), generator=rng, device=rng.device)
    return torch.Generator(device).manual_seed(int(seed))


def _candidates(
    masks: int, points: int, rng: torch.Generator | None, device: torch.device
) -> tuple[Float[Tensor, "n c 2"], Float[Tensor, "n r 2"]]:
    """Points of which the least certain are taken, and those that are taken as they are."""
    candidates = uniform(masks, int(points * OVERSAMPLE), rng, device)
    return candidates, uniform(masks, points - int(points * IMPORTANCE), rng, device)
