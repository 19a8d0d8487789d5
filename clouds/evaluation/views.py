"""Test-time augmentation: average the scores of several views of an image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

import numpy as np
from attrs import field, frozen
from jaxtyping import Float32, UInt8

from clouds.core.contract.labels import LabelSpace
from clouds.core.system.batches import read_ahead
from clouds.core.system.errors import ConfigError
from clouds.evaluation.calibration import confidence

_UNLIMITED = 2**31  # side of a window that no image exceeds


@runtime_checkable
class LabelsAndScores(Protocol):
    """A prediction: uint8 labels "h w", and float32 scores "k h w" on request."""

    @property
    def labels(self) -> np.ndarray: ...

    def scores(self) -> np.ndarray: ...


@runtime_checkable
class Predictor(Protocol):
    """The model to evaluate: a `clouds.Pipeline`, or any object with the same `predict_many`."""

    @property
    def labels(self) -> LabelSpace: ...

    def predict_many(
        self, images: Iterable[np.ndarray], *, batch_size: int = 8, short_side: int | None = None, window: int = 2048
    ) -> Iterator[LabelsAndScores]: ...


@frozen(eq=False)
class Segmentation:
    """The labels of an image, and the confidence in them if it was asked for: see `confidence`."""

    labels: UInt8[np.ndarray, "h w"]
    confidences: Float32[np.ndarray, "h w"] | None = None


def _to_floats(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


@frozen(kw_only=True)
class Views:
    """The views of each image that the model segments.

    Attributes:
        scales: sizes of the views, relative to the image's.
        flip: also segment the mirror image of each view.
        window: views of more than window x window pixels are segmented in overlapping windows of that side; None if
            the protocol decides.

    Raises:
        ConfigError: `scales` is empty, not positive, or has duplicates; `window` is less than 1.
    """

    scales: tuple[float, ...] = field(default=(1.0,), converter=_to_floats)
    flip: bool = False
    window: int | None = 2048

    def __attrs_post_init__(self) -> None:
        usable = all(math.isfinite(scale) and scale > 0 for scale in self.scales)
        if not (self.scales and usable and len(set(self.scales)) == len(self.scales)):
            raise ConfigError(f"scales: expected different positive numbers such as 0.75 1 1.25, got {self.scales}")
        if self.window is not None and self.window < 1:
            raise ConfigError(f"window is {self.window}; expected at least 1 pixel")

    def __str__(self) -> str:
        words: list[str] = []
        if not self.single:
            scales = ", ".join(f"{scale:g}" for scale in self.scales)
            words.append(f"scores averaged over scales {scales}{' and their mirror images' if self.flip else ''}")
        if self.window is not None:
            words.append(f"windows of {self.window} x {self.window} where an image is larger")
        return "; ".join(words)

    def predict_many(
        self,
        pipeline: Predictor,
        images: Iterable[UInt8[np.ndarray, "h w 3"]],
        *,
        batch_size: int = 1,
        confidences: bool = False,
    ) -> Iterator[Segmentation]:
        """Segment images, in order: the class with the highest averaged score, at the image's own size.

        Views of equal size (an image and its mirror image) share a batch. Memory holds the scores of one batch and
        their sum. Confidences of a single view need scores that labels alone do without.
        """
        if self.single:
            for prediction in pipeline.predict_many(
                images, batch_size=batch_size, short_side=None, window=self.window_side
            ):
                sure = confidence(prediction.scores()) if confidences else None
                yield Segmentation(prediction.labels, sure)
        else:
            for image in read_ahead(same, images, count=1):
                total = self.total_scores(pipeline, image, batch_size=batch_size)
                sure = confidence(total) if confidences else None
                yield Segmentation(total.argmax(axis=0).astype(np.uint8), sure)

    def total_scores(
        self,
        pipeline: Predictor,
        image: UInt8[np.ndarray, "h w 3"],
        *,
        batch_size: int = 1,
        short_side: int | None = None,
    ) -> Float32[np.ndarray, "k h w"]:
        """Sum of the scores of all views, at the image's own size.

        Args:
            pipeline: segments the views.
            image: RGB.
            batch_size: views per forward pass.
            short_side: short side of the view of scale 1; None keeps the image's.
        """
        total = np.zeros((len(pipeline.labels), *image.shape[:2]), np.float32)
        shown = [image, image[:, ::-1]] if self.flip else [image]
        for scale in self.scales:
            side = max(1, round(scale * (short_side or min(image.shape[:2]))))
            views = pipeline.predict_many(shown, batch_size=batch_size, short_side=side, window=self.window_side)
            for prediction, step in zip(views, (1, -1), strict=False):  # flip the scores of the mirror image back
                total += prediction.scores()[..., ::step]
        return total

    @property
    def count(self) -> int:
        """Number of views of an image."""
        return len(self.scales) * (2 if self.flip else 1)

    @property
    def window_side(self) -> int:
        """`window` as `predict_many` takes it."""
        return _UNLIMITED if self.window is None else self.window

    @property
    def single(self) -> bool:
        """Whether the image itself is the only view."""
        return self.scales == (1.0,) and not self.flip


def same(image: np.ndarray) -> np.ndarray:
    """The image itself, to be read ahead."""
    return image
