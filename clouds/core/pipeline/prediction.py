"""Input images and predictions of a pipeline."""

# pyright: reportUnknownMemberType=false
# (torch has incomplete types)

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from attrs import field, frozen
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from clouds.core.contract.labels import LabelSpace
from clouds.core.contract.records import HeadOutput
from clouds.core.pipeline.segments import ImageMasks, Instances, Panoptic, find_instances, find_panoptic
from clouds.core.pipeline.windows import Window, resampled, sliding_windows
from clouds.core.system.errors import ClassMasksWarning, DataError, NonFiniteError
from clouds.core.system.images import MAX_PIXELS, read_image, short_side_size, to_rgb

_OVERLAP = 256  # pixels; each pixel of a window's core has at least half of it as context
ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor


@frozen(eq=False, kw_only=True)
class InputImage:
    """An image as read, and resized for the network.

    Attributes:
        pixels: RGB, at the image's own size.
        resized: network input; the same array as `pixels` if nothing is resized.
        path: the image file, or None.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    resized: UInt8[np.ndarray, "hr wr 3"]
    path: Path | None = None

    @classmethod
    def read(
        cls, image: ImageLike, *, short_side: int | None = None, name: str = "image", max_pixels: int = MAX_PIXELS
    ) -> InputImage:
        """Read and resize an image in any form. Raises `DataError` with the file's path or `name`."""
        pixels = to_pixels(image, name=name, max_pixels=max_pixels)
        path = Path(image) if isinstance(image, (str, os.PathLike)) else None
        resized = _resize_short_side(pixels, short_side, str(path or name), max_pixels)
        return cls(pixels=pixels, resized=resized, path=path)

    def exceeds(self, window: int) -> bool:
        """Whether the image has more pixels than a square window of this side, and so needs windows."""
        return math.prod(self.valid_size) > window**2

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image and of its prediction."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def valid_size(self) -> tuple[int, int]:
        """(height, width) of the network input before padding."""
        return self.resized.shape[0], self.resized.shape[1]


def require_finite(output: HeadOutput, pictures: Sequence[InputImage]) -> None:
    """Refuse NaN or infinite network output, which would give class 0 at every pixel.

    Raises:
        NonFiniteError: names the image.
    """
    # Per image "b 3": smallest and largest mask logit, and the sum of class probabilities; NaN propagates to them.
    extremes = [*output.mask_logits.flatten(1).aminmax(dim=1), output.class_logits.softmax(-1).flatten(1).sum(1)]
    finite = torch.stack([one.float() for one in extremes], 1).isfinite().all(1)
    for picture, good in zip(pictures, cast("list[bool]", finite.tolist()), strict=True):  # synchronises once
        if not good:
            raise NonFiniteError(
                f"{picture.path or 'image'}: the network's output is not finite (NaN or infinite); its weights are "
                "damaged, or the precision is too low for it: go back to earlier weights, or leave dtype out"
            )


@frozen(eq=False, kw_only=True)
class Prediction:
    """The segmentation of one image at its own size.

    Attributes:
        labels: uint8 "h w", train ids.
        image: uint8 "h w 3", RGB: the segmented image.
        label_space: classes of the train ids.
        compute_scores: computes the result of `scores`.
        find_masks: returns the masks for `instances` and `panoptic`.
        path: the image file, or None.
    """

    labels: UInt8[np.ndarray, "h w"]
    image: UInt8[np.ndarray, "h w 3"]
    label_space: LabelSpace
    compute_scores: Callable[[], np.ndarray] = field(repr=False)
    find_masks: Callable[[], ImageMasks] = field(repr=False)
    path: Path | None = None

    def scores(self) -> Float[np.ndarray, "k h w"]:
        """Class scores, float32 "k h w": sum over queries of P(class | query) x P(mask). Computed on every call."""
        return self.compute_scores()

    def instances(self, *, top: int = 100) -> Instances:
        """The best `top` instances of the label space's thing classes (of all classes if it has none).

        Raises:
            ConfigError: `top` is less than 1.
            DataError: the image was segmented in windows.

        Warns:
            ClassMasksWarning: the head has one mask per class, so all instances of a class are one.
        """
        return find_instances(self._masks("instances"), self.label_space, top=top)

    def panoptic(self, *, object_mask_threshold: float = 0.8, overlap_threshold: float = 0.8) -> Panoptic:
        """Segments without overlap: one per thing instance, and one per stuff class.

        Args:
            object_mask_threshold: masks need a class probability above this.
            overlap_threshold: masks need at least this share of their pixels not covered by other masks.

        Raises:
            ConfigError: a threshold is not in 0..1.
            DataError: the image was segmented in windows.

        Warns:
            ClassMasksWarning: the head has one mask per class, so there is one segment per class, and no thing.
        """
        return find_panoptic(
            self._masks("panoptic"),
            self.label_space,
            object_mask_threshold=object_mask_threshold,
            overlap_threshold=overlap_threshold,
        )

    def overlay(self, *, opacity: float = 0.5) -> Image.Image:
        """Blend the image with the palette's colours; `opacity` in 0..1."""
        return Image.fromarray(overlaid(self.image, self.labels, self.label_space, opacity=opacity))

    def _masks(self, asked: str) -> ImageMasks:
        masks = self.find_masks()
        if not masks.instances:
            warnings.warn(
                f"{asked}: the head predicts one mask per class, so each class is one segment; to separate instances, "
                "train a head that can, such as mask2former, with data.instances=true",
                ClassMasksWarning,
                stacklevel=3,
            )
        return masks


