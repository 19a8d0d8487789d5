"""Sliding windows over images that are too large for one forward pass."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from attrs import frozen
from jaxtyping import Float
from torch import Tensor

from clouds.core.pipeline.resampling import interpolate_axis

_ROWS = 256  # rows of a resized window per step


@frozen
class Window:
    """A window of an image, and the core of it whose labels are used.

    Attributes:
        seen: rows and columns of the image that the model sees.
        core: rows and columns of the image that take their labels from this window; cores tile the image.
    """

    seen: tuple[slice, slice]
    core: tuple[slice, slice]

    @property
    def core_in_seen(self) -> tuple[slice, slice]:
        """The core in window coordinates."""
        rows, columns = (
            slice(core.start - seen.start, core.stop - seen.start)
            for core, seen in zip(self.core, self.seen, strict=True)
        )
        return rows, columns


def sliding_windows(height: int, width: int, *, side: int, overlap: int) -> Iterator[Window]:
    """Cover an image with windows of at most `side` x `side` that overlap by at least `overlap` pixels.

    Each pixel belongs to the core of one window. Its distance from the window's edge is at least `overlap // 2`, except
    at the edge of the image.

    >>> [window.core[1] for window in sliding_windows(4, 10, side=6, overlap=2)]
    [slice(0, 5, None), slice(5, 10, None)]
    """
    for rows in _spans(height, side, overlap):
        for columns in _spans(width, side, overlap):
            yield Window(seen=(rows[0], columns[0]), core=(rows[1], columns[1]))


def resampled(
    window: Window, scores: Float[Tensor, "k h w"], *, whole: tuple[int, int], size: tuple[int, int]
) -> Iterator[tuple[tuple[slice, slice], Float[Tensor, "k r c"]]]:
    """Resize the scores in a window's core bilinearly for a resized image, some rows at a time.

    Args:
        window: window of the image.
        scores: scores of the whole window.
        whole: (height, width) of the image.
        size: (height, width) of the resized image.

    Yields:
        Rows and columns of the resized image, and their scores. Over all windows they tile the image.
    """
    rows, columns = (
        slice(_resized(core.start, length, wanted), _resized(core.stop, length, wanted))
        for core, length, wanted in zip(window.core, whole, size, strict=True)
    )
    for first in range(rows.start, rows.stop, _ROWS):
        place = slice(first, min(first + _ROWS, rows.stop)), columns
        band = scores
        for axis in (0, 1):
            centers = (torch.arange(place[axis].start, place[axis].stop, dtype=torch.float64) + 0.5) / size[axis]
            inside = (centers * whole[axis] - 0.5).clamp(0, whole[axis] - 1) - window.seen[axis].start
            band = interpolate_axis(band, 1 + axis, inside)
        yield place, band


def _resized(edge: int, length: int, wanted: int) -> int:
    """First pixel of the resized axis whose centre is not before `edge` of the original axis."""
    return -((length - 2 * edge * wanted) // (2 * length))


def _spans(length: int, side: int, overlap: int) -> list[tuple[slice, slice]]:
    count = 1 if length <= side else -(-(length - overlap) // (side - overlap))
    starts = [round(index * (length - side) / (count - 1)) for index in range(count)] if count > 1 else [0]
    stops = [min(start + side, length) for start in starts]
    cuts = [0, *((stop + start) // 2 for stop, start in zip(stops[:-1], starts[1:], strict=True)), length]
    return [
        (slice(start, stop), slice(low, high))
        for start, stop, low, high in zip(starts, stops, cuts[:-1], cuts[1:], strict=True)
    ]
