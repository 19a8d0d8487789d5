"""Deformable sampling in plain torch: weighted sums of table rows, used by `deformable_attention` on CPU.

Each level is padded with two cells of zeros on every side, so that samples need no bounds checks. On a CPU this takes a
fraction of the time of `grid_sample`, which computes l maps of "d q p" and sums them. Most of the time goes into index
arithmetic, which is several times slower for a short last axis. Therefore x and y (and the constants of levels) are
interleaved in an axis "mlp2", and the four corners are four gathers instead of an axis.

Axis letters as in `deformable_attention`; joined letters are a flattened axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Shapes = Sequence[tuple[int, int]]

_QUERIES = 1024  # per gather, so that intermediates stay in cache
_BORDER = 2  # low corners are clamped to -2..size, so both corners of outside samples are in the border
_INNER = slice(_BORDER, -_BORDER)
_BEFORE = slice(_BORDER - 1, -_BORDER - 1)
_ROWS = 256  # queries x heads per step, so that their corners' values stay in cache


def sizes(spatial_shapes: Shapes, like: Tensor) -> Tensor:
    """(width, height) of each level, "l 2"; written by the device, because CUDA graphs record no copies from the host.

    Args:
        spatial_shapes: (height, width) per level.
        like: tensor that gives the device, and the dtype: at least float32.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    sides = [side for height, width in spatial_shapes for side in (width, height)]
    return torch.stack([like.new_full((), side, dtype=dtype) for side in sides]).view(-1, 2)


def positions(spatial_shapes: Shapes, centers: Tensor, offsets: Tensor) -> Tensor:
    """Sample positions in cells from the edge of their level: "b q mlp2".

    Args:
        spatial_shapes: (height, width) per level.
        centers: "b q l 2", 0..1.
        offsets: "b q m l p 2", in cells.
    """
    # Centres in cells "b q lp2", plus offsets "b q m lp2"
    anchors = (centers * sizes(spatial_shapes, centers)).repeat_interleave(offsets.shape[4], dim=2).flatten(2)
    return (offsets.flatten(3) + anchors[:, :, None]).flatten(2)


def softmax(logits: Tensor) -> Tensor:
    """Softmax over the last axis; several times faster than torch's for a short axis."""
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
    return _Gather.apply(value, positions, weights, spatial_shapes)


class _Gather(torch.autograd.Function):
    """`gather` with gradients by one sort and by products of rows, faster than those of `embedding_bag`."""

    @staticmethod
    def forward(value: Tensor, positions: Tensor, weights: Tensor, spatial_shapes: Shapes) -> Tensor:
        # Table of padded values "rows d": one row per image, padded cell and head
        batch, _, heads, width = value.shape
        samples = weights.shape[2] // heads
        table = _add_borders(value, spatial_shapes).view(-1, width)
        constants = _constants(spatial_shapes, batch, heads, samples, value.device)
        parts: list[Tensor] = []
        for start in range(0, max(positions.shape[1], 1), _QUERIES):  # at least once, because `cat` needs a part
            # First corner's row "b q mlp" and fraction "b q mlp2" of each sample
            part = slice(start, start + _QUERIES)
            rows, beyond = _cells(constants, positions[:, part])
            # Weighted sum of table rows for each of the four corners "bqm d"
            sums = [
                functional.embedding_bag(
                    (rows + constants.firsts[:, corner]).view(-1, samples),
                    table,
                    per_sample_weights=shares.view(-1, samples).to(table.dtype),
                    mode="sum",
                )
                for corner, shares in enumerate(_shares(weights[:, part], beyond))
            ]
            # Sum of the corners, heads concatenated: "b q md"
            parts.append((sums[0] + sums[1] + sums[2] + sums[3]).view(batch, rows.shape[1], heads * width))
        return torch.cat(parts, dim=1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Shapes], output: Tensor) -> None:
        *tensors, ctx.spatial_shapes = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        value, positions, weights = ctx.saved_tensors
        of_value = of_positions = of_weights = None
        if ctx.needs_input_grad[0]:
            of_value = scatter(gradient, value.shape[2], ctx.spatial_shapes, positions, weights).to(value.dtype)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            of_positions, of_weights = _sample_gradients(gradient, value, ctx.spatial_shapes, positions, weights)
        return of_value, of_positions, of_weights, None


