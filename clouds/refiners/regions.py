"""Votes on the label map within colour regions, so that its boundaries follow the image's.

Regions are superpixels after Achanta et al., "SLIC Superpixels Compared to State-of-the-Art Superpixel Methods", PAMI
2012: k-means in colour and position, where each pixel chooses among the nine nearest cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import kornia
import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

from clouds.core.contract.interfaces import Refiner
from clouds.core.contract.records import Prepared, Targets

_IGNORE = 255


@final
class RegionRefiner(Refiner):
    """Gives each region the majority class of its pixels.

    Args:
        cell: side of the initial grid cells in pixels.
        compactness: weight of position against colour.
        rounds: clustering iterations.
        agreement: minimum share of the winning class in a region; below it the region keeps its labels.
    """

    def __init__(self, *, cell: int, compactness: float, rounds: int, agreement: float) -> None:
        self.cell = cell
        self.compactness = compactness
        self.rounds = rounds
        self.agreement = agreement

    def prepare(self, images: Sequence[UInt8[Tensor, "3 _ _"]]) -> list[Prepared]:
        return [
            Prepared(tensors={"regions": superpixels(image, self.cell, self.compactness, self.rounds)})
            for image in images
        ]

    def refine(
        self,
        images: Sequence[UInt8[Tensor, "3 _ _"]],
        label_maps: Sequence[UInt8[Tensor, "_ _"]],
        *,
        rngs: Sequence[np.random.Generator | np.random.RandomState],
        prepared: Sequence[Prepared] | None = None,
    ) -> list[Targets]:
        prepared = self.prepare(images) if prepared is None else prepared
        return [
            Targets.from_label_map(vote(label_map, one.tensors["regions"], self.agreement))
            for label_map, one in zip(label_maps, prepared, strict=True)
        ]


def superpixels(image: UInt8[Tensor, "3 h w"], cell: int, compactness: float, rounds: int) -> Int[Tensor, "h w"]:
    """Region number of each pixel.

    Args:
        image: RGB.
        cell: side of the initial cells; a smaller image is one region.
        compactness: a distance of one cell weighs as much as `compactness` x 100 units of Lab colour.
        rounds: k-means iterations.
    """
    # Colour and position of each pixel "5 h w"
    height, width = image.shape[1:]
    rows, columns = max(1, round(height / cell)), max(1, round(width / cell))
    lab = kornia.color.rgb_to_lab(image[None].float() / 255)[0]
    y = (torch.arange(height, device=image.device) + 0.5) * (rows / height)
    x = (torch.arange(width, device=image.device) + 0.5) * (columns / width)
    position = torch.stack(torch.meshgrid(y, x, indexing="ij")) * (100 * compactness)
    pixels = torch.cat((lab, position))
    flat = pixels.flatten(1).T.contiguous()
    # The nine candidate regions of each pixel "h w", as cells of its row "h" and column "w"; it starts in its own cell
    numbers = torch.arange(rows * columns, device=image.device, dtype=torch.int32).view(rows, columns)
    nearby = [
        ((y.long() + dy).clamp(0, rows - 1), (x.long() + dx).clamp(0, columns - 1))
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    ]
    candidates = [_spread(numbers, row, column) for row, column in nearby]
    regions = candidates[4]
    # k-means: region centres "5 rows columns", squared distances "h w", nearest candidate "h w"
    for _ in range(rounds):
        centers = _means(flat, regions.flatten(), rows * columns).T.reshape(-1, rows, columns)
        nearest = torch.full((height, width), torch.inf, device=image.device)
        for candidate, (row, column) in zip(candidates, nearby, strict=True):
            distance = (pixels - _spread(centers, row, column)).square().sum(0)
            regions = torch.where(distance < nearest, candidate, regions)
            nearest = torch.minimum(distance, nearest)
    return regions


def vote(label_map: UInt8[Tensor, "h w"], regions: Int[Tensor, "h w"], agreement: float) -> UInt8[Tensor, "h w"]:
    """Give each region the majority class of its labelled pixels; regions below `agreement` keep their labels."""
    # Pixels per region and class "r k"
    classes, indices = label_map.unique(return_inverse=True)
    count = int(regions.max()) + 1
    votes = torch.zeros(count * len(classes), device=label_map.device)
    votes.index_add_(
        0,
        regions.flatten().long() * len(classes) + indices.flatten(),
        torch.ones_like(indices.flatten(), dtype=votes.dtype),
    )
    votes = votes.view(count, len(classes))
    # Share of each class, and the winner other than "ignore" "r"
    share = votes / votes.sum(1, keepdim=True).clamp(min=1)
    best = share.masked_fill(classes == _IGNORE, -1.0).max(1)
    winner = classes[best.indices]
    agreed = best.values >= agreement
    flat = regions.long()
    return torch.where(agreed[flat], winner[flat], label_map)


def _spread(
    cells: Shaped[Tensor, "... r s"], row: Int[Tensor, " h"], column: Int[Tensor, " w"]
) -> Shaped[Tensor, "... h w"]:
    """The value of each pixel's cell. Columns are chosen first, while the rows are few."""
    return cells.index_select(-1, column).index_select(-2, row)


def _means(pixels: Float[Tensor, "n c"], regions: Int[Tensor, " n"], count: int) -> Float[Tensor, "r c"]:
    sums = pixels.new_zeros(count, pixels.shape[1]).index_add_(0, regions, pixels)
    sizes = torch.bincount(regions, minlength=count).clamp(min=1)
    return sums / sizes[:, None]
