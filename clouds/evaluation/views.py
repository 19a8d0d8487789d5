"""Test-time augmentation: an image is segmented in several views, whose scores are averaged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

import numpy as np
from attrs import field, frozen
from jaxtyping import UInt8

from clouds.core.contract.labels import LabelSpace
from clouds.core.system.batches import read_ahead
from clouds.core.system.errors import ConfigError


@runtime_checkable
class LabelsAndScores(Protocol):
    """A prediction: uint8 labels "h w", and float32 scores "k h w" when they are asked for."""

    @property
    def labels(self) -> np.ndarray: ...

    def scores(self) -> np.ndarray: ...


@runtime_checkable
class Predictor(Protocol):
    """What is evaluated: a `clouds.Pipeline`, or anything that predicts like one."""

    @property
    def labels(self) -> LabelSpace: ...

    def predict_many(
        self, images: Iterable[np.ndarray], *, batch_size: int = 8, short_side: int | None = None, window: int = 2048
    ) -> Iterator[LabelsAndScores]: ...


def _to_floats(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


@frozen(kw_only=True)
class Views:
    """How each image is shown to the model.

    Attributes:
        scales: sizes of the views, relative to the image's.
        flip: show each view mirrored left to right, too.
        window: views of more than window x window pixels are segmented in overlapping windows of that side.

    Raises:
        ConfigError: there is no scale, or one is not a positive number, or is given twice; `window` is less than 1.
    """

    scales: tuple[float, ...] = field(default=(1.0,), converter=_to_floats)
    flip: bool = False
    window: int = 2048

    def __attrs_post_init__(self) -> None:
        usable = all(math.isfinite(scale) and scale > 0 for scale in self.scales)
        if not (self.scales and usable and len(set(self.scales)) == len(self.scales)):
            raise ConfigError(f"scales: expected different positive numbers such as 0.75 1 1.25, got {self.scales}")
        if self.window < 1:
            raise ConfigError(f"window is {self.window}; expected at least 1 pixel")

    def __str__(self) -> str:
        size = f"windows of {self.window} x {self.window} where an image is larger"
        if self._single:
            return size
        scales = ", ".join(f"{scale:g}" for scale in self.scales)
        return f"scores averaged over scales {scales}{' and their mirror images' if self.flip else ''}; {size}"

    def predict_many(
        self, pipeline: Predictor, images: Iterable[UInt8[np.ndarray, "h w 3"]], *, batch_size: int = 1
    ) -> Iterator[UInt8[np.ndarray, "h w"]]:
        """Segment images, in order: the best class of the averaged scores, at the image's own size.

        Of several views, those of one size share a batch: the image and its mirror image. The scores of a batch's views
        are held at a time, beside their sum.
        """
        if self._single:
            for prediction in pipeline.predict_many(images, batch_size=batch_size, short_side=None, window=self.window):
                yield prediction.labels
        else:
            for image in read_ahead(_itself, images, count=1):
                yield self._average(pipeline, image, batch_size)

    def _average(self, pipeline: Predictor, image: np.ndarray, batch_size: int) -> np.ndarray:
        total = np.zeros((len(pipeline.labels), *image.shape[:2]), np.float32)
        shown = [image, image[:, ::-1]] if self.flip else [image]
        for scale in self.scales:
            side = max(1, round(scale * min(image.shape[:2])))
            views = pipeline.predict_many(shown, batch_size=batch_size, short_side=side, window=self.window)
            for prediction, step in zip(views, (1, -1), strict=False):  # the mirror image's answer is mirrored
                total += prediction.scores()[..., ::step]
        return total.argmax(axis=0).astype(np.uint8)

    @property
    def _single(self) -> bool:
        return self.scales == (1.0,) and not self.flip


def _itself(image: np.ndarray) -> np.ndarray:
    return image