def _sample_gradients(
    gradient: Tensor, value: Tensor, spatial_shapes: Shapes, positions: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of `gather` with respect to positions and weights."""
    # Table, first corners' rows and fractions, as in the forward pass
    batch, _, heads, width = value.shape
    samples = weights.shape[2] // heads
    dtype = torch.promote_types(value.dtype, torch.float32)
    table = _add_borders(value.to(dtype), spatial_shapes).view(-1, width)
    constants = _constants(spatial_shapes, batch, heads, samples, value.device)
    low, beyond = _cells(constants, positions)
    # Products of the output's gradient "bqm d" with the corners' values: "bqm 4lp", some queries at a time
    rows = torch.cat([(low + first).view(-1, samples) for first in constants.firsts.unbind(1)], dim=1)
    owners = gradient.to(dtype).reshape(-1, 1, width)
    products = torch.cat(
        [
            table.index_select(0, part.flatten()).view(*part.shape, width).mul_(owner).sum(-1)
            for part, owner in zip(rows.split(_ROWS), owners.split(_ROWS), strict=True)
        ]
    )
    # One product per corner "b q mlp"
    a, b, c, d = (one.reshape(weights.shape) for one in products.split(samples, dim=1))
    # Bilinear interpolation of the products is the weights' gradient; its slopes along x and y the positions'
    right, bottom = beyond.unflatten(-1, (-1, 2)).unbind(-1)
    above, below = a + right * (b - a), c + right * (d - c)
    along_x, along_y = (b - a) + bottom * ((d - c) - (b - a)), below - above
    of_positions = torch.stack((weights * along_x, weights * along_y), dim=-1).flatten(2)
    return of_positions.to(positions.dtype), (above + bottom * along_y).to(weights.dtype)


def scatter(gradient: Tensor, heads: int, spatial_shapes: Shapes, positions: Tensor, weights: Tensor) -> Tensor:
    """Gradient of `gather` with respect to the values, in at least float32; deterministic by sorting.

    Each cell sums the contributions of all samples whose first corner it is, in order of queries. This is again a
    gather, of the output's gradient. The other three corners are one cell further, so their sums are the same gather,
    shifted.

    Args:
        gradient: gradient of the output, "b q md".
        heads: number of heads m.
        spatial_shapes, positions, weights: arguments of `gather`.
    """
    # Result "b s m d", filled image by image
    width, samples = gradient.shape[2] // heads, weights.shape[2] // heads
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    constants = _constants(spatial_shapes, 1, heads, samples, gradient.device)
    every_row = torch.arange(constants.rows * heads, dtype=torch.int32, device=gradient.device)
    cells = sum(height * columns for height, columns in spatial_shapes)
    made = gradient.new_empty(gradient.shape[0], cells, heads, width, dtype=dtype)
    for image in range(gradient.shape[0]):
        # Table of the output's gradient "qm d"
        table = gradient[image].to(dtype).reshape(-1, width)
        low, beyond = _cells(constants, positions[image, None])
        # Sort the samples by first corner's row; `starts` are the bounds of each row's samples
        ordered, order = (low + constants.firsts[:, 0]).flatten().sort(stable=True)
        starts, owners = torch.searchsorted(ordered, every_row), order // samples
        # Weighted sums per first corner's row "rows m d", for each of the four corners
        sums = [
            functional.embedding_bag(
                owners, table, starts, per_sample_weights=shares.flatten().index_select(0, order).to(dtype), mode="sum"
            ).view(-1, heads, width)
            for shares in _shares(weights[image, None], beyond)
        ]
        # Shift by corner and add: "s m d"
        made[image] = _join_corners(sums, spatial_shapes)
    return made


class _Constants(NamedTuple):
    """Constants that convert positions to table rows.

    Attributes:
        last: largest low corner, including the border: "mlp2".
        steps: row distance of neighbouring cells along x and y: "mlp2".
        firsts: for each corner, the row of the level's first cell: "b 4 1 mlp".
        rows: number of padded cells per image.
    """

    last: Tensor
    steps: Tensor
    firsts: Tensor
    rows: int


def _constants(spatial_shapes: Shapes, batch: int, heads: int, samples: int, device: torch.device) -> _Constants:
    points = samples // len(spatial_shapes)

    def per_sample(of_levels: list[list[int]]) -> Tensor:
        return torch.tensor(of_levels, dtype=torch.int32, device=device).repeat_interleave(points, dim=0)

    # First cell and row stride of each padded level
    starts = list(accumulate(_areas(spatial_shapes), initial=0))
    line = [(width + 2 * _BORDER) * heads for _, width in spatial_shapes]
    # Row offsets of the four corners "lp 4", then with image and head "b 4 m lp"
    corners = per_sample(
        [
            [start * heads + step for step in (0, heads, long, long + heads)]
            for start, long in zip(starts, line, strict=False)
        ]
    )
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


def _cells(constants: _Constants, positions: Tensor) -> tuple[Tensor, Tensor]:
    """First corner's row of each sample, relative to its level's first row, "b q mlp"; fraction in 0..1, "b q mlp2".

    A NaN or infinite position has a NaN fraction and an arbitrary valid row.
    """
    # Low corner including the border, clamped to the level's table
    shifted = positions + (_BORDER - 0.5)
    low = shifted.floor()
    cells = low.int().clamp(constants.last.new_zeros(()), constants.last) * constants.steps
    columns, lines = cells.unflatten(-1, (-1, 2)).unbind(-1)
    return columns + lines, shifted - low


def _shares(weights: Tensor, beyond: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of the four corners of each sample: "b q mlp" each."""
    (left, top), (right, bottom) = (side.unflatten(-1, (-1, 2)).unbind(-1) for side in (1 - beyond, beyond))
    above, below = weights * top, weights * bottom
    return above * left, above * right, below * left, below * right


def _areas(spatial_shapes: Shapes) -> list[int]:
    return [(height + 2 * _BORDER) * (width + 2 * _BORDER) for height, width in spatial_shapes]


def _add_borders(value: Tensor, spatial_shapes: Shapes) -> Tensor:
    """Values padded with borders: "b rows m d"."""
    table = value.new_empty(value.shape[0], sum(_areas(spatial_shapes)), *value.shape[2:])
    levels = value.split([height * width for height, width in spatial_shapes], dim=1)
    for whole, level, shape in zip(_bordered_views(table, spatial_shapes), levels, spatial_shapes, strict=True):
        for side in (1, 2):
            whole.narrow(side, 0, _BORDER).zero_()
            whole.narrow(side, -_BORDER, _BORDER).zero_()
        whole[:, _INNER, _INNER].copy_(level.unflatten(1, shape))
    return table


def _join_corners(sums: Sequence[Tensor], spatial_shapes: Shapes) -> Tensor:
    """Add the four corners' sums "rows m d", each shifted to its corner: "s m d"."""
    levels = []
    for a, b, c, d in zip(*(_bordered_views(one[None], spatial_shapes) for one in sums), strict=True):
        level = a[:, _INNER, _INNER] + b[:, _INNER, _BEFORE] + c[:, _BEFORE, _INNER] + d[:, _BEFORE, _BEFORE]
        levels.append(level[0].flatten(0, 1))
    return torch.cat(levels)


def _bordered_views(table: Tensor, spatial_shapes: Shapes) -> Iterator[Tensor]:
    """Yield each level with its border, "b h w m d"; created one by one so that autograd sees earlier writes."""
    start = 0
    for area, (height, width) in zip(_areas(spatial_shapes), spatial_shapes, strict=True):
        yield table[:, start : start + area].unflatten(1, (height + 2 * _BORDER, width + 2 * _BORDER))
        start += area
