"""Sliding windows: equal to a plain reference, and the label maps of a protocol."""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

import clouds
from clouds import LabelSpace
from clouds.core.system.images import window_starts
from clouds.evaluation.protocols import Protocol
from clouds.evaluation.slide import predict_sliding, resize_bilinear, slide
from clouds.evaluation.views import Views

LABELS = LabelSpace.from_names(["road", "car", "sky"], name="toy")
SMALL = Protocol(name="small", source="this test", fit=(64, 32), side=32, stride=21)


def reference(logits_of: Callable[[Tensor], Tensor], image: Tensor, side: int, stride: int) -> Tensor:
    """The published rule written out: windows on a grid, the last ones moved back inside, sums divided by counts."""
    height, width = image.shape[-2:]
    total = torch.zeros(3, height, width)
    count = torch.zeros(height, width)
    for row in range(max(height - side + stride - 1, 0) // stride + 1):
        for column in range(max(width - side + stride - 1, 0) // stride + 1):
            bottom, right = min(row * stride + side, height), min(column * stride + side, width)
            top, left = max(bottom - side, 0), max(right - side, 0)
            total[:, top:bottom, left:right] += logits_of(image[:, top:bottom, left:right])
            count[top:bottom, left:right] += 1
    return total / count


@frozen
class _Answer:
    values: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        return self.values.argmax(0).astype(np.uint8)

    def scores(self) -> np.ndarray:
        return self.values


def _logits(window: Tensor) -> Tensor:
    """Scores that depend on the place in the window, so that every window counts."""
    places = torch.arange(1.0, 1 + window.shape[1] * window.shape[2]).reshape(window.shape[1:])
    return window.float() * places.sqrt()


class _PlaceModel:
    labels = LABELS

    def predict_many(
        self, images: Iterable[np.ndarray], *, batch_size: int = 8, short_side: int | None = None, window: int = 2048
    ) -> Iterator[_Answer]:
        for image in images:
            assert max(image.shape[:2]) <= window
            yield _Answer(_logits(torch.from_numpy(image).permute(2, 0, 1)).numpy())


def _image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), np.uint8)


@given(height=st.integers(1, 40), width=st.integers(1, 40), side=st.integers(1, 16), data=st.data())
def test_the_mean_of_overlapping_scores_is_that_of_the_reference(
    height: int, width: int, side: int, data: st.DataObject
) -> None:
    """To the bit: both sum float32 in the same order."""
    image, stride = _image(height, width), data.draw(st.integers(1, side))
    expected = reference(_logits, torch.from_numpy(image).permute(2, 0, 1), side, stride)
    assert np.array_equal(slide(_PlaceModel(), image, side=side, stride=stride), expected.numpy())


@given(length=st.integers(1, 4000), side=st.integers(1, 1024), data=st.data())
def test_windows_cover_an_axis(length: int, side: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, side))
    starts = window_starts(length, side, stride)
    assert starts[0] == 0
    assert starts[-1] == max(length - side, 0)
    assert all(0 < later - earlier <= stride for earlier, later in pairwise(starts))


@pytest.mark.parametrize(
    ("length", "side", "stride", "starts"),
    [(1024, 512, 341, [0, 341, 512]), (2048, 1024, 683, [0, 683, 1024]), (512, 512, 341, [0]), (100, 512, 341, [0])],
)
def test_window_starts_of_the_papers(length: int, side: int, stride: int, starts: list[int]) -> None:
    assert window_starts(length, side, stride) == starts


@pytest.fixture(scope="module")
def pipeline() -> clouds.Pipeline:
    made = clouds.compose(backbone="tiny", head="linear", device="cpu", labels=LABELS)
    made.trained = True
    return made


@pytest.mark.parametrize("views", [Views(window=None), Views(scales=(1.0, 1.5), flip=True, window=None)])
def test_a_pipeline_with_sliding_windows(pipeline: clouds.Pipeline, views: Views) -> None:
    """Every step written out: resize, windows, mean, resize of the scores, views, class."""
    image = _image(50, 90)
    expected = torch.zeros(3, 50, 90)
    for scale in views.scales:
        factor = min(int(64 * scale) / 90, int(32 * scale) / 50)
        size = int(50 * factor + 0.5), int(90 * factor + 0.5)
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        seen = functional.interpolate(pixels, size=size, mode="bilinear").add(0.5)[0].byte()
        for mirror in (False, True) if views.flip else (False,):
            scores = reference(
                lambda window: torch.from_numpy(pipeline.predict(window).scores()),
                seen.flip(2) if mirror else seen,
                32,
                21,
            )
            scores = scores.flip(2) if mirror else scores
            expected += functional.interpolate(scores[None], size=(50, 90), mode="bilinear")[0]
    (found,) = predict_sliding(SMALL, views, "folder", pipeline, [image])
    labels = found.labels
    best = expected.sort(0).values
    clear = (
        best[-1] - best[-2] > 1e-5
    ).numpy()  # sums of at most four float32 scores below 1, resized in another order
    assert clear.mean() > 0.9
    assert labels.dtype == np.uint8
    assert np.array_equal(labels[clear], expected.argmax(0).numpy()[clear])


def test_batches_of_windows(pipeline: clouds.Pipeline) -> None:
    """A batch sums in another order, which changes scores by at most 2e-5 (`test_predict_many`)."""
    image = _image(50, 90)
    alone = slide(pipeline, image, side=32, stride=21)
    assert np.abs(slide(pipeline, image, side=32, stride=21, batch_size=4) - alone).max() <= 2e-5


def test_resize_without_antialiasing() -> None:
    """At half the size, OpenCV's INTER_LINEAR is the mean of four pixels; halves round up."""
    image = _image(8, 12)
    means = image.reshape(4, 2, 6, 2, 3).astype(np.float32).mean((1, 3))
    assert np.array_equal(resize_bilinear(image, (4, 6)), np.floor(means + 0.5).astype(np.uint8))
    assert resize_bilinear(image, (8, 12)) is image
