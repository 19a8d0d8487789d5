"""Counts are summed image by image, so that memory does not grow with the number of images."""

import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from clouds import ConfigError
from clouds.evaluation.counts import Counter, Counts
from clouds.evaluation.views import Segmentation

COUNTER = Counter(classes=3, analysis=True, calibration=True)


def _count(seed: int) -> Counts:
    rng = np.random.default_rng(seed)
    truth, labels = rng.integers(0, 3, (2, 16, 16), np.uint8)
    return COUNTER.count(truth, Segmentation(labels, rng.random((16, 16), np.float32)))


def test_the_total_keeps_no_counts_of_images() -> None:
    living: list[weakref.ref[np.ndarray]] = []

    def images() -> Iterator[Counts]:
        for seed in range(6):
            counts = _count(seed)
            living.extend(map(weakref.ref, counts.values()))
            yield counts
            # This image's counts are here and in the sum's loop; those of the images before are gone.
            assert sum(one() is not None for one in living) <= len(counts)
            del counts

    total = COUNTER.total(images())
    assert len(living) == 6 * len(total)
    for name, values in total.items():
        # Integers are exact; confidences are sums of 1,536 float64 values below 1.
        np.testing.assert_allclose(values, sum(_count(seed)[name] for seed in range(6)), rtol=0, atol=1e-9)


def test_the_total_of_nothing() -> None:
    assert {name: (one.shape, one.sum()) for name, one in COUNTER.total([]).items()} == {
        name: (one.shape, 0) for name, one in _count(0).items()
    }
    assert list(Counter(classes=3).total([])) == ["confusion", "boundaries"]


def test_calibration_needs_confidences() -> None:
    labels = np.zeros((2, 2), np.uint8)
    with pytest.raises(ConfigError, match="the predictions have no confidences; predict with confidences=True"):
        COUNTER.count(labels, Segmentation(labels))
