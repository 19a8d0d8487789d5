"""Accuracy by size of region and by distance from boundaries, against plain loops."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clouds.evaluation.analysis import BANDS, SIZES, Analysis, Regions, count_bands, count_sizes

_CLASSES = 3
_maps = arrays(np.uint8, (9, 11), elements=st.sampled_from([*range(_CLASSES), 255]))
_STEPS = [step for step in product((-1, 0, 1), repeat=2) if step != (0, 0)]


def regions(truth: np.ndarray) -> Iterator[list[tuple[int, int]]]:
    """The connected regions of equal labels, with 8 neighbours."""
    left = set(np.ndindex(truth.shape))
    while left:
        found = [left.pop()]
        for row, column in found:  # grows
            for down, right in _STEPS:
                place = (row + down, column + right)
                if place in left and truth[place] == truth[row, column]:
                    left.remove(place)
                    found.append(place)
        yield found


@given(truth=_maps, prediction=_maps)
def test_sizes(truth: np.ndarray, prediction: np.ndarray) -> None:
    expected = np.zeros((_CLASSES, len(SIZES), 3), np.int64)
    for places in regions(truth):
        label = truth[places[0]]
        if label != 255:
            size = sum(len(places) / truth.size >= limit for limit in (0.001, 0.01, 0.1))
            right = sum(prediction[place] == label for place in places)
            expected[label, size] += (len(places), right, 1)
    assert np.array_equal(count_sizes(truth, prediction, classes=_CLASSES), expected)


@given(truth=_maps, prediction=_maps)
def test_bands(truth: np.ndarray, prediction: np.ndarray) -> None:
    expected = np.zeros((len(BANDS), 2), np.int64)
    for place in np.ndindex(truth.shape):
        if truth[place] == 255:
            continue
        others = np.argwhere(truth != truth[place])
        distance = np.abs(others - place).max(axis=1).min() if len(others) else np.inf
        band = sum(distance > limit for limit in (1, 2, 4, 8, 16, 32))
        expected[band] += (1, truth[place] == prediction[place])
    assert np.array_equal(count_bands(truth, prediction), expected)


def test_names_of_groups() -> None:
    assert BANDS == ("1", "2", "3 to 4", "5 to 8", "9 to 16", "17 to 32", "over 32")
    assert SIZES == ("under 0.1 %", "0.1 to 1 %", "1 to 10 %", "10 % and more")


def test_figures_of_a_small_car_on_a_road() -> None:
    """A car of 4 of 1600 pixels, half of it found; the road is found."""
    truth, prediction = np.zeros((40, 40), np.uint8), np.zeros((40, 40), np.uint8)
    truth[10:12, 10:12] = 1
    prediction[10, 10:12] = 1
    sizes, bands = count_sizes(truth, prediction, classes=2), count_bands(truth, prediction)
    found = Analysis.from_counts(sizes, bands, names=["road", "car"])
    assert found.sizes["car"]["0.1 to 1 %"] == Regions(labelled=4, correct=2, regions=1)
    assert found.sizes["car"]["0.1 to 1 %"].accuracy == 50
    assert found.sizes["car"]["10 % and more"].accuracy is None
    assert found.all_sizes()["10 % and more"] == Regions(1596, 1596, 1)
    # Next to the contour are the car, and the ring of 12 road pixels around it.
    assert (found.bands["1"].labelled, found.bands["1"].correct) == (16, 14)
    assert found.bands["over 32"].labelled == 0


@given(truth=_maps, prediction=_maps)
def test_nothing_is_modified(truth: np.ndarray, prediction: np.ndarray) -> None:
    before = truth.copy(), prediction.copy()
    count_sizes(truth, prediction, classes=_CLASSES)
    count_bands(truth, prediction)
    assert all(np.array_equal(one, two) for one, two in zip(before, (truth, prediction), strict=True))


@pytest.mark.parametrize("value", [1, 255])
def test_a_map_of_one_value_has_no_boundary(value: int) -> None:
    truth = np.full((5, 5), value, np.uint8)
    counts = count_bands(truth, truth)
    assert counts[:-1].sum() == 0
    assert counts[-1].tolist() == ([25, 25] if value == 1 else [0, 0])
