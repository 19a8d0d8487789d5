"""Deformable sampling in plain torch, as weighted sums of rows of a table: what `deformable_attention` is on a CPU.

Each level gets a border of two cells of zeros on every side, so that corners outside of it need no test. On a CPU this
takes a fraction of the time of `grid_sample`, which makes l maps of "d q p" and sums them. Most of it is arithmetic on
indices, for which the last axis matters: torch is several times slower where it is short, so x and y (and the constants
of levels) are kept side by side in "m l p 2", and the four corners are four gathers instead of an axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Shapes = Sequence[tuple[int, int]]

_QUERIES = 1024  # per gather: what is computed on the way stays in the cache
_BORDER = 2  # low corners are clamped to -2..size, so both corners of what lies outside are border
_INNER = slice(_BORDER, -_BORDER)


def positions(spatial_shapes: Shapes, centers: Tensor, offsets: Tensor) -> Tensor:
    """Where samples are, in cells from the edge of their level: "b q mlp2".

    Args:
        spatial_shapes: (height, width) per level.
        centers: "b q l 2", 0..1.
        offsets: "b q m l p 2", in cells.
    """
    sizes = centers.new_tensor([[width, height] for height, width in spatial_shapes])
    anchors = (centers * sizes).repeat_interleave(offsets.shape[4], dim=2).flatten(2)
    return (offsets.flatten(3) + anchors[:, :, None]).flatten(2)


def softmax(logits: Tensor) -> Tensor:
    """Over the last axis, which is short: torch's own takes several times as long there."""
    powers = (logits - logits.detach().amax(-1, keepdim=True)).exp()
    return powers / powers.sum(-1, keepdim=True)


def gather(value: Tensor, spatial_shapes: Shapes, positions: Tensor, weights: Tensor) -> Tensor:
    """Weighted bilinear samples: "b q md".

    Args:
        value: "b s m d".
        spatial_shapes: (height, width) per level.
        positions: "b q mlp2", in cells.
        weights: "b q mlp".
    """
    batch, _, heads, width = value.shape
    samples = weights.shape[2] // heads
    table = _bordered(value, spatial_shapes).view(-1, width)
    constants = _constants(spatial_shapes, batch, heads, samples, value.device)
    parts: list[Tensor] = []
    for start in range(0, max(positions.shape[1], 1), _QUERIES):  # once for no queries: gradients want a graph
        part = slice(start, start + _QUERIES)
        sums = [
            functional.embedding_bag(
                rows.view(-1, samples), table, per_sample_weights=shares.view(-1, samples).to(table.dtype), mode="sum"
            )
            for rows, shares in _corners(constants, positions[:, part], weights[:, part])
        ]
        parts.append((sums[0] + sums[1] + sums[2] + sums[3]).view(batch, weights[:, part].shape[1], heads * width))
    return torch.cat(parts, dim=1)


