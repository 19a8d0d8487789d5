"""Confusion counts and the figures made from them.

Counts are int64 "k k+1", [ground truth, prediction]; the last column counts pixels predicted as "ignore", which are
wrong for the class they belong to and for no other. Pixels whose ground truth is 255 count nowhere.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int, UInt8

from clouds.core.errors import DataError
from clouds.data.encodings import IGNORE_ID


def count_confusion(
    truth: UInt8[np.ndarray, "h w"], prediction: UInt8[np.ndarray, "h w"], *, classes: int
) -> Int[np.ndarray, "k k+1"]:
    """Count the pixels of one image by true and predicted class. The inputs are left as they are.

    Raises:
        DataError: the shapes differ, or a value is neither a class (0..classes-1) nor 255.
    """
    if truth.shape != prediction.shape:
        raise DataError(f"prediction has shape {prediction.shape}, but its ground truth has {truth.shape}")
    for what, values in (("ground truth", truth), ("prediction", prediction)):
        strange = np.flatnonzero(np.bincount(values.ravel(), minlength=IGNORE_ID + 1)[classes:IGNORE_ID]) + classes
        if strange.size:
            raise DataError(
                f"{what} holds train ids {strange.tolist()}; expected 0..{classes - 1} or {IGNORE_ID} (ignore)"
            )
    counted = truth != IGNORE_ID
    rows = truth[counted].astype(np.int64)
    columns = np.minimum(prediction[counted], classes)
    return np.bincount(rows * (classes + 1) + columns, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def class_iou(counts: Int[np.ndarray, "k k+1"]) -> list[float | None]:
    """Intersection over union per class, in percent; None for a class that the ground truth does not have.

    IoU = TP / (TP + FN + FP), Everingham et al., "The PASCAL Visual Object Classes Challenge", IJCV 2015.
    """
    hits = np.diagonal(counts)
    truth, predicted = counts.sum(axis=1), counts[:, :-1].sum(axis=0)
    return [
        100.0 * float(hit) / float(true + claimed - hit) if true else None
        for hit, true, claimed in zip(hits, truth, predicted, strict=True)
    ]


def mean_iou(counts: Int[np.ndarray, "k k+1"]) -> float | None:
    """Mean IoU over the classes that the ground truth has, in percent, as published; None when it has none.

    A class that is predicted but never true lowers the IoU of the classes it was mistaken for, nothing else.
    """
    return mean(class_iou(counts))


def pixel_accuracy(counts: Int[np.ndarray, "k k+1"]) -> float | None:
    """Share of labelled pixels that are right, in percent; None when nothing is labelled."""
    total = counts.sum()
    return 100.0 * float(np.trace(counts)) / float(total) if total else None


def mean(values: list[float | None]) -> float | None:
    """Mean of the values that there are; None when there is none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
