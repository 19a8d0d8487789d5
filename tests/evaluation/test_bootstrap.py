"""Intervals over images."""

import numpy as np
import pytest

from clouds.evaluation.bootstrap import RESAMPLES, Interval, resampled_miou
from clouds.evaluation.confusion import mean_iou


def counts(seed: int, images: int = 6, classes: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 50, (images, classes, classes + 1))


def test_equal_images_have_no_spread() -> None:
    one = counts(0, images=1)
    values = resampled_miou([{"day": np.repeat(one, 5, axis=0)}])
    assert values.shape == (RESAMPLES,)
    np.testing.assert_allclose(values, mean_iou(one[0]), rtol=1e-12)


def test_each_resample_is_the_score_of_its_images() -> None:
    each = counts(1)
    each[:3, 2] = 0  # a class that some resamples lack
    drawn = np.random.default_rng([0, 0]).multinomial(6, np.full(6, 1 / 6), size=RESAMPLES)
    expected = [mean_iou((weights[:, None, None] * each).sum(0)) for weights in drawn]
    np.testing.assert_allclose(resampled_miou([{"day": each}]), expected, rtol=1e-12)


def test_domains_and_runs_are_averaged_and_paired_by_image() -> None:
    first, second, night = counts(1), counts(2), counts(3, images=4)
    alone = [resampled_miou([{"day": one, "night": night}]) for one in (first, second)]
    both = resampled_miou([{"day": first, "night": night}, {"day": second, "night": night}])
    np.testing.assert_allclose(both, np.mean(alone, axis=0), rtol=1e-12)
    np.testing.assert_array_equal(alone[0] - resampled_miou([{"day": first, "night": night}]), np.zeros(RESAMPLES))


def test_the_interval_is_the_central_95_percent() -> None:
    interval = Interval.of(np.array([*np.linspace(0, 100, 1001), np.nan]))
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((2.5, 97.5))
    assert str(interval) == "2.5 to 97.5"
    assert str(Interval(-0.04, 0.7)) == "0.0 to 0.7"
    assert Interval.of(resampled_miou([{"day": np.zeros((2, 3, 4), np.int64)}])) is None