def scatter(gradient: Tensor, heads: int, spatial_shapes: Shapes, positions: Tensor, weights: Tensor) -> Tensor:
    """The gradient of `gather` with respect to the values, in float32, by sorting: the same bits each time.

    Every cell sums its contributions, in order of the corner and of the query: a gather as well, of the output's
    gradient.

    Args:
        gradient: "b q md", of the output.
        heads: m.
        spatial_shapes, positions, weights: as of `gather`.
    """
    samples = weights.shape[2] // heads
    constants = _constants(spatial_shapes, 1, heads, samples, gradient.device)
    images = []
    for image in range(gradient.shape[0]):
        table = gradient[image].float().reshape(-1, gradient.shape[2] // heads)
        corners = _corners(constants, positions[image, None], weights[image, None])
        rows, shares = (torch.stack(list(one)).flatten() for one in zip(*corners, strict=True))
        ordered, order = rows.sort(stable=True)
        starts = torch.searchsorted(ordered, torch.arange(constants.rows * heads, dtype=rows.dtype, device=rows.device))
        owners = order % weights[image].numel() // samples
        sums = functional.embedding_bag(owners, table, starts, per_sample_weights=shares[order], mode="sum")
        images.append(_inner(sums.view(1, -1, heads, table.shape[1]), spatial_shapes))
    return torch.cat(images)


class _Constants(NamedTuple):
    """What positions become rows with.

    Attributes:
        last: largest low corner, counted with the border: "mlp2".
        steps: rows from one cell to the next along x and along y: "mlp2".
        firsts: of each corner, the row of the level's first cell: "b 4 1 mlp".
        rows: of the table, per image and head.
    """

    last: Tensor
    steps: Tensor
    firsts: Tensor
    rows: int


def _constants(spatial_shapes: Shapes, batch: int, heads: int, samples: int, device: torch.device) -> _Constants:
    points = samples // len(spatial_shapes)

    def per_sample(of_levels: list[list[int]]) -> Tensor:
        return torch.tensor(of_levels, dtype=torch.int32, device=device).repeat_interleave(points, dim=0)

    starts = list(accumulate(_areas(spatial_shapes), initial=0))
    line = [(width + 2 * _BORDER) * heads for _, width in spatial_shapes]
    corners = per_sample(
        [
            [start * heads + step for step in (0, heads, long, long + heads)]
            for start, long in zip(starts, line, strict=False)
        ]
    )  # "lp 4"
    images, owners = (torch.arange(count, dtype=torch.int32, device=device) for count in (batch, heads))
    firsts = images[:, None, None, None] * (starts[-1] * heads) + owners[:, None] + corners.T[:, None]
    return _Constants(
        last=per_sample([[width + _BORDER, height + _BORDER] for height, width in spatial_shapes])
        .flatten()
        .repeat(heads),
        steps=per_sample([[heads, long] for long in line]).flatten().repeat(heads),
        firsts=firsts.flatten(2)[:, :, None],
        rows=starts[-1],
    )


def _corners(constants: _Constants, positions: Tensor, weights: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Of the four corners of each sample, the row of the table and what it contributes: both "b q mlp".

    A NaN or infinite position contributes NaN, whatever its row.
    """
    shifted = positions + (_BORDER - 0.5)
    low = shifted.floor()
    second = shifted - low
    first = 1 - second
    cells = low.int().clamp(constants.last.new_zeros(()), constants.last) * constants.steps
    cells = cells.unflatten(-1, (-1, 2)).unbind(-1)
    rows = cells[0] + cells[1]
    (left, top), (right, bottom) = (side.unflatten(-1, (-1, 2)).unbind(-1) for side in (first, second))
    above, below = weights * top, weights * bottom
    shares = (above * left, above * right, below * left, below * right)
    return [(rows + constants.firsts[:, corner], share) for corner, share in enumerate(shares)]


def _areas(spatial_shapes: Shapes) -> list[int]:
    return [(height + 2 * _BORDER) * (width + 2 * _BORDER) for height, width in spatial_shapes]


def _bordered(value: Tensor, spatial_shapes: Shapes) -> Tensor:
    """The values with their borders: "b rows m d"."""
    table = value.new_empty(value.shape[0], sum(_areas(spatial_shapes)), *value.shape[2:])
    levels = value.split([height * width for height, width in spatial_shapes], dim=1)
    for whole, level, shape in zip(_bordered_views(table, spatial_shapes), levels, spatial_shapes, strict=True):
        for side in (1, 2):
            whole.narrow(side, 0, _BORDER).zero_()
            whole.narrow(side, -_BORDER, _BORDER).zero_()
        whole[:, _INNER, _INNER].copy_(level.unflatten(1, shape))
    return table


def _inner(table: Tensor, spatial_shapes: Shapes) -> Tensor:
    """`_bordered` back: "b s m d"."""
    views = _bordered_views(table, spatial_shapes)
    return torch.cat([whole[:, _INNER, _INNER].flatten(1, 2) for whole in views], dim=1)


def _bordered_views(table: Tensor, spatial_shapes: Shapes) -> Iterator[Tensor]:
    """Each level with its border: "b h w m d"; made one by one, so that gradients know what was written before."""
    start = 0
    for area, (height, width) in zip(_areas(spatial_shapes), spatial_shapes, strict=True):
        yield table[:, start : start + area].unflatten(1, (height + 2 * _BORDER, width + 2 * _BORDER))
        start += area
