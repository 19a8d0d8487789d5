"""Pictures on their way into a pipeline, and the predictions that come out."""

# pyright: reportUnknownMemberType=false
# (torch is typed in parts only)

from __future__ import annotations

import math
import os
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
from clouds.core.system.errors import DataError, NonFiniteError
from clouds.core.system.images import MAX_PIXELS, read_image, short_side_size, to_rgb

_OVERLAP = 256  # pixels; half of it is the least context that a pixel of a window's core has
ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor


@frozen(eq=False, kw_only=True)
class InputImage:
    """An image as it was read, and as the network is to see it.

    Attributes:
        pixels: RGB, at the image's own size.
        resized: the same after resizing; the same array when nothing is resized.
        path: the file that it was read from, or None.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    resized: UInt8[np.ndarray, "hr wr 3"]
    path: Path | None = None

    @classmethod
    def read(
        cls, image: ImageLike, *, short_side: int | None = None, name: str = "image", max_pixels: int = MAX_PIXELS
    ) -> InputImage:
        """Read and resize an image in any form. Raises `DataError` with the path of a file, or `name`."""
        pixels = to_pixels(image, name=name, max_pixels=max_pixels)
        path = Path(image) if isinstance(image, (str, os.PathLike)) else None
        resized = _resize_short_side(pixels, short_side, str(path or name), max_pixels)
        return cls(pixels=pixels, resized=resized, path=path)

    def exceeds(self, window: int) -> bool:
        """Whether it has more pixels than a window of this side, so that it is segmented in windows."""
        return math.prod(self.valid_size) > window**2

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image, and of its answer."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def valid_size(self) -> tuple[int, int]:
        """(height, width) that the network sees, before padding."""
        return self.resized.shape[0], self.resized.shape[1]


def require_finite(output: HeadOutput, pictures: Sequence[InputImage]) -> None:
    """Refuse a network's output that is no number: every pixel of it would be of class 0.

    Raises:
        NonFiniteError: names the image.
    """
    # "b 3": the least and the largest mask logit of each image, which a NaN becomes, and its classes' probabilities.
    extremes = [*output.mask_logits.flatten(1).aminmax(dim=1), output.class_logits.softmax(-1).flatten(1).sum(1)]
    finite = torch.stack([one.float() for one in extremes], 1).isfinite().all(1)
    for picture, good in zip(pictures, cast("list[bool]", finite.tolist()), strict=True):  # one wait for the device
        if not good:
            raise NonFiniteError(
                f"{picture.path or 'image'}: the network's output is not finite (NaN or infinite); its weights are "
                "damaged, or the precision is too low for it: go back to earlier weights, or leave dtype out"
            )


@frozen(eq=False, kw_only=True)
class Prediction:
    """The segmentation of one image, at the image's own size.

    Attributes:
        labels: uint8 "h w", train ids.
        image: uint8 "h w 3", RGB: what was segmented.
        label_space: what the train ids mean.
        compute_scores: makes the answer of `scores`.
        find_masks: gives the masks that `instances` and `panoptic` are made from.
        path: the file that the image was read from; None when it came otherwise.
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
        """The best `top` instances, of the classes that are things in the label space (of all when none is).

        Raises:
            ConfigError: `top` is less than 1.
            DataError: the image was segmented in windows.
        """
        return find_instances(self.find_masks(), self.label_space, top=top)

    def panoptic(self, *, object_mask_threshold: float = 0.8, overlap_threshold: float = 0.8) -> Panoptic:
        """Segments without overlap: single things, and whatever there is of each other class.

        Args:
            object_mask_threshold: masks whose class is not more probable than this are left out.
            overlap_threshold: so are masks of which less than this share is left by the others.

        Raises:
            ConfigError: a threshold is not in 0..1.
            DataError: the image was segmented in windows.
        """
        return find_panoptic(
            self.find_masks(),
            self.label_space,
            object_mask_threshold=object_mask_threshold,
            overlap_threshold=overlap_threshold,
        )

    def overlay(self, *, opacity: float = 0.5) -> Image.Image:
        """The image with the palette's colours over it; `opacity` in 0..1."""
        return Image.fromarray(overlaid(self.image, self.labels, self.label_space, opacity=opacity))


def overlaid(
    image: UInt8[np.ndarray, "h w 3"], label_map: UInt8[np.ndarray, "h w"], label_space: LabelSpace, *, opacity: float
) -> UInt8[np.ndarray, "h w 3"]:
    """The image with the palette's colours over it, `opacity` in 0..1; 255 is black."""
    colors = label_space.color_table().astype(np.float32)
    blend = image * (1 - opacity) + colors[label_map] * opacity
    return np.clip(blend.round(), 0, 255).astype(np.uint8)


def to_pixels(image: ImageLike, *, name: str = "image", max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "h w 3"]:
    """Bring every accepted form of an image to a uint8 array "h w 3", RGB; each form gives the same pixels.

    Raises:
        DataError: another form, with the path of a file, or `name`. For files and PIL images, see
            `clouds.core.system.images`.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_image(image, max_pixels=max_pixels)
    if isinstance(image, Image.Image):
        return to_rgb(image, name=name, max_pixels=max_pixels)
    if not isinstance(image, (np.ndarray, Tensor)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DataError(f"{name}: expected a path, a PIL image, an array or a tensor; got {type(image).__name__}")
    channel_axis, wanted = (0, "tensor of shape 3 x h x w") if isinstance(image, Tensor) else (2, "array h x w x 3")
    usable = image.ndim == 3 and image.shape[channel_axis] == 3 and math.prod(image.shape) > 0
    if not usable or image.dtype not in (np.dtype("uint8"), torch.uint8):
        dtype = str(image.dtype).removeprefix("torch.")
        raise DataError(f"{name}: expected a non-empty uint8 {wanted}, got {dtype} of shape {tuple(image.shape)}")
    if isinstance(image, Tensor) and (image.is_meta or image.layout != torch.strided):
        raise DataError(f"{name}: expected a dense tensor with values; got {image.layout} on device {image.device}")
    pixels = image.detach().cpu().numpy() if isinstance(image, Tensor) else image
    return np.moveaxis(pixels, channel_axis, -1)


def segment_windows(
    picture: InputImage, segment: Callable[[InputImage], Prediction], side: int, label_space: LabelSpace
) -> Prediction:
    """Segment overlapping windows one after the other; scores are made again when asked for, to bound the memory.

    Args:
        picture: larger than one window.
        segment: predicts what one window shows.
        side: of a window, in pixels.
        label_space: of the prediction.
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
    else:  # labels come after resizing, as everywhere
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
