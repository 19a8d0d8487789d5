"""Test-time augmentation, with models that say what they were shown."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import clouds
from clouds import ConfigError, LabelSpace
from clouds.evaluation.views import Views

LABELS = LabelSpace.from_names(["road", "car", "sky"], name="toy")
_images = arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)))


@frozen
class _Answer:
    labels: np.ndarray
    values: np.ndarray

    def scores(self) -> np.ndarray:
        return self.values


class _Model:
    """Scores are what `to_scores` makes of an image and the short side that the network would see."""

    labels = LABELS

    def __init__(self, to_scores: Callable[[np.ndarray, int], np.ndarray]) -> None:
        self.to_scores = to_scores
        self.calls: list[tuple[int | None, int]] = []

    def predict_many(
        self, images: Iterable[np.ndarray], *, batch_size: int = 8, short_side: int | None = None, window: int = 2048
    ) -> Iterator[_Answer]:
        for image in images:
            self.calls.append((short_side, window))
            scores = self.to_scores(image, short_side or min(image.shape[:2]))
            yield _Answer(scores.argmax(0).astype(np.uint8), scores)


def _predict(views: Views, model: Any, image: np.ndarray) -> np.ndarray:
    (found,) = views.predict_many(model, [image])
    return found.labels


def _colours(image: np.ndarray, side: int) -> np.ndarray:
    return image.transpose(2, 0, 1).astype(np.float32)


def _left_to_right(image: np.ndarray, side: int) -> np.ndarray:
    """A model with a liking for columns: what it says of a column depends on where that is."""
    return _colours(image, side) * np.arange(image.shape[1], dtype=np.float32)


@given(image=_images)
def test_one_view_is_the_plain_prediction(image: np.ndarray) -> None:
    model = _Model(_left_to_right)
    labels = _predict(Views(), model, image)
    assert np.array_equal(labels, _left_to_right(image, 0).argmax(0))
    assert model.calls == [(None, 2048)]


@given(image=_images)
def test_the_answer_for_a_mirror_image_is_the_mirrored_answer(image: np.ndarray) -> None:
    views, model = Views(flip=True), _Model(_left_to_right)
    labels, mirrored = _predict(views, model, image), _predict(views, model, image[:, ::-1])
    assert np.array_equal(labels, mirrored[:, ::-1])


@given(image=_images, flip=st.booleans(), scales=st.sampled_from([(1.0,), (0.5, 1.0), (0.75, 1.0, 2.0)]))
def test_views_that_agree_change_nothing(image: np.ndarray, flip: bool, scales: tuple[float, ...]) -> None:
    kept = image.copy()
    labels = _predict(Views(flip=flip, scales=scales), _Model(_colours), image)
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, image.argmax(-1))
    assert np.array_equal(image, kept)


def test_scores_are_averaged_and_not_votes() -> None:
    """Two of three views are for road by little, one for sky by much."""
    by_side = {50: (0.6, 0.0, 0.4), 100: (0.6, 0.0, 0.4), 200: (0.1, 0.0, 0.9)}

    def to_scores(image: np.ndarray, side: int) -> np.ndarray:
        return np.broadcast_to(np.array(by_side[side], np.float32)[:, None, None], (3, *image.shape[:2]))

    model = _Model(to_scores)
    labels = _predict(Views(scales=(0.5, 1, 2), window=77), model, np.zeros((100, 150, 3), np.uint8))
    assert np.all(labels == 2)
    assert model.calls == [(50, 77), (100, 77), (200, 77)]


def test_the_smallest_view_has_a_pixel() -> None:
    model = _Model(_colours)
    _predict(Views(scales=(0.01,), flip=True), model, np.zeros((3, 5, 3), np.uint8))
    assert model.calls == [(1, 2048), (1, 2048)]


@pytest.fixture(scope="module")
def pipeline() -> clouds.Pipeline:
    made = clouds.compose(backbone="tiny", head="linear", device="cpu", labels=LABELS)
    made.trained = True
    return made


def test_a_pipeline_with_views(pipeline: clouds.Pipeline) -> None:
    """What the views do to a pipeline, done by hand."""
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    sides = (35, 70, 105)
    plain = [pipeline.predict(image, short_side=side).scores() for side in sides]
    mirrored = [pipeline.predict(image[:, ::-1], short_side=side).scores()[..., ::-1] for side in sides]
    expected = np.mean([*plain, *mirrored], axis=0, dtype=np.float64)
    labels = _predict(Views(scales=(0.5, 1.0, 1.5), flip=True), pipeline, image)
    best = np.sort(expected, axis=0)
    clear = best[-1] - best[-2] > 1e-5  # sums of six float32 scores below 1, in another order
    assert clear.mean() > 0.9
    assert np.array_equal(labels[clear], expected.argmax(0)[clear])


def test_windows_are_used_for_what_is_larger(pipeline: clouds.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[Sequence[int]] = []
    forward = pipeline.forward

    def watch(images: list[torch.Tensor]) -> Any:
        shapes.extend(tuple(image.shape[1:]) for image in images)
        return forward(images)

    monkeypatch.setattr(pipeline, "forward", watch)
    image = np.random.default_rng(0).integers(0, 256, (100, 150, 3), np.uint8)
    assert _predict(Views(window=64), pipeline, image).shape == (100, 150)
    assert len(shapes) == 6
    assert max(max(shape) for shape in shapes) == 64
    shapes.clear()
    _predict(Views(window=128), pipeline, image)
    assert shapes == [(100, 150)], "100 x 150 pixels are not more than 128 x 128"


@pytest.mark.parametrize("scales", [(), (0.0,), (-1.0,), (float("nan"),), (float("inf"), 1.0), (1.0, 1.0)])
def test_scales_that_are_none(scales: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"scales: expected different positive numbers such as 0\.75 1 1\.25, got"):
        Views(scales=scales)


def test_a_window_without_pixels() -> None:
    with pytest.raises(ConfigError, match="window is 0; expected at least 1 pixel"):
        Views(window=0)


def test_words() -> None:
    assert str(Views()) == "windows of 2048 x 2048 where an image is larger"
    assert str(Views(scales=(1,), flip=True)).startswith("scores averaged over scales 1 and their mirror images; ")
    assert str(Views(scales=(0.5, 1))).startswith("scores averaged over scales 0.5, 1; windows")
