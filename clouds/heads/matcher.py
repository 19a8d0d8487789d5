"""Bipartite matching of predictions and targets: all layers and images of a step at once, in float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from attrs import frozen
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clouds.core.contract.records import HeadOutput, Targets
from clouds.core.system.errors import NonFiniteError
from clouds.heads.points import PointSource
from clouds.kernels.matching_cost import matching_cost
from clouds.kernels.point_sample import point_sample


@frozen(eq=False, kw_only=True)
class Joined:
    """Targets of a batch, image after image.

    Attributes:
        labels, masks: of all targets.
        valid: pixels of each image that count. On a CPU these and masks are float32, in which a CPU samples maps:
            so they are converted once, not once per layer.
        counts: targets of each image; they sum to t.
    """

    labels: Int[Tensor, " t"]
    masks: Bool[Tensor, "t h w"] | Float[Tensor, "t h w"]
    valid: Bool[Tensor, "b h w"] | Float[Tensor, "b h w"]
    counts: list[int]


@frozen(eq=False, kw_only=True)
class Pairs:
    """Queries and the targets that they are given in one layer, image after image, then in the order of the queries.

    Attributes:
        images, queries, targets: of each pair; a target is numbered as in `Joined`.
        counts: pairs of each image: as many as it has queries or targets, whichever are fewer.
    """

    images: Int[Tensor, " n"]
    queries: Int[Tensor, " n"]
    targets: Int[Tensor, " n"]
    counts: list[int]


def join(targets: Sequence[Targets]) -> Joined:
    """The targets of a batch as one record."""
    masks, valid = torch.cat([target.masks for target in targets]), torch.stack([target.valid for target in targets])
    sampled = torch.float32 if masks.device.type == "cpu" else torch.bool
    return Joined(
        labels=torch.cat([target.labels for target in targets]),
        masks=masks.to(sampled),
        valid=valid.to(sampled),
        counts=[len(target.labels) for target in targets],
    )


@torch.no_grad()
def match(
    layers: Mapping[int, HeadOutput], wanted: Joined, points: PointSource, weights: tuple[float, float, float]
) -> dict[int, Pairs]:
    """The cheapest pairs of each layer, by its number. All costs reach the CPU in one copy, all pairs leave it in one.

    Args:
        layers: predictions by number of the layer.
        wanted: targets.
        points: where masks are compared.
        weights: of the class, mask and dice costs.

    Raises:
        NonFiniteError: a cost is not finite; the message names the image.
    """
    costs = _costs(layers, wanted, points, weights).cpu()
    starts = np.cumsum([0, *wanted.counts])
    found = np.stack([_assigned(cost, wanted.counts, starts) for cost in costs])
    pairs = torch.from_numpy(found).to(wanted.labels.device)
    counts = [min(costs.shape[1], count) for count in wanted.counts]
    return {
        layer: Pairs(images=images, queries=queries, targets=targets, counts=counts)
        for layer, (images, queries, targets) in zip(layers, pairs, strict=True)
    }


def assign(cost: Float[Tensor, "q n"], *, image: int) -> tuple[np.ndarray, np.ndarray]:
    """Hungarian assignment on the CPU: query and target indices of the pairs.

    Raises:
        NonFiniteError: a cost is not finite; the message names the image.
    """
    if not cost.isfinite().all():
        raise NonFiniteError(
            f"matching cost of image {image} of the batch is not finite: the network's output for it is NaN or "
            "infinite; look at that image, the learning rate and the precision"
        )
    from scipy.optimize import linear_sum_assignment  # half a second that only training pays

    return linear_sum_assignment(cost.numpy())


def _assigned(cost: Float[Tensor, "q t"], counts: Sequence[int], starts: np.ndarray) -> np.ndarray:
    """Images, queries and targets of the pairs of one layer, "3 n"."""
    parts: list[np.ndarray] = []
    for image, part in enumerate(cost.split(list(counts), dim=1)):
        queries, targets = assign(part, image=image)
        parts.append(np.stack((np.full_like(queries, image), queries, targets + starts[image])))
    return np.concatenate(parts, axis=1)


def _costs(
    layers: Mapping[int, HeadOutput], wanted: Joined, points: PointSource, weights: tuple[float, float, float]
) -> Float[Tensor, "l q t"]:
    places = _places(layers, points).to(wanted.labels.device, torch.float32)
    values = places.new_empty(*places.shape[:2], next(iter(layers.values())).mask_logits.shape[1], places.shape[2])
    for index, output in enumerate(layers.values()):  # layer by layer: they may take hundreds of megabytes
        values[index] = point_sample(output.mask_logits, places[index])
    of_images = places.transpose(0, 1).flatten(1, 2)  # "b lp 2"
    maps = zip(wanted.masks.split(wanted.counts), of_images[:, None], strict=True)
    masks = torch.cat([point_sample(of_image[None], here)[0] for of_image, here in maps])  # "t lp"
    valid = point_sample(wanted.valid[:, None], of_images)[:, 0] > 0.5  # "b lp"
    by_layer = (len(layers), -1)
    return matching_cost(
        torch.stack([output.class_logits.float() for output in layers.values()]),
        values,
        wanted.labels,
        masks.unflatten(1, by_layer).transpose(0, 1),
        valid.float().unflatten(1, by_layer).transpose(0, 1),
        wanted.counts,
        weights,
    )


def _places(layers: Mapping[int, HeadOutput], points: PointSource) -> Float[Tensor, "l b p 2"]:
    return torch.stack(
        [
            torch.stack([points.matching(layer, image, one) for image, one in enumerate(output.mask_logits)])
            for layer, output in layers.items()
        ]
    )
