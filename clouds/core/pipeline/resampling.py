"""Bilinear resizing of row ranges (align_corners=False), so that large results are never stored completely.

Bilinear interpolation is separable: rows are interpolated here, columns by torch.
"""

# pyright: reportUnknownMemberType=false
# (torch has incomplete types)

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

_STRIP = 1 << 21  # elements per strip: at most 8 MB in float32


def resized_rows(maps: Float[Tensor, "c h w"], size: tuple[int, int], start: int, stop: int) -> Float[Tensor, "c y x"]:
    """Rows start..stop of `maps` resized to `size`; only these are computed."""
    return _interpolate(lambda first, last: maps[:, first:last], maps.shape[1], size, start, stop)


def answer_rows(
    maps: Float[Tensor, "c h w"],
    network_size: tuple[int, int],
    valid_size: tuple[int, int],
    size: tuple[int, int],
    start: int,
    stop: int,
) -> Float[Tensor, "c y x"]:
    """Rows start..stop of `maps` resized to `network_size`, cropped to `valid_size` and resized to `size`."""

    def valid_rows(first: int, last: int) -> Tensor:
        return resized_rows(maps, network_size, first, last)[..., : valid_size[1]]

    if size == valid_size:
        return valid_rows(start, stop)
    return _interpolate(valid_rows, valid_size[0], size, start, stop)


def interpolate_axis(maps: Float[Tensor, "c h w"], axis: int, positions: Float[Tensor, " n"]) -> Float[Tensor, "c y x"]:
    """Linear interpolation along one axis.

    Args:
        maps: values at pixel centres.
        axis: 1 for rows, 2 for columns; its new length is that of `positions`.
        positions: in pixels from the first pixel's centre; positions beyond the ends take the end values.
    """
    # Neighbours below and above each position, then their weighted mean
    last = maps.shape[axis] - 1
    low = positions.floor().long().clamp(0, last)
    high = (low + 1).clamp(max=last)
    below, above = (maps.index_select(axis, index.to(maps.device)) for index in (low, high))
    shares = (positions - low).to(maps).clamp(0, 1)
    return torch.lerp(below, above, shares[:, None] if axis == 1 else shares)


def strips(height: int, *, elements_per_row: int) -> Iterator[tuple[int, int]]:
    """Split 0..height into (start, stop) ranges of rows with a bounded number of elements each.

    >>> list(strips(5, elements_per_row=1 << 20))
    [(0, 2), (2, 4), (4, 5)]
    """
    step = max(1, _STRIP // elements_per_row)
    return ((start, min(start + step, height)) for start in range(0, height, step))


def _interpolate(
    rows: Callable[[int, int], Tensor], height: int, size: tuple[int, int], start: int, stop: int
) -> Tensor:
    """Output rows start..stop of a map resized to `size`; `rows(first, last)` supplies input rows."""
    # Source positions of the output rows, in input rows
    wanted = torch.arange(start, stop, dtype=torch.float32)
    source = ((wanted + 0.5) * (height / size[0]) - 0.5).clamp(0, height - 1)
    # Interpolate rows "c y w", then columns "c y x"
    first, last = int(source[0]), int(source[-1])
    strip = interpolate_axis(rows(first, min(last + 2, height)), 1, source - first)
    return functional.interpolate(strip[None], size=(stop - start, size[1]), mode="bilinear", align_corners=False)[0]
