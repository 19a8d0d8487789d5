"""Intervals over images: how much a score would vary with other images of the same domains.

Percentile bootstrap: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from attrs import frozen
from jaxtyping import Float64, Int

RESAMPLES, SEED = 1000, 0
Counts = Mapping[str, Int[np.ndarray, "n k k+1"]]  # confusion of each image, by domain name


@frozen
class Interval:
    """The central 95 % of a resampled score, in percent or points."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Float64[np.ndarray, " r"]) -> Interval | None:
        """The interval of a score's resamples; those without a labelled pixel (NaN) are left out, None if all are."""
        known = values[np.isfinite(values)]
        return cls(*np.percentile(known, (2.5, 97.5)).tolist()) if known.size else None

    def __str__(self) -> str:
        return f"{self.low:z.1f} to {self.high:z.1f}"


def resampled_miou(runs: Sequence[Counts]) -> Float64[np.ndarray, " r"]:
    """Resampled mIoU in percent: mean of the domains, averaged over runs.

    Every call draws the same images, so that differences between the results of two calls are paired by image.

    Args:
        runs: per run, confusion counts "n k k+1" of each image as of `count_confusion`, by domain. All runs have the
            same domains and images.
    """
    domains = [
        np.mean([_resampled(run[name], np.random.default_rng([SEED, index])) for run in runs], axis=0)
        for index, name in enumerate(runs[0])
    ]
    return np.mean(domains, axis=0)


def _resampled(counts: Int[np.ndarray, "n k k+1"], rng: np.random.Generator) -> Float64[np.ndarray, " r"]:
    """The mIoU of each resample of the images of one domain; NaN where nothing is labelled."""
    # 1. how often each resample has each image, "r n"
    images = len(counts)
    drawn = rng.multinomial(images, np.full(images, 1 / images), size=RESAMPLES)
    # 2. confusion of each resample, "r k k+1"
    total = np.tensordot(drawn.astype(np.float64), counts.astype(np.float64), axes=1)  # exact below 2**53 pixels
    # 3. IoU per class, "r k", and the mean over the classes that the resample's labels have
    hits, truth, predicted = np.einsum("rkk->rk", total[..., :-1]), total.sum(2), total[..., :-1].sum(1)
    known = truth > 0
    iou = np.divide(hits, truth + predicted - hits, out=np.zeros_like(hits), where=known)
    number = known.sum(1)
    return 100 * np.divide(iou.sum(1), number, out=np.full(RESAMPLES, np.nan), where=number > 0)
