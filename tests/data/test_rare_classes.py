"""Rare-class sampling and crops by class share, against their published formulas.

Frequencies are compared by a chi-squared test at level 1e-6: of a million right builds, one fails.
"""

import numpy as np
import pytest
from scipy.stats import chisquare

from clouds import ConfigError
from clouds.core.contract.sampling import Wanted
from clouds.data.rare_classes import RareClassConfig, RareClasses, class_probabilities
from clouds.data.transforms import Augmentation, augment

LEVEL = 1e-6
COUNTS = np.array([[900, 40, 0, 0], [800, 0, 30, 0], [700, 60, 90, 0], [1000, 10, 5, 0]])


def _config(*, temperature: float = 0.01, min_pixels: int = 3000) -> RareClassConfig:
    return RareClassConfig(temperature=temperature, min_pixels=min_pixels, min_crop_share=0.5)


def test_probabilities_are_those_of_the_paper() -> None:
    share = COUNTS.sum(0) / COUNTS.sum()
    expected = np.exp((1 - share[:3]) / 0.1) / np.exp((1 - share[:3]) / 0.1).sum()
    assert class_probabilities(COUNTS, 0.1)[:3] == pytest.approx(expected)
    assert class_probabilities(COUNTS, 0.1)[3] == 0


def test_low_temperatures_do_not_overflow() -> None:
    assert class_probabilities(COUNTS, 1e-6).sum() == pytest.approx(1)


def test_classes_and_images_are_drawn_as_often_as_the_formula_says() -> None:
    rare = RareClasses(COUNTS, _config(temperature=0.5, min_pixels=20), where="-")
    images = {0: [0, 1, 2, 3], 1: [0, 2], 2: [1, 2]}  # those with more than 20 pixels of the class
    drawn = [rare.draw(np.random.default_rng([7, position])) for position in range(20_000)]
    cells = [(train_id, image) for train_id, found in images.items() for image in found]
    expected = [rare.probabilities[train_id] / len(images[train_id]) * len(drawn) for train_id, _ in cells]
    found = [(wanted.train_id, index) for index, wanted in drawn]
    assert set(found) == set(cells)
    assert chisquare([found.count(cell) for cell in cells], expected).pvalue > LEVEL
    assert {wanted.pixels for _, wanted in drawn} == {10}


def test_uniform_draws_would_be_noticed() -> None:
    rare = RareClasses(COUNTS, _config(temperature=0.5, min_pixels=0), where="-")
    drawn = [rare.draw(np.random.default_rng([7, position]))[1].train_id for position in range(20_000)]
    assert chisquare(np.bincount(drawn, minlength=3)).pvalue < LEVEL


def test_a_class_without_an_image_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^i: no image has more than 3000 pixels of class 0 \(at most 1000\); lower"):
        RareClasses(COUNTS, _config(), where="i")


def _views(wanted: Wanted | None = None, ratio: float = 1.0) -> list[np.ndarray]:
    """Crops of a map with a small square of class 1 in class 0, and class 2 in its last rows."""
    label = np.zeros((96, 96), np.uint8)
    label[40:52, 40:52], label[80:] = 1, 2
    image = np.zeros((96, 96, 3), np.uint8)
    settings = Augmentation(crop=(32, 32), scale=(1.0, 1.0), cat_max_ratio=ratio)
    return [augment(image, label, np.random.default_rng(seed), settings, wanted)[1] for seed in range(400)]


def test_views_are_drawn_again_until_they_show_the_class() -> None:
    plain, seen = _views(), _views(Wanted(train_id=1, pixels=60))
    share = np.mean([(view == 1).sum() > 60 for view in plain])
    fails = 400 * (1 - share) ** 11  # of 400 views, each drawn up to eleven times
    # standard deviation of at most sqrt(fails); six of them are passed once in 1e8
    assert abs(sum((view == 1).sum() <= 60 for view in seen) - fails) < 6 * np.sqrt(fails) + 1
    assert any((view == 1).sum() <= 60 for view in plain)


def test_crops_are_drawn_again_until_no_class_has_too_large_a_share() -> None:
    def balanced(view: np.ndarray) -> bool:
        counts = np.unique(view[view != 255], return_counts=True)[1]
        return len(counts) > 1 and counts.max() / counts.sum() < 0.9

    plain, seen = _views(), _views(ratio=0.9)
    fails = 400 * (1 - np.mean([balanced(view) for view in plain])) ** 11
    assert abs(sum(not balanced(view) for view in seen) - fails) < 6 * np.sqrt(fails) + 1
    assert not all(balanced(view) for view in plain)


def test_a_ratio_of_one_changes_no_view() -> None:
    assert all(
        np.array_equal(one, two) for one, two in zip(_views(), _views(Wanted(train_id=0, pixels=-1)), strict=True)
    )


def test_a_ratio_outside_its_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cat_max_ratio=0 must be above 0 and at most 1"):
        Augmentation(crop=(32, 32), cat_max_ratio=0)
