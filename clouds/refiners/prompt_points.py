"""Draws point prompts from the connected components of a label map.

Benigmim et al., "Collaborating Foundation Models for Domain Generalized Semantic Segmentation", CVPR 2024, section 3.3.
The order is that of the published code: classes ascending, components in scan order, one draw per component.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from attrs import frozen
from jaxtyping import Bool, Float32, Int, UInt8
from scipy import ndimage

Rng = np.random.Generator | np.random.RandomState
Selection = Literal["random", "center", "largest_component"]

_IGNORE = 255
_RADIUS = 10.0  # pixels around the centroid, as published


@frozen(eq=False, kw_only=True)
class Region:
    """A connected component of one class.

    Attributes:
        label: train id.
        top, left: position of `mask` in the image.
        mask: the component within its bounding box.
    """

    label: int
    top: int
    left: int
    mask: Bool[np.ndarray, "h w"]


def find_regions(label_map: UInt8[np.ndarray, "h w"], *, size_threshold: int = 0) -> list[Region]:
    """Connected components (4 neighbours) with more than `size_threshold` pixels; 255 is ignored.

    >>> [region.label for region in find_regions(np.array([[0, 3, 0], [0, 255, 3]], np.uint8))]
    [0, 0, 3, 3]
    """
    found: list[Region] = []
    for label, place in enumerate(ndimage.find_objects(label_map.astype(np.int16) + 1, max_label=_IGNORE)):
        if place is None:
            continue
        numbers, _ = ndimage.label(label_map[place] == label)  # pyright: ignore[reportGeneralTypeIssues]
        areas = np.bincount(numbers.ravel())
        for number, (rows, columns) in enumerate(ndimage.find_objects(numbers), start=1):
            if areas[number] > size_threshold:
                top, left = place[0].start + rows.start, place[1].start + columns.start
                found.append(Region(label=label, top=top, left=left, mask=numbers[rows, columns] == number))
    return found


def draw_points(
    region: Region, rng: Rng, *, points: int, selection: Selection = "random", erosion: int = 0
) -> Float32[np.ndarray, "n 2"] | None:
    """Draw points (x, y) inside a region, in image pixels; None if the region has too few.

    Args:
        region: the component.
        rng: random generator.
        points: number of points.
        selection: see `select_random`, `select_center`, `select_largest_component`.
        erosion: side in pixels of the square that first erodes the region, also at the image's edge; 0 disables it.
    """
    mask = ndimage.binary_erosion(region.mask, structure=np.ones((erosion, erosion))) if erosion else region.mask
    pixels = _SELECT[selection](mask, points, rng)
    if pixels is None:
        return None
    return (pixels + np.array((region.top, region.left)))[:, ::-1].astype(np.float32)


def select_random(mask: Bool[np.ndarray, "h w"], points: int, rng: Rng) -> Int[np.ndarray, "n 2"] | None:
    """Random pixels (row, column) of the mask; None if it has fewer."""
    pixels = np.argwhere(mask)
    return _choose(pixels, points, rng) if len(pixels) >= points else None


def select_center(mask: Bool[np.ndarray, "h w"], points: int, rng: Rng) -> Int[np.ndarray, "n 2"] | None:
    """Pixels less than 10 pixels from the centroid of the largest component; None unless there are more."""
    pixels = _largest_component(mask)
    near = pixels[np.linalg.norm(pixels - pixels.mean(0), axis=1) < _RADIUS] if len(pixels) else pixels
    return _choose(near, points, rng) if len(near) > points else None


def select_largest_component(mask: Bool[np.ndarray, "h w"], points: int, rng: Rng) -> Int[np.ndarray, "n 2"] | None:
    """Pixels of the largest component; None unless it has more.

    The published code uses the last component in scan order instead.
    """
    pixels = _largest_component(mask)
    return _choose(pixels, points, rng) if len(pixels) > points else None


_SELECT = {"random": select_random, "center": select_center, "largest_component": select_largest_component}


def _largest_component(mask: Bool[np.ndarray, "h w"]) -> Int[np.ndarray, "n 2"]:
    """Pixels (row, column) of the largest component, the first if equal; empty for an empty mask."""
    numbers, count = ndimage.label(mask)  # pyright: ignore[reportGeneralTypeIssues]
    return np.argwhere(numbers == np.bincount(numbers.ravel())[1:].argmax() + 1) if count else np.empty((0, 2), int)


def _choose(pixels: Int[np.ndarray, "m 2"], points: int, rng: Rng) -> Int[np.ndarray, "n 2"]:
    return pixels[rng.choice(len(pixels), points, replace=False)]
