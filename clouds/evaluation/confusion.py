"""Confusion counts and metrics computed from them. Metrics are in percent, or None if undefined.

Counts are int64 "k k+1", [ground truth, prediction]. The last column counts pixels predicted as "ignore": they are
false negatives of their true class, but no false positives. Pixels with ground truth 255 are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt8

from clouds.core.contract.labels import IGNORE_ID
from clouds.core.system.errors import DataError


def count_pairs(rows: UInt8[np.ndarray, "h w"], columns: UInt8[np.ndarray, "h w"]) -> Int[np.ndarray, "256 256"]:
    """Number of pixels with each pair of values, int64 [value in `rows`, value in `columns`]."""
    pairs = rows.astype(np.uint16)
    pairs <<= 8
    pairs |= columns
    return np.bincount(pairs.ravel(), minlength=1 << 16).reshape(256, 256)


def count_confusion(
    truth: UInt8[np.ndarray, "h w"], prediction: UInt8[np.ndarray, "h w"], *, classes: int
) -> Int[np.ndarray, "k k+1"]:
    """Count the pixels of one image by true and predicted class. The inputs are not modified.

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
                f"{what} has train ids {strange.tolist()}; expected 0..{classes - 1} or {IGNORE_ID} (ignore)"
            )
    return pairs[:classes, [*range(classes), IGNORE_ID]]


def intersection_over_union(
    hits: Int[np.ndarray, " k"], truth: Int[np.ndarray, " k"], predicted: Int[np.ndarray, " k"]
) -> list[float | None]:
    """IoU per class, TP / (TP + FN + FP); None for a class that is absent from the ground truth.

    Everingham et al., "The PASCAL Visual Object Classes Challenge", IJCV 2015.

    Args:
        hits: pixels with the class in both.
        truth: pixels with the class in the ground truth.
        predicted: labelled pixels predicted as the class.
    """
    return _percent(hits, np.where(truth > 0, truth + predicted - hits, 0))


def class_iou(counts: Int[np.ndarray, "k k+1"]) -> list[float | None]:
    """Intersection over union per class; None for a class that is absent from the ground truth."""
    return intersection_over_union(np.diagonal(counts), counts.sum(axis=1), counts[:, :-1].sum(axis=0))


def class_accuracy(counts: Int[np.ndarray, "k k+1"]) -> list[float | None]:
    """Accuracy per class, TP / (TP + FN); None for a class that is absent from the ground truth."""
    return _percent(np.diagonal(counts), counts.sum(axis=1))


def mean_iou(counts: Int[np.ndarray, "k k+1"]) -> float | None:
    """Mean IoU over the classes of the ground truth, as published; None if it has none.

    Predictions of an absent class only lower the IoU of the true classes.
    """
    return mean(class_iou(counts))


def agreement(counts: Int[np.ndarray, "k k+1"]) -> float | None:
    """Mean IoU of two label maps, over the classes of either; None without pixels.

    Unlike `mean_iou`, it takes neither for the truth: a class that one of them lacks counts as 0.
    """
    hits = np.diagonal(counts)
    return mean(_percent(hits, counts.sum(axis=1) + counts[:, :-1].sum(axis=0) - hits))


def frequency_weighted_iou(counts: Int[np.ndarray, "k k+1"], rows: Sequence[int] | None = None) -> float | None:
    """Mean IoU weighted by the number of ground truth pixels per class; None if nothing is labelled.

    Long et al., "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, section 5.

    Args:
        counts: as above.
        rows: train ids of the mean; None takes all.
    """
    ious, sizes = class_iou(counts), counts.sum(axis=1).tolist()
    chosen = range(len(ious)) if rows is None else rows
    known = [(iou, sizes[row]) for row in chosen if (iou := ious[row]) is not None]
    return sum(iou * size for iou, size in known) / sum(size for _, size in known) if known else None


def pixel_accuracy(counts: Int[np.ndarray, "k k+1"], rows: Sequence[int] | None = None) -> float | None:
    """Share of labelled pixels (of the true classes `rows`) that are correct; None if nothing is labelled."""
    chosen = slice(None) if rows is None else list(rows)
    total = counts[chosen].sum()
    return 100.0 * float(np.diagonal(counts)[chosen].sum()) / float(total) if total else None


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are not None; None if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _percent(parts: Int[np.ndarray, " k"], wholes: Int[np.ndarray, " k"]) -> list[float | None]:
    return [
        100.0 * part / whole if whole else None for part, whole in zip(parts.tolist(), wholes.tolist(), strict=True)
    ]
