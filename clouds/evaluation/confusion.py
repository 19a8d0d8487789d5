"""Confusion counts and the figures made from them. Every figure is in percent, or None where it is not defined.

Counts are int64 "k k+1", [ground truth, prediction]; the last column counts pixels predicted as "ignore", which are
wrong for the class they belong to and for no other. Pixels whose ground truth is 255 count nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt8

from clouds.core.contract.labels import IGNORE_ID
from clouds.core.system.errors import DataError


def count_pairs(rows: UInt8[np.ndarray, "h w"], columns: UInt8[np.ndarray, "h w"]) -> Int[np.ndarray, "256 256"]:
    """How many pixels have each pair of values, int64 [value in `rows`, value in `columns`]."""
    pairs = rows.astype(np.uint16)
    pairs <<= 8
    pairs |= columns
    return np.bincount(pairs.ravel(), minlength=1 << 16).reshape(256, 256)


def count_confusion(
    truth: UInt8[np.ndarray, "h w"], prediction: UInt8[np.ndarray, "h w"], *, classes: int
) -> Int[np.ndarray, "k k+1"]:
    """Count the pixels of one image by true and predicted class. The inputs are left as they are.

    Raises:
        DataError: the shapes differ, or a value is neither a class (0..classes-1) nor 255.
    """
    if truth.shape != prediction.shape:
        raise DataError(f"prediction has shape {prediction.shape}, but its ground truth has {truth.shape}")
    pairs = count_pairs(truth, prediction)
    for what, values in (("ground truth", pairs.sum(axis=1)), ("prediction", pairs.sum(axis=0))):
        strange = np.flatnonzero(values[classes:IGNORE_ID]) + classes
        if strange.size:
            raise DataError(
                f"{what} holds train ids {strange.tolist()}; expected 0..{classes - 1} or {IGNORE_ID} (ignore)"
            )
    return pairs[:classes, [*range(classes), IGNORE_ID]]


def intersection_over_union(
    hits: Int[np.ndarray, " k"], truth: Int[np.ndarray, " k"], predicted: Int[np.ndarray, " k"]
) -> list[float | None]:
    """IoU per class, TP / (TP + FN + FP); None for a class that the ground truth does not have.

    Everingham et al., "The PASCAL Visual Object Classes Challenge", IJCV 2015.

    Args:
        hits: pixels of the class in both.
        truth: pixels of the class in the ground truth.
        predicted: labelled pixels that were predicted as the class.
    """
    return _percent(hits, np.where(truth > 0, truth + predicted - hits, 0))


def class_iou(counts: Int[np.ndarray, "k k+1"]) -> list[float | None]:
    """Intersection over union per class; None for a class that the ground truth does not have."""
    return intersection_over_union(np.diagonal(counts), counts.sum(axis=1), counts[:, :-1].sum(axis=0))


def class_accuracy(counts: Int[np.ndarray, "k k+1"]) -> list[float | None]:
    """Share of the pixels of each class that are right, TP / (TP + FN); None for a class that there is not."""
    return _percent(np.diagonal(counts), counts.sum(axis=1))


def mean_iou(counts: Int[np.ndarray, "k k+1"]) -> float | None:
    """Mean IoU over the classes that the ground truth has, as published; None when it has none.

    A class that is predicted but never true lowers the IoU of the classes it was mistaken for, nothing else.
    """
    return mean(class_iou(counts))


def frequency_weighted_iou(counts: Int[np.ndarray, "k k+1"]) -> float | None:
    """Mean IoU weighted by how many pixels of the ground truth each class has; None when nothing is labelled.

    Long et al., "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, section 5.
    """
    sizes = counts.sum(axis=1).tolist()
    known = [(iou, size) for iou, size in zip(class_iou(counts), sizes, strict=True) if iou is not None]
    return sum(iou * size for iou, size in known) / sum(sizes) if known else None


def pixel_accuracy(counts: Int[np.ndarray, "k k+1"]) -> float | None:
    """Share of labelled pixels that are right; None when nothing is labelled."""
    total = counts.sum()
    return 100.0 * float(np.trace(counts)) / float(total) if total else None


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that there are; None when there is none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _percent(parts: Int[np.ndarray, " k"], wholes: Int[np.ndarray, " k"]) -> list[float | None]:
    return [
        100.0 * part / whole if whole else None for part, whole in zip(parts.tolist(), wholes.tolist(), strict=True)
    ]
