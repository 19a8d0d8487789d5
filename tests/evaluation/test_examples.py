"""Which images a page shows, and their pictures."""

import numpy as np
import pytest

from clouds import LabelSpace
from clouds.evaluation.examples import Example, most_changed, ranked
from clouds.evaluation.pictures import change_map, change_pictures, error_map, error_pictures

LABELS = LabelSpace.from_names(["road", "car"], name="toy")


def _named(scores: list[float | None]) -> dict[str, float | None]:
    return {f"image {index}": score for index, score in enumerate(scores)}


def test_the_worst_median_and_best_images() -> None:
    scores = [50.0, None, 10.0, 90.0, 40.0, 60.0, 20.0, 80.0, 70.0, 30.0]
    expected = [(2, "worst"), (6, "worst"), (4, "median"), (0, "median"), (7, "best"), (3, "best")]
    assert ranked(_named(scores)) == expected


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([], []),
        ([None], []),
        ([3.0], [(0, "worst")]),
        ([3.0, 1.0, 2.0], [(1, "worst"), (2, "worst"), (0, "best")]),
        ([1.0, 1.0], [(0, "worst"), (1, "worst")]),
    ],
)
def test_few_images_are_shown_once(scores: list[float | None], expected: list[tuple[int, str]]) -> None:
    assert ranked(_named(scores)) == expected


def test_the_images_that_changed_most() -> None:
    before, after = [10.0, 50.0, None, 30.0, 70.0], [15.0, 30.0, 5.0, 30.0, 71.0]
    assert most_changed(_named(before), _named(after)) == [(1, "-20.0 points"), (0, "+5.0 points"), (4, "+1.0 points")]
    assert most_changed(_named(before), _named(after), count=1) == [(1, "-20.0 points")]


def _example(size: tuple[int, int] = (4, 4), **predictions: np.ndarray) -> Example:
    truth = np.zeros(size, np.uint8)
    truth[: size[0] // 4] = 255
    return Example.of(
        np.full((*size, 3), 200, np.uint8),
        truth,
        predictions or {"prediction": np.ones(size, np.uint8)},
        name="street",
        why="worst",
        scores=dict.fromkeys(predictions or ["prediction"], 12.34),
        label_space=LABELS,
    )


def test_large_examples_become_small() -> None:
    found = _example((3000, 1500))
    assert found.image.shape == (1024, 512, 3)
    assert found.truth.shape == found.predictions["prediction"].shape == (1024, 512)
    assert set(np.unique(found.truth)) == {0, 255}, "labels are never mixed"


def test_error_map() -> None:
    image, truth = np.full((4, 8, 3), 200, np.uint8), np.zeros((4, 8), np.uint8)
    truth[0] = 255
    prediction = truth.copy()
    prediction[0] = prediction[3] = 1
    found = error_map(image, truth, prediction)
    assert (found.pixels[3] == (255, 176, 0)).all(), "wrong"
    assert (found.pixels[1:3] == 70).all(), "right: the image, dimmed to 0.35"
    assert found.pixels[0, :, 0].tolist() == [0, 70] * 4, "not labelled: hatched"
    assert found.caption == "33.3 % of the labelled pixels are wrong"


def test_change_map() -> None:
    image, truth = np.full((3, 4, 3), 200, np.uint8), np.zeros((3, 4), np.uint8)
    before, after = truth.copy(), truth.copy()
    before[0], after[1] = 1, 1
    found = change_map(image, truth, before, after)
    assert (found.pixels[0] == (86, 180, 233)).all()
    assert found.pixels[1].tolist() == [[0, 0, 0], [255, 110, 64]] * 2
    assert (found.pixels[2] == 70).all()
    assert found.caption == "33.3 % of the labelled pixels become right, 33.3 % wrong"


def test_pictures_say_what_they_show() -> None:
    page = error_pictures([_example()]).html
    assert "worst: street" in page
    assert 'alt="truth road 75 %, not labelled 25 %"' in page
    assert 'alt="prediction 12.3 % mIoU car 100 %"' in page
    assert 'alt="errors 100.0 % of the labelled pixels are wrong"' in page
    changed = change_pictures([_example(old=np.ones((4, 4), np.uint8), new=np.zeros((4, 4), np.uint8))]).html
    assert 'alt="old 12.3 % mIoU car 100 %"' in changed
    assert 'alt="change 100.0 % of the labelled pixels become right, 0.0 % wrong"' in changed
