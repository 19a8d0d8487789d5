"""Panoptic quality, counted as panopticapi does.

Kirillov et al., "Panoptic Segmentation", CVPR 2019, equation 1, per class over the segments of all images:

    PQ = sum of IoU over TP / (TP + FP / 2 + FN / 2) = SQ x RQ
    SQ = sum of IoU over TP / TP,  RQ = TP / (TP + FP / 2 + FN / 2)

A predicted and a true segment of one class match (TP) if their IoU is above 1/2, so that each has at most one match.
Void, which is what the truth ignores, does not count in the union. Crowds are not matched, nor missed. A predicted
segment without a match is no error if more than half of it is void or a crowd of its class.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import frozen
from jaxtyping import Bool, Float, Int32

from clouds.core.contract.labels import IGNORE_ID, LabelSpace
from clouds.data.segment_files import FACTOR, are_crowds
from clouds.evaluation.confusion import mean


def count_segments(
    truth: Int32[np.ndarray, "h w"],
    predicted: Int32[np.ndarray, "h w"],
    labels: Sequence[int],
    label_space: LabelSpace,
) -> Float[np.ndarray, "k 4"]:
    """Sum of IoUs, TP, FP and FN of one image, by class.

    Args:
        truth: segment map, see `clouds.data.segment_files`.
        predicted: segment of each pixel, 1 to n; 0 is none.
        labels: train ids of the segments 1 to n.
        label_space: which classes are things.
    """
    # Pixels "t n+1" by true value (a segment, a crowd, or void) and predicted segment
    values, place = np.unique(truth, return_inverse=True)
    columns = len(labels) + 1
    pairs = place.reshape(truth.shape) * columns + predicted
    pixels = np.bincount(pairs.ravel(), minlength=len(values) * columns).reshape(len(values), columns)
    # Kinds of true values "t 1", and whether each has the predicted class "t n+1"
    void, crowd = (values == IGNORE_ID)[:, None], are_crowds(values, label_space)[:, None]
    classes = np.array([IGNORE_ID, *labels])
    same = (values % FACTOR)[:, None] == classes
    # IoU "t n+1"; void is left out of the union
    counted = np.where(void, 0, pixels)
    union = pixels.sum(1, keepdims=True) + counted.sum(0) - pixels
    iou = np.where(same & ~crowd & ~void, pixels / np.maximum(union, 1), 0.0)
    matched = iou > 0.5
    # Segments of each outcome: found, missed, and wrong without an excuse
    found, missed = matched.any(0), ~(matched.any(1) | crowd[:, 0] | void[:, 0])
    excused = np.where(void | (crowd & same), pixels, 0).sum(0) * 2 > pixels.sum(0)
    wrong = ~(found | excused) & (pixels.sum(0) > 0) & (classes != IGNORE_ID)
    # Their sums by class "k", side by side
    right, lost = classes[found], values[missed] % FACTOR
    outcomes = ((right, iou.max(0)[found]), (right, None), (classes[wrong], None), (lost, None))
    sums = [np.bincount(segments, weights, minlength=len(label_space)) for segments, weights in outcomes]
    return np.stack(sums, axis=1).astype(np.float64)


@frozen(kw_only=True)
class PanopticQuality:
    """PQ, SQ and RQ in percent, by class; None for a class that neither truth nor prediction has.

    Means are over the other classes, as in panopticapi.
    """

    pq: list[float | None]
    sq: list[float | None]
    rq: list[float | None]

    @classmethod
    def from_counts(cls, counts: Float[np.ndarray, "k 4"]) -> PanopticQuality:
        """The figures of `count_segments`, summed over images."""
        iou, hits, wrong, missed = counts.T
        whole = hits + wrong / 2 + missed / 2
        with np.errstate(invalid="ignore"):
            rq, sq = hits / whole, np.where(hits > 0, iou / hits, 0.0)
        known = whole > 0
        return cls(pq=_percent(sq * rq, known), sq=_percent(sq, known), rq=_percent(rq, known))

    def means(self, chosen: Sequence[bool] | None = None) -> tuple[float | None, float | None, float | None]:
        """PQ, SQ and RQ, averaged over some classes, or all."""
        rows = [row for row in range(len(self.pq)) if chosen is None or chosen[row]]
        pq, sq, rq = (mean([figures[row] for row in rows]) for figures in (self.pq, self.sq, self.rq))
        return pq, sq, rq


def _percent(values: Float[np.ndarray, " k"], known: Bool[np.ndarray, " k"]) -> list[float | None]:
    return [100 * value if there else None for value, there in zip(values.tolist(), known.tolist(), strict=True)]
