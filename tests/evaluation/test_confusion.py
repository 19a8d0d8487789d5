import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clouds import DataError
from clouds.evaluation.confusion import class_iou, count_confusion, mean, mean_iou, pixel_accuracy

CLASSES = 4
_values = st.sampled_from([*range(CLASSES), 255])


@st.composite
def _pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(st.tuples(st.integers(0, 7), st.integers(0, 7)))
    return draw(arrays(np.uint8, shape, elements=_values)), draw(arrays(np.uint8, shape, elements=_values))


@given(pair=_pairs())
def test_counts_and_figures_agree_with_sets_of_pixels(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, prediction = pair
    kept = truth.copy()
    counts = count_confusion(truth, prediction, classes=CLASSES)
    assert counts.dtype == np.int64
    assert counts.shape == (CLASSES, CLASSES + 1)
    assert counts.sum() == np.count_nonzero(truth != 255)
    assert np.array_equal(truth, kept), "the ground truth is not altered"
    labelled = truth != 255
    for value, iou in enumerate(class_iou(counts)):
        true, claimed = truth == value, (prediction == value) & labelled
        if true.any():
            assert iou == 100 * np.count_nonzero(true & claimed) / np.count_nonzero(true | claimed)
        else:
            assert iou is None
    right = np.count_nonzero((truth == prediction) & labelled)
    assert pixel_accuracy(counts) == (100 * right / labelled.sum() if labelled.any() else None)


@given(pairs=st.lists(_pairs(), min_size=1, max_size=3))
def test_counts_add_up_over_images(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    total = sum(count_confusion(truth, prediction, classes=CLASSES) for truth, prediction in pairs)
    truth, prediction = (np.concatenate([pair[side].ravel() for pair in pairs])[None] for side in (0, 1))
    assert np.array_equal(total, count_confusion(truth, prediction, classes=CLASSES))


def test_prediction_of_ignore_is_wrong_for_its_class_alone() -> None:
    truth = np.array([[0, 0, 1, 1]], np.uint8)
    counts = count_confusion(truth, np.array([[0, 255, 1, 1]], np.uint8), classes=CLASSES)
    assert counts[0].tolist() == [1, 0, 0, 0, 1]
    assert class_iou(counts) == [50.0, 100.0, None, None]


def test_class_that_is_predicted_but_never_true_is_not_averaged() -> None:
    counts = count_confusion(np.zeros((1, 4), np.uint8), np.array([[0, 0, 0, 3]], np.uint8), classes=CLASSES)
    assert mean_iou(counts) == 75.0


def test_nothing_labelled_gives_no_figures() -> None:
    counts = count_confusion(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8), classes=CLASSES)
    assert (mean_iou(counts), pixel_accuracy(counts), class_iou(counts)) == (None, None, [None] * CLASSES)
    assert mean([]) is None
    assert mean([None, 2.0, 4.0]) == 3.0


@pytest.mark.usefixtures("unchecked_types")
def test_shapes_that_differ() -> None:
    with pytest.raises(DataError, match=r"prediction has shape \(2, 3\), but its ground truth has \(3, 2\)"):
        count_confusion(np.zeros((3, 2), np.uint8), np.zeros((2, 3), np.uint8), classes=CLASSES)


@pytest.mark.parametrize(("what", "place"), [("ground truth", 0), ("prediction", 1)])
def test_values_that_are_no_class(what: str, place: int) -> None:
    pair = [np.zeros((1, 2), np.uint8), np.zeros((1, 2), np.uint8)]
    pair[place][0, 1] = 4
    with pytest.raises(DataError, match=rf"{what} has train ids \[4\]; expected 0\.\.3 or 255 \(ignore\)"):
        count_confusion(pair[0], pair[1], classes=CLASSES)
