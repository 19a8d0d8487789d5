"""ClassMix against its published rule; frequencies by a chi-squared test at level 1e-6."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import chisquare

from clouds.data.class_mix import draw_classes, paste


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_every_half_of_the_classes_is_equally_likely(count: int) -> None:
    label_map = np.array([[2, 3, 5, 7, 11][:count], [255] * count], np.uint8)
    classes, half = label_map[0].tolist(), (count + 1) // 2
    draws = 6000
    found: Counter[tuple[int, ...]] = Counter()
    for position in range(draws):
        kept = draw_classes(label_map, np.random.default_rng([3, position]))
        assert ((kept == label_map) | (kept == 255)).all()
        found[tuple(sorted(set(kept.ravel().tolist()) - {255}))] += 1
    halves = list(combinations(classes, half))
    assert set(found) == set(halves)
    if len(halves) > 1:
        assert chisquare([found[one] for one in halves]).pvalue > 1e-6


def test_a_class_is_kept_as_a_whole() -> None:
    label_map = np.random.default_rng(0).integers(0, 6, (20, 30), np.uint8)
    kept = draw_classes(label_map, np.random.default_rng(1))
    for train_id in range(6):
        assert len(set((kept == 255)[label_map == train_id].tolist())) == 1


def test_nothing_is_kept_of_an_ignored_map() -> None:
    label_map = np.full((2, 3), 255, np.uint8)
    assert np.array_equal(draw_classes(label_map, np.random.default_rng(0)), label_map)


def test_pixels_are_pasted_where_a_class_was_kept() -> None:
    rng = np.random.default_rng(0)
    image, onto = (rng.integers(0, 256, (4, 5, 3), np.uint8) for _ in range(2))
    pasted = np.where(rng.random((4, 5)) < 0.5, 3, 255).astype(np.uint8)
    mask = (pasted != 255)[..., None]
    assert np.array_equal(paste(image, pasted, onto), mask * image + (1 - mask) * onto)
