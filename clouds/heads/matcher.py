"""Pairs of predictions and targets: the cheapest, for all layers and images of a step at once, or those of a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from attrs import evolve, frozen
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clouds.core.contract.records import HeadOutput, Targets
from clouds.core.system.errors import NonFiniteError
from clouds.heads.points import PointSource
from clouds.kernels.matching_cost import matching_cost
from clouds.kernels.point_sample import point_sample


@frozen(eq=False, kw_only=True)
class Joined:
    """Targets of a batch, concatenated over images.

    Attributes:
        labels, masks: class and mask of each target.
        valid: pixels that count. On CPU, masks and `valid` are float32, as sampling needs, so that they are converted
            once and not once per layer.
        counts: number of targets per image; they sum to t.
    """

    labels: Int[Tensor, " t"]
    masks: Bool[Tensor, "t h w"] | Float[Tensor, "t h w"]
    valid: Bool[Tensor, "b h w"] | Float[Tensor, "b h w"]
    counts: list[int]


@frozen(eq=False, kw_only=True)
class Pairs:
    """Matched queries and targets of one layer, ordered by image, then by query.

    Attributes:
        images, queries, targets: indices of each pair; targets are numbered as in `Joined`.
        counts: pairs per image: the smaller of its numbers of queries and targets.
    """

    images: Int[Tensor, " n"]
    queries: Int[Tensor, " n"]
    targets: Int[Tensor, " n"]
    counts: list[int]


def join(targets: Sequence[Targets]) -> Joined:
    """Concatenate the targets of a batch."""
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
    """The cheapest pairs of each layer, by layer number.

    Costs of all layers are copied to the CPU at once, and all pairs back at once.

    Args:
        layers: predictions by layer number.
        wanted: targets.
        points: source of the points at which masks are compared.
        weights: weights of the class, mask and dice costs.

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


def merge_classes(target: Targets) -> Targets:
    """One target for each class of an image, ordered by class: the union of its masks."""
    labels, places = target.labels.unique(return_inverse=True)
    masks = target.masks.new_zeros(len(labels), *target.masks.shape[1:])
    masks = masks.index_put((places,), target.masks, accumulate=True)
    return evolve(target, labels=labels, masks=masks)


def bind(wanted: Joined) -> Pairs:
    """Each target with the query that has the number of its class. Classes are distinct and ordered in each image."""
    counts = torch.tensor(wanted.counts, device=wanted.labels.device)
    images = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    targets = torch.arange(len(wanted.labels), device=counts.device)
    return Pairs(images=images, queries=wanted.labels, targets=targets, counts=wanted.counts)


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
    from scipy.optimize import linear_sum_assignment  # takes half a second to import; only training needs it

    return linear_sum_assignment(cost.numpy())


def _assigned(cost: Float[Tensor, "q t"], counts: Sequence[int], starts: np.ndarray) -> np.ndarray:
    """Image, query and target index of each pair of one layer, "3 n"."""
    parts: list[np.ndarray] = []
    for image, part in enumerate(cost.split(list(counts), dim=1)):
        queries, targets = assign(part, image=image)
        parts.append(np.stack((np.full_like(queries, image), queries, targets + starts[image])))
    return np.concatenate(parts, axis=1)


def _costs(
    layers: Mapping[int, HeadOutput], wanted: Joined, points: PointSource, weights: tuple[float, float, float]
) -> Float[Tensor, "l q t"]:
    # Points for each layer and image "l b p 2"
    places = _places(layers, points).to(wanted.labels.device, torch.float32)
    # Predicted mask logits at the points "l b q p", layer by layer because maps take hundreds of megabytes
    values = places.new_empty(*places.shape[:2], next(iter(layers.values())).mask_logits.shape[1], places.shape[2])
    for index, output in enumerate(layers.values()):
        values[index] = point_sample(output.mask_logits, places[index])
    # Target masks "t lp" and validity "b lp" at the points of all layers "b lp 2"
    of_images = places.transpose(0, 1).flatten(1, 2)
    maps = zip(wanted.masks.split(wanted.counts), of_images[:, None], strict=True)
    masks = torch.cat([point_sample(of_image[None], here)[0] for of_image, here in maps])
    valid = point_sample(wanted.valid[:, None], of_images)[:, 0] > 0.5
    # Costs of all layers "l q t"
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