def overlaid(
    image: UInt8[np.ndarray, "h w 3"], label_map: UInt8[np.ndarray, "h w"], label_space: LabelSpace, *, opacity: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Blend the image with the palette's colours, `opacity` in 0..1; 255 is black."""
    colors = label_space.color_table().astype(np.float32)
    blend = image * (1 - opacity) + colors[label_map] * opacity
    return np.clip(blend.round(), 0, 255).astype(np.uint8)


def to_pixels(image: ImageLike, *, name: str = "image", max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "h w 3"]:
    """Convert every accepted form of an image to a uint8 array "h w 3", RGB; all forms give the same pixels.

    Raises:
        DataError: the image has another form, or cannot be read (see `clouds.core.system.images`). The message has the
            file's path or `name`.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_image(image, max_pixels=max_pixels)
    if isinstance(image, Image.Image):
        return to_rgb(image, name=name, max_pixels=max_pixels)
    if not isinstance(image, (np.ndarray, Tensor)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DataError(f"{name}: expected a path, a PIL image, an array or a tensor; got {type(image).__name__}")
    channel_axis = require_pixels(image, name=name)
    if isinstance(image, Tensor) and (image.is_meta or image.layout != torch.strided):
        raise DataError(f"{name}: expected a dense tensor with values; got {image.layout} on device {image.device}")
    pixels = image.detach().cpu().numpy() if isinstance(image, Tensor) else image
    return np.moveaxis(pixels, channel_axis, -1)


def require_pixels(image: np.ndarray | Tensor, *, name: str) -> int:
    """Check that an array or a tensor holds an image; return the axis of its channels.

    Raises:
        DataError: it is no uint8 array "h w 3" or tensor "3 h w", or it is empty.
    """
    channel_axis, wanted = (0, "tensor of shape 3 x h x w") if isinstance(image, Tensor) else (2, "array h x w x 3")
    usable = image.ndim == 3 and image.shape[channel_axis] == 3 and math.prod(image.shape) > 0
    if not usable or image.dtype not in (np.dtype("uint8"), torch.uint8):
        dtype = str(image.dtype).removeprefix("torch.")
        raise DataError(f"{name}: expected a non-empty uint8 {wanted}, got {dtype} of shape {tuple(image.shape)}")
    return channel_axis


def segment_windows(
    picture: InputImage, segment: Callable[[InputImage], Prediction], side: int, label_space: LabelSpace
) -> Prediction:
    """Segment overlapping windows one by one; `scores` recomputes them, which limits the memory.

    Args:
        picture: an image larger than one window.
        segment: predicts one window.
        side: side of a window in pixels.
        label_space: label space of the prediction.
    """
    pixels, whole, size = picture.resized, picture.valid_size, picture.size
    windows = list(sliding_windows(*whole, side=side, overlap=min(_OVERLAP, side // 4)))

    def segment_window(window: Window) -> Prediction:
        return segment(InputImage.read(pixels[window.seen]))

    def bands() -> Iterator[tuple[tuple[slice, slice], Tensor]]:
        for window in windows:
            scores = torch.from_numpy(segment_window(window).scores())
            yield from resampled(window, scores, whole=whole, size=size)

    def scores() -> np.ndarray:
        full = np.empty((len(label_space), *size), np.float32)
        for place, found in bands():
            full[:, *place] = found.numpy()
        return full

    labels = np.empty(size, np.uint8)
    if whole == size:
        for window in windows:
            labels[window.core] = segment_window(window).labels[window.core_in_seen]
    else:  # scores are resized first, as for single images
        for place, found in bands():
            labels[place] = found.argmax(0).numpy()
    return Prediction(
        labels=labels,
        image=picture.pixels,
        label_space=label_space,
        compute_scores=scores,
        find_masks=partial(_no_masks, whole, side),
        path=picture.path,
    )


def _no_masks(size: tuple[int, int], window: int) -> ImageMasks:
    least = math.ceil(math.sqrt(size[0] * size[1]))
    raise DataError(
        f"an image of {size[0]} x {size[1]} pixels was segmented in windows of {window} pixels, whose masks end at "
        f"their edges; for instances and panoptic segments pass window={least} or more to predict"
    )


def _resize_short_side(pixels: np.ndarray, short_side: int | None, name: str, max_pixels: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    if short_side is None or min(height, width) == short_side:
        return pixels
    rows, columns = short_side_size(height, width, short_side, name=name, max_pixels=max_pixels)
    return np.asarray(Image.fromarray(pixels).resize((columns, rows), Image.Resampling.BILINEAR))
