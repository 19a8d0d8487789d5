"""Calibration: does a pixel with confidence 0.8 have the right class in 80 % of cases?

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 2: predictions are grouped into M = 15 bins
of equal width by their confidence; bin m holds ((m-1)/M, m/M]. The expected calibration error (equation 3) is the mean
of |accuracy - confidence| over the bins, weighted by their number of predictions; here, of labelled pixels.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from attrs import field, frozen
from jaxtyping import Bool, Float, Float64

BINS = 15


@frozen
class Bin:
    """Pixels of similar confidence.

    Attributes:
        pixels: their number.
        confidence: their mean confidence in percent; None without pixels.
        accuracy: share of them that is correct, in percent; None without pixels.
    """

    pixels: int
    confidence: float | None
    accuracy: float | None


def _to_tuple(value: Iterable[Bin]) -> tuple[Bin, ...]:
    return tuple(value)


@frozen(kw_only=True)
class Calibration:
    """Confidence and accuracy of the labelled pixels of a domain.

    Attributes:
        bins: 15 bins by rising confidence.
        ece: expected calibration error in percent; None if nothing is labelled.
    """

    bins: tuple[Bin, ...] = field(converter=_to_tuple)
    ece: float | None

    @classmethod
    def from_counts(cls, counts: Float64[np.ndarray, "m 3"]) -> Calibration:
        """The figures of `count_confidences`, summed over images."""
        pixels, confidences, correct = counts.T
        total = pixels.sum()
        return cls(
            bins=[
                Bin(int(number), 100 * float(sure / number), 100 * float(right / number))
                if number
                else Bin(0, None, None)
                for number, sure, right in counts
            ],
            ece=100 * float(np.abs(correct - confidences).sum() / total) if total else None,
        )


def confidence(scores: Float[np.ndarray, "k h w"]) -> Float[np.ndarray, "h w"]:
    """Share of the best class in the sum of a pixel's scores, in 0..1; 0 where all scores are 0."""
    total = scores.sum(0)
    return np.divide(scores.max(0), total, out=np.zeros_like(total), where=total > 0)


def count_confidences(
    confidences: Float[np.ndarray, "h w"],
    correct: Bool[np.ndarray, "h w"],
    labelled: Bool[np.ndarray, "h w"],
    *,
    bins: int = BINS,
) -> Float64[np.ndarray, "{bins} 3"]:
    """Count the pixels of one image by confidence.

    Args:
        confidences: of the predicted class, 0..1.
        correct: whether the predicted class is that of the ground truth.
        labelled: pixels to count.
        bins: number of bins of equal width.

    Returns:
        Per bin: number of pixels, sum of their confidences, number of correct ones; to be summed over images.
    """
    sure = confidences[labelled].astype(np.float64)
    place = np.clip(np.ceil(sure * bins).astype(np.int64) - 1, 0, bins - 1)
    weights = (None, sure, correct[labelled])
    return np.stack([np.bincount(place, one, minlength=bins) for one in weights], axis=1).astype(np.float64)
