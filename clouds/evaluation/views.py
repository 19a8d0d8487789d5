"""Test-time augmentation: an image is segmented in several views, whose scores are averaged."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np
from attrs import field, frozen
from jaxtyping import UInt8

from clouds.core.errors import ConfigError
from clouds.core.labels import LabelSpace


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

    def predict(self, image: np.ndarray, *, short_side: int | None = None, window: int = 2048) -> LabelsAndScores: ...


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

    def predict(self, pipeline: Predictor, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
        """Segment an image: the best class of the averaged scores, at the image's own size.

        The scores of one view are held at a time, beside their sum.
        """
        if self._single:
            return pipeline.predict(image, short_side=None, window=self.window).labels
        total = np.zeros((len(pipeline.labels), *image.shape[:2]), np.float32)
        for scale in self.scales:
            side = max(1, round(scale * min(image.shape[:2])))
            total += pipeline.predict(image, short_side=side, window=self.window).scores()
            if self.flip:
                total += pipeline.predict(image[:, ::-1], short_side=side, window=self.window).scores()[..., ::-1]
        return total.argmax(axis=0).astype(np.uint8)

    @property
    def _single(self) -> bool:
        return self.scales == (1.0,) and not self.flip
