"""Multi-scale deformable attention (Zhu et al., Deformable DETR, ICLR 2021, equation 3).

output[b, q, m] = sum over levels l and points p of weight[b, q, m, l, p] x value_l[b, m] at location[b, q, m, l, p]

where value_l is a map of "height width" cells read bilinearly: cell centres lie at (i + 0.5) / size, and outside of
the map is 0 (`align_corners=False`, zero padding).

Axis letters: b images, s cells of all levels (coarse to fine, row by row), q queries, m heads, d channels per head,
l levels, p points.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Shapes = Sequence[tuple[int, int]]

_QUERIES = 4096  # per gather on the CPU: bounds the memory of its indices; larger ones are not faster


def deformable_sampling(
    value: Float[Tensor, "b s m d"],
    spatial_shapes: Shapes,
    sampling_locations: Float[Tensor, "b q m l p 2"],
    attention_weights: Float[Tensor, "b q m l p"],
) -> Float[Tensor, "b q md"]:
    """Weighted bilinear samples of the values of each head, heads side by side.

    Args:
        value: values of all levels' cells.
        spatial_shapes: (height, width) of each level; their areas sum to s.
        sampling_locations: (x, y), 0..1 within the level; anything outside reads 0.
        attention_weights: weight of each sample.

    Raises:
        ValueError: the areas of `spatial_shapes` do not sum to s, or there are not l of them.
    """
    cells, levels = sum(height * width for height, width in spatial_shapes), sampling_locations.shape[3]
    if cells != value.shape[1] or len(spatial_shapes) != levels:
        raise ValueError(
            f"deformable_sampling: spatial_shapes {list(spatial_shapes)} have {len(spatial_shapes)} levels and "
            f"{cells} cells; sampling_locations have {levels} levels, and value has {value.shape[1]} cells"
        )
    if value.device.type != "cpu":
        return reference(value, spatial_shapes, sampling_locations, attention_weights)
    return _gather(value, spatial_shapes, sampling_locations, attention_weights)


def reference(
    value: Float[Tensor, "b s m d"],
    spatial_shapes: Shapes,
    sampling_locations: Float[Tensor, "b q m l p 2"],
    attention_weights: Float[Tensor, "b q m l p"],
) -> Float[Tensor, "b q md"]:
    """The formula, level by level, through `grid_sample`."""
    batch, _, heads, width = value.shape
    queries, points = sampling_locations.shape[1], sampling_locations.shape[4]
    grids = (2 * sampling_locations - 1).transpose(1, 2).flatten(0, 1)  # "bm q l p 2"
    output = value.new_zeros(batch * heads, width, queries)
    weights = attention_weights.transpose(1, 2).reshape(batch * heads, 1, queries, -1, points)
    levels = value.split([height * columns for height, columns in spatial_shapes], dim=1)
    for index, (level, (height, columns)) in enumerate(zip(levels, spatial_shapes, strict=True)):
        maps = level.permute(0, 2, 3, 1).reshape(batch * heads, width, height, columns)
        samples = functional.grid_sample(maps, grids[:, :, index], align_corners=False)
        output = output + (samples * weights[:, :, :, index]).sum(-1)
    return output.view(batch, heads * width, queries).transpose(1, 2)


def _gather(value: Tensor, spatial_shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """All samples of a query and head as one weighted sum of l x p x 4 rows of the values.

    On a CPU this takes a fraction of the time of `grid_sample`, which makes l maps of "d q p" and sums them. Each level
    gets a border of zeros, so that corners outside of it need no test.
    """
    batch, _, heads, width = value.shape
    levels = value.split([rows * columns for rows, columns in spatial_shapes], dim=1)
    bordered = [
        functional.pad(level.unflatten(1, shape), (0, 0, 0, 0, 1, 1, 1, 1)).flatten(1, 2)
        for level, shape in zip(levels, spatial_shapes, strict=True)
    ]
    table = torch.cat(bordered, dim=1)  # "b cells m d"
    images, channels = torch.arange(batch, dtype=torch.int32), torch.arange(heads, dtype=torch.int32)
    owners = (images[:, None] * (table.shape[1] * heads) + channels)[:, None, :, None, None, None]
    parts: list[Tensor] = []
    for start in range(0, locations.shape[1], _QUERIES):
        part = slice(start, start + _QUERIES)
        rows, shares = _corners(spatial_shapes, locations[:, part], weights[:, part], owners, heads)
        summed = functional.embedding_bag(
            rows.flatten(0, 2),
            table.view(-1, width),
            per_sample_weights=shares.flatten(0, 2).to(table.dtype),
            mode="sum",
        )
        parts.append(summed.view(batch, -1, heads * width))
    return torch.cat(parts, dim=1)


def _corners(
    spatial_shapes: Shapes, locations: Tensor, weights: Tensor, owners: Tensor, heads: int
) -> tuple[Tensor, Tensor]:
    """The rows of the table with each sample's four corners, and what they contribute: both "b q m 4lp"."""
    heights, widths = (torch.tensor(sides, dtype=torch.int32)[:, None] for sides in zip(*spatial_shapes, strict=True))
    areas = [(height + 2) * (width + 2) for height, width in spatial_shapes]
    starts = torch.tensor([0, *accumulate(areas[:-1])], dtype=torch.int32)[:, None, None] * heads
    columns, across = _neighbours(locations[..., 0], widths)
    lines, down = _neighbours(locations[..., 1], heights)
    lines = lines * ((widths + 2)[..., None] * heads) + (starts + owners)
    rows = lines[..., :, None] + (columns * heads)[..., None, :]
    down = down * weights[..., None]
    return rows.flatten(-4), (down[..., :, None] * across[..., None, :]).flatten(-4)


def _neighbours(coordinate: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Along one axis: the two cells next to a coordinate of 0..1, and their bilinear weights; both "... 2".

    Cells are counted from the border, which is 0 and size + 1; what lies further out is border, too.
    """
    position = coordinate * size + 0.5
    low = position.floor()
    fraction = position - low
    cells = torch.stack((low, low + 1), -1)
    cells = cells.fmax(cells.new_zeros(())).fmin(size[..., None] + 1)  # a NaN reads the border, and its weight is NaN
    return cells.int(), torch.stack((1 - fraction, fraction), -1)
