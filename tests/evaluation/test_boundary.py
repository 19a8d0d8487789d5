import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from clouds.evaluation.boundary import boundary_distance, boundary_iou, boundary_map, count_boundaries
from clouds.evaluation.confusion import class_iou, count_confusion

CLASSES = 3
_sides = st.integers(1, 12)


@st.composite
def _maps(draw: st.DrawFn, count: int = 1, *, ignore: bool = True) -> list[np.ndarray]:
    """Label maps of one size, of blocks, so that they have an inside."""
    shape, block = draw(st.tuples(_sides, _sides)), draw(st.integers(1, 9))
    values = st.sampled_from([*range(CLASSES), *([255] if ignore else [])])
    return [
        draw(arrays(np.uint8, shape, elements=values)).repeat(block, 0).repeat(block, 1)[: 1 + 8 * block]
        for _ in range(count)
    ]


def _eroded(mask: np.ndarray, distance: int) -> np.ndarray:
    """As in the paper: d erosions by a square of 3x3; outside of the image there is no mask."""
    return ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=distance, border_value=0)


def _count_one_by_one(truth: np.ndarray, prediction: np.ndarray, distance: int) -> list[list[int]]:
    rows: list[list[int]] = []
    for value in range(CLASSES):
        masks = truth == value, (prediction == value) & (truth != 255)
        true, claimed = (mask & ~_eroded(mask, distance) for mask in masks)
        rows.append([int((true & claimed).sum()), int(true.sum()), int(claimed.sum())])
    return rows


@given(maps=_maps(2))
def test_counts_are_those_of_eroding_class_by_class(maps: list[np.ndarray]) -> None:
    truth, prediction = maps
    kept = truth.copy(), prediction.copy()
    counts = count_boundaries(truth, prediction, classes=CLASSES)
    assert counts.dtype == np.int64
    assert counts.tolist() == _count_one_by_one(truth, prediction, boundary_distance(*truth.shape))
    assert np.array_equal(truth, kept[0])
    assert np.array_equal(prediction, kept[1])


@given(maps=_maps(), distance=st.integers(1, 30))
def test_regions_of_any_distance(maps: list[np.ndarray], distance: int) -> None:
    (labels,) = maps
    region = boundary_map(labels, distance)
    for value in range(CLASSES):
        mask = labels == value
        assert np.array_equal(region == value, mask & ~_eroded(mask, distance))


@given(maps=_maps())
def test_equal_maps_have_100_percent(maps: list[np.ndarray]) -> None:
    (truth,) = maps
    found = boundary_iou(count_boundaries(truth, truth, classes=CLASSES))
    assert found == [100.0 if (truth == value).any() else None for value in range(CLASSES)]


@given(maps=_maps(2, ignore=False))
def test_it_is_symmetric(maps: list[np.ndarray]) -> None:
    one, two = (count_boundaries(*pair, classes=CLASSES) for pair in (maps, maps[::-1]))
    assert np.array_equal(one, two[:, [0, 2, 1]])


@given(maps=_maps(2))
def test_regions_that_are_everything_give_the_iou(maps: list[np.ndarray]) -> None:
    """No pixel is further from the image's edge than half of the diagonal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clouds.evaluation.boundary._SHARE_OF_DIAGONAL", 0.5)
        found = boundary_iou(count_boundaries(*maps, classes=CLASSES))
    assert found == class_iou(count_confusion(*maps, classes=CLASSES))


@given(maps=_maps(3))
def test_what_is_predicted_at_ignored_pixels_changes_nothing(maps: list[np.ndarray]) -> None:
    truth, prediction, other = maps
    changed = np.where(truth == 255, other, prediction)
    one, two = (count_boundaries(truth, labels, classes=CLASSES) for labels in (prediction, changed))
    assert np.array_equal(one, two)


def test_an_ignored_area_ends_a_mask_as_the_edge_of_the_image_does() -> None:
    truth = np.zeros((9, 9), np.uint8)
    truth[:, 6:] = 255
    rows, columns = np.indices((9, 9))
    inside = (rows > 0) & (rows < 8) & (columns > 0) & (columns < 5)
    assert np.array_equal(boundary_map(truth, 1) == 0, (truth == 0) & ~inside)


def test_boundary_iou_sees_a_shift_that_iou_hardly_does() -> None:
    truth, prediction = np.zeros((2, 200, 200), np.uint8)
    truth[50:150, 50:150] = 1
    prediction[50:150, 55:155] = 1
    boundary = boundary_iou(count_boundaries(truth, prediction, classes=2))[1]
    area = class_iou(count_confusion(truth, prediction, classes=2))[1]
    ring, moved = np.zeros((2, 200, 200), bool)
    ring[50:150, 50:150] = moved[50:150, 55:155] = True
    ring[56:144, 56:144] = moved[56:144, 61:149] = False  # the distance is 6
    assert boundary == 100 * (ring & moved).sum() / (ring | moved).sum()
    assert area == 100 * 95 / 105
    assert boundary is not None
    assert boundary < 60


@pytest.mark.parametrize(
    ("size", "distance"), [((1, 1), 1), ((30, 40), 1), ((1024, 2048), 46), ((512, 1024), 23), ((768, 768), 22)]
)
def test_distance(size: tuple[int, int], distance: int) -> None:
    assert boundary_distance(*size) == distance


def test_no_pixels() -> None:
    empty = np.zeros((0, 5), np.uint8)
    assert count_boundaries(empty, empty, classes=2).tolist() == [[0, 0, 0]] * 2
    assert boundary_iou(np.zeros((2, 3), np.int64)) == [None, None]
