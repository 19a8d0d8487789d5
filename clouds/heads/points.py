"""Points at which masks are compared (Kirillov et al., PointRend, CVPR 2020, section 3.1), as (x, y) in 0..1."""

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
IMPORTANCE = 0.75  # share of points at the least certain candidates


@runtime_checkable
class PointSource(Protocol):
    """Points at which masks are compared, per layer; layer 0 holds the initial queries.

    All layers and images are matched before any loss is computed. Points may be on any device.
    """

    def matching(self, layer: int, image: int, mask_logits: Float[Tensor, "q h w"]) -> Float[Tensor, "p 2"]:
        """Points for the matching costs of one image, shared by its masks."""
        ...

    def loss(
        self, layer: int, mask_logits: Float[Tensor, "n h w"], images: Int[Tensor, " n"]
    ) -> Float[Tensor, "n p 2"]:
        """Points for the losses of n matched masks, ordered by image, then by query."""
        ...


@final
@frozen(eq=False)
class _Drawn:
    """Random points of one layer: per image for the costs; candidates and unconditional points for the losses."""

    costs: list[Float[Tensor, "p 2"]]
    losses: list[tuple[Float[Tensor, "_ c 2"], Float[Tensor, "_ r 2"]]]


@final
@frozen(eq=False)
class RandomPoints:
    """Uniform points for the costs, mostly uncertain ones for the losses, as published.

    Attributes:
        count: points per mask.
        layers: random points by layer number.
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
        """Draw layer by layer, first for the costs, then for the losses.

        Args:
            count: points per mask.
            rng: random generator; None uses torch's default. `ImageGenerators` holds one generator per image.
                A generator on another kind of device only seeds a new one on `device`, which avoids copies.
                The same generator therefore gives different points on CUDA and CPU.
            layers: layer numbers, in drawing order.
            masks: matched masks per image in a layer.
            device: device of the masks and the points.
        """
        if isinstance(rng, ImageGenerators):
            images = [_generator_on(device, one) for one in rng.images]
            owners = list(zip(images, masks, strict=True))
        else:
            source = _generator_on(device, rng)
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
    """Fixed points "b p 2", used for all layers and masks of an image, in costs and losses."""

    points: Float[Tensor, "b p 2"]

    def matching(self, layer: int, image: int, mask_logits: Float[Tensor, "q h w"]) -> Float[Tensor, "p 2"]:
        return self.points[image]

    def loss(
        self, layer: int, mask_logits: Float[Tensor, "n h w"], images: Int[Tensor, " n"]
    ) -> Float[Tensor, "n p 2"]:
        return self.points.to(images.device)[images]


def uniform(count: int, points: int, rng: torch.Generator | None, device: torch.device) -> Float[Tensor, "n p 2"]:
    """Uniform random points on the generator's device, or on `device` if `rng` is None."""
    return torch.rand(count, points, 2, generator=rng, device=device if rng is None else rng.device)


def least_certain(
    mask_logits: Float[Tensor, "n h w"], candidates: Float[Tensor, "n p 2"], count: int
) -> Float[Tensor, "n c 2"]:
    """The `count` candidates whose mask logit is nearest to 0."""
    # Distance of each candidate's logit from 0 "n p"
    certainty = point_sample(mask_logits[:, None], candidates)[:, 0].abs()
    # Indices of the `count` smallest "n c"
    if certainty.device.type == "cpu":  # bits of non-negative floats sort like the floats, and integers sort faster
        rows = certainty.float().view(torch.int32)
        nearest = torch.stack([row.sort(stable=True).indices[:count] for row in rows])
    else:
        nearest = certainty.topk(count, dim=1, largest=False).indices
    return candidates.gather(1, nearest[..., None].expand(-1, -1, 2))


def _generator_on(device: torch.device, rng: torch.Generator | None) -> torch.Generator | None:
    """`rng` itself, or a generator on `device` seeded from it if it is on another kind of device."""
    if rng is None or rng.device.type == device.type:
        return rng
    seed = torch.randint(2**63 - 1, (), generator=rng, device=rng.device)
    return torch.Generator(device).manual_seed(int(seed))


def _candidates(
    masks: int, points: int, rng: torch.Generator | None, device: torch.device
) -> tuple[Float[Tensor, "n c 2"], Float[Tensor, "n r 2"]]:
    """Candidates to choose the least certain from, and the points that are used unconditionally."""
    candidates = uniform(masks, int(points * OVERSAMPLE), rng, device)
    return candidates, uniform(masks, points - int(points * IMPORTANCE), rng, device)
