"""Boundary IoU: the accuracy of each class's contours, independent of the size of its areas.

Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021: the IoU of the boundary
regions of two masks. The boundary region has the mask's pixels within a distance d of its contour, which an erosion
removes; d is 2 % of the image diagonal, and the image's edge is part of the contour.

The paper compares single objects. For classes, intersections and unions are summed over the images of a dataset, as
for class IoU. Ignored pixels (255 in the ground truth) count as outside the image, for ground truth and prediction:
they belong to no boundary region, and predictions there have no effect.

All classes are eroded at once. The paper's d erosions by a 3x3 square equal one erosion by a square of side 2d+1. A
pixel survives if all pixels of the square around it have its class, that is, if none of the (2d)x(2d) corners between
them touches two labels.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Int, UInt8

from clouds.core.contract.labels import IGNORE_ID
from clouds.evaluation.confusion import count_pairs, intersection_over_union

_SHARE_OF_DIAGONAL = 0.02


def boundary_distance(height: int, width: int) -> int:
    """d in pixels: 2 % of the diagonal, at least 1.

    >>> boundary_distance(1024, 2048)
    46
    """
    return max(1, round(_SHARE_OF_DIAGONAL * math.hypot(height, width)))


def boundary_map(label_map: UInt8[np.ndarray, "h w"], distance: int, *, edge: bool = True) -> UInt8[np.ndarray, "h w"]:
    """The labels within `distance` pixels (at least 1, in chessboard steps) of the contour of their class; else 255.

    Args:
        label_map: train ids.
        distance: 1 is a pixel that touches another label.
        edge: whether the edge of the image belongs to the contour.
    """
    padded = np.pad(label_map, 1, mode="edge" if label_map.size else "constant")
    first = padded[:-1, :-1]
    corners = (first != padded[1:, :-1]) | (first != padded[:-1, 1:]) | (first != padded[1:, 1:])
    if edge:
        corners[[0, -1]] = corners[:, [0, -1]] = True
    corners = np.pad(corners, distance - 1)
    near = _any_of(_any_of(corners.T, 2 * distance).T, 2 * distance)
    return np.where(near, label_map, np.uint8(IGNORE_ID))


def count_boundaries(
    truth: UInt8[np.ndarray, "h w"], prediction: UInt8[np.ndarray, "h w"], *, classes: int
) -> Int[np.ndarray, "k 3"]:
    """Count the pixels of one image's boundary regions. The inputs are not modified.

    Args:
        truth: train ids; 255 is ignored.
        prediction: train ids; 255 is no class.
        classes: number of classes.

    Returns:
        Per class: number of pixels in both regions, in the ground truth's, and in the prediction's; to be summed over
        images.
    """
    distance = boundary_distance(*truth.shape)
    seen = np.where(truth == IGNORE_ID, truth, prediction)
    pairs = count_pairs(boundary_map(truth, distance), boundary_map(seen, distance))
    return np.stack([np.diagonal(pairs), pairs.sum(axis=1), pairs.sum(axis=0)], axis=1)[:classes]


def boundary_iou(counts: Int[np.ndarray, "k 3"]) -> list[float | None]:
    """Boundary IoU per class, in percent; None for a class that is absent from the ground truth."""
    return intersection_over_union(counts[:, 0], counts[:, 1], counts[:, 2])


def _any_of(flags: Bool[np.ndarray, "n m"], size: int) -> Bool[np.ndarray, "n-{size}+1 m"]:
    """Whether any of `size` consecutive rows from each row on is set; doubling the run takes log2(size) steps."""
    length = 1
    while length < size:
        step = min(length, size - length)
        flags = flags[:-step] | flags[step:]
        length += step
    return flags
