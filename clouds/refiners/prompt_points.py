"""From a label map to point prompts: connected components, and points inside them.

Benigmim et al., "Collaborating Foundation Models for Domain Generalized Semantic Segmentation", CVPR 2024, section 3.3,
in the order of the published code: classes ascending, components in scan order, one draw per component.
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
        top, left: where `mask` lies in the image.
        mask: the component within its bounding box.
    """

    label: int
    top: int
    left: int
    mask: Bool[np.ndarray, "h w"]


def find_regions(label_map: UInt8[np.ndarray, "h w"], *, size_threshold: int = 0) -> list[Region]:
    """Connected components (4 neighbours) of more than `size_threshold` pixels; 255 is no class.

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
    """Points inside a region, in image pixels (x, y); None when the region offers too few.

    Args:
        region: where.
        rng: source of the choice.
        points: how many.
        selection: see `select_random`, `select_center`, `select_largest_component`.
        erosion: side of the square that erodes the region first, in pixels; 0 does not. The image's edge erodes, too.
    """
    mask = ndimage.binary_erosion(region.mask, structure=np.ones((erosion, erosion))) if erosion else region.mask
    pixels = _SELECT[selection](mask, points, rng)
    if pixels is None:
        return None
    return (pixels + np.array((region.top, region.left)))[:, ::-1].astype(np.float32)


def select_random(mask: Bool[np.ndarray, "h w"], points: int, rng: Rng) -> Int[np.ndarray, "n 2"] | None:
    """Any pixels (row, column) of the mask; None when it has fewer."""
    pixels = np.argwhere(mask)
    return _choose(pixels, points, rng) if len(pixels) >= points else None


def select_center(mask: Bool[np.ndarray, "h w"], points: int, rng: Rng) -> Int[np.ndarray, "n 2"] | None:
    """Pixels of the largest component less than 10 pixels from its centroid; None unless there are more than asked."""
    pixels = _largest_component(mask)
    near = pixels[np.linalg.norm(pixels - pixels.mean(0), axis=1) < _RADIUS] if len(pixels) else pixels
    return _choose(near, points, rng) if len(near) > points else None


def select_largest_component(mask: Bool[np.ndarray, "h w"], points: int, rng: Rng) -> Int[np.ndarray, "n 2"] | None:
    """Pixels of the largest component; None unless it has more than asked.

    The published code takes the component that comes last in scan order.
    """
    pixels = _largest_component(mask)
    return _choose(pixels, points, rng) if len(pixels) > points else None


_SELECT = {"random": select_random, "center": select_center, "largest_component": select_largest_component}


def _largest_component(mask: Bool[np.ndarray, "h w"]) -> Int[np.ndarray, "n 2"]:
    """Its pixels (row, column); the first of several of one size; none of an empty mask."""
    numbers, count = ndimage.label(mask)  # pyright: ignore[reportGeneralTypeIssues]
    return np.argwhere(numbers == np.bincount(numbers.ravel())[1:].argmax() + 1) if count else np.empty((0, 2), int)


def _choose(pixels: Int[np.ndarray, "m 2"], points: int, rng: Rng) -> Int[np.ndarray, "n 2"]:
    return pixels[rng.choice(len(pixels), points, replace=False)]
