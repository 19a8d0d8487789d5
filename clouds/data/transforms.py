"""Training views of images and label maps as uint8 arrays. All randomness comes from the `rng` argument.

Geometry and colour changes are first drawn as records and then applied, so that a draw can be repeated and tested.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from attrs import evolve, field, frozen
from jaxtyping import Integer, UInt8
from PIL import Image

from clouds.core.contract.labels import IGNORE_ID
from clouds.core.contract.sampling import Change, Wanted
from clouds.core.system.errors import ConfigError

_BRIGHTNESS = 32.0  # added, of 255
_CONTRAST = _SATURATION = (0.5, 1.5)  # factors
_REDRAWS = 10  # of a crop that does not fit
_HUE = 36.0  # degrees; the published 18 counts steps of two degrees


def _to_size(value: Sequence[int]) -> tuple[int, int]:
    height, width = value
    return int(height), int(width)


def _to_range(value: Sequence[float]) -> tuple[float, float]:
    low, high = value
    return float(low), float(high)


@frozen(kw_only=True)
class Augmentation:
    """Settings of the training views.

    Attributes:
        crop: (height, width) of every view, in pixels.
        scale: range of the uniformly drawn resize factor.
        flip: flip half of the views horizontally.
        distortion: distort colours, as published.
        changes: further changes of the colours, in this order.
        crop_offsets: "independent" draws the row and column offset of a crop separately; "diagonal", as published,
            draws one number for both, so that crops lie on the image's diagonal.
        label_resize: torch's name of the interpolation. "nearest-exact" samples label maps at pixel centres, like
            images; "nearest", as published, up to half a pixel beside them.
        cat_max_ratio: largest share of the labelled pixels that one class may have in a crop; otherwise the crop is
            drawn again, up to 10 times (as mmsegmentation's `RandomCrop`). 1 accepts every crop.
        distort_padding: also distort the colours of the padding, as published; otherwise it is black.
    """

    crop: tuple[int, int] = field(converter=_to_size)
    scale: tuple[float, float] = field(default=(0.5, 2.0), converter=_to_range)
    flip: bool = True
    distortion: bool = True
    changes: tuple[Change, ...] = ()
    crop_offsets: Literal["independent", "diagonal"] = "independent"
    label_resize: Literal["nearest-exact", "nearest"] = "nearest-exact"
    cat_max_ratio: float = 1.0
    distort_padding: bool = False

    def __attrs_post_init__(self) -> None:
        low, high = self.scale
        if not 0 < self.cat_max_ratio <= 1:
            raise ConfigError(f"augmentation: cat_max_ratio={self.cat_max_ratio} must be above 0 and at most 1")
        if min(self.crop) < 1:
            raise ConfigError(f"augmentation: crop={self.crop} must be at least 1x1 (height, width)")
        if not 0 < low <= high < math.inf:
            raise ConfigError(f"augmentation: scale={self.scale} must be a range (low, high) with 0 < low <= high")


@frozen(kw_only=True)
class Geometry:
    """A drawn crop.

    Attributes:
        size: (height, width) that the whole image is resized to.
        offset: (top, left) of the crop in the resized image.
        flip: flip horizontally, as the last step.
    """

    size: tuple[int, int]
    offset: tuple[int, int]
    flip: bool


@frozen(kw_only=True)
class Distortion:
    """Drawn colour changes; the defaults change nothing.

    Attributes:
        brightness: offset of every channel, for a range of 0..255.
        contrast: factor on every channel.
        saturation: factor on the saturation (HSV).
        hue: offset of the hue (HSV), in degrees.
        contrast_first: apply contrast before saturation and hue, instead of after them.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    contrast_first: bool = True


def augment(
    image: UInt8[np.ndarray, "h w 3"],
    label: Integer[np.ndarray, "h w"],
    rng: np.random.Generator,
    settings: Augmentation,
    wanted: Wanted | None = None,
) -> tuple[UInt8[np.ndarray, "hc wc 3"], Integer[np.ndarray, "hc wc"]]:
    """Make a training view of size `settings.crop`: resize, crop, distort, pad, flip.

    `label` is a label map (uint8), or a segment map (int32, see `clouds.data.segment_files`).

    Smaller images are padded at the bottom and the right, with 0 in the image and 255 in the label map. If the view
    does not show the `wanted` class, its geometry is drawn again, up to 10 times (as DAFormer).
    """
    geometry = _draw_balanced(label, rng, settings)
    if wanted is not None:
        for _ in range(_REDRAWS):
            if (_train_ids(resize_crop_label(label, geometry, settings)) == wanted.train_id).sum() > wanted.pixels:
                break
            geometry = _draw_balanced(label, rng, settings)
    part = _resize(image, geometry, settings.crop, Image.Resampling.BILINEAR)
    view = _change_colors(part, rng, settings)
    target = pad(resize_crop_label(label, geometry, settings), settings.crop, IGNORE_ID)
    return _flip(view, geometry.flip), np.ascontiguousarray(_flip(target, geometry.flip))


def generated_views(
    image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator, settings: Augmentation
) -> tuple[UInt8[np.ndarray, "hc wc 3"], UInt8[np.ndarray, "hc wc 3"]]:
    """The clean view of a generated image for the teacher, and the same view with distorted colours for the student.

    As published, the image keeps its scale and is only flipped. An image larger than `settings.crop` is cropped; a
    smaller one is padded with 0 at the bottom and the right (`rows < h` and `columns < w` are the image).
    """
    size, crop = (image.shape[0], image.shape[1]), settings.crop
    flip = settings.flip and rng.random() < 0.5
    top, left = _draw_offset(size, rng, settings)
    clean = _flip(image, flip)[top : top + crop[0], left : left + crop[1]]
    return pad(clean, crop, 0), _change_colors(Image.fromarray(clean), rng, settings)


def draw_geometry(shape: tuple[int, ...], rng: np.random.Generator, settings: Augmentation) -> Geometry:
    """Draw scale, crop offsets and flip for an image of shape (h, w, ...)."""
    scale = rng.uniform(*settings.scale)
    size = max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))
    offset = _draw_offset(size, rng, settings)
    return Geometry(size=size, offset=offset, flip=settings.flip and rng.random() < 0.5)


def _draw_balanced(label: Integer[np.ndarray, "h w"], rng: np.random.Generator, settings: Augmentation) -> Geometry:
    """Draw a geometry; draw its offset again while one class has too large a share of the crop."""
    geometry = draw_geometry(label.shape, rng, settings)
    for _ in range(_REDRAWS if settings.cat_max_ratio < 1 else 0):
        if _is_balanced(_train_ids(resize_crop_label(label, geometry, settings)), settings.cat_max_ratio):
            break
        geometry = evolve(geometry, offset=_draw_offset(geometry.size, rng, settings))
    return geometry


def _is_balanced(label: UInt8[np.ndarray, "h w"], ratio: float) -> bool:
    """Whether a crop has several classes, each with less than this share of the labelled pixels."""
    counts = np.bincount(label.ravel(), minlength=IGNORE_ID + 1)[:IGNORE_ID]
    return bool(np.count_nonzero(counts) > 1 and counts.max() < ratio * counts.sum())


def _train_ids(label: Integer[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """The classes of a label map, or of a segment map: its low bytes."""
    return label.astype(np.uint8, copy=False)


def resize_crop(
    pixels: Integer[np.ndarray, "h w *c"], geometry: Geometry, crop: tuple[int, int], *, resample: Image.Resampling
) -> Integer[np.ndarray, "hc wc *c"]:
    """Resize to `geometry.size` and crop at `geometry.offset`; the caller pads and flips.

    Only the pixels of the crop are computed, with the same values as in the whole resized image. If the resized image
    is smaller than the crop, so is the result.
    """
    return np.asarray(_resize(pixels, geometry, crop, resample))


def resize_crop_label(
    label: Integer[np.ndarray, "h w"], geometry: Geometry, settings: Augmentation
) -> Integer[np.ndarray, "hc wc"]:
    """Like `resize_crop` for a label map or segment map, with the interpolation `settings.label_resize`."""
    if settings.label_resize == "nearest-exact":
        return resize_crop(label, geometry, settings.crop, resample=Image.Resampling.NEAREST)
    rows, columns = (
        _legacy_nearest(np.arange(start, start + count, dtype=np.float32), old, new)
        for start, count, old, new in zip(
            geometry.offset, _kept(geometry, settings.crop), label.shape, geometry.size, strict=True
        )
    )
    return label[rows][:, columns]


def pad(pixels: Integer[np.ndarray, "h w *c"], size: tuple[int, int], fill: int) -> Integer[np.ndarray, "hp wp *c"]:
    """A copy with `fill` added at the bottom and the right, up to `size`."""
    padded = np.full((*size, *pixels.shape[2:]), fill, pixels.dtype)
    padded[: pixels.shape[0], : pixels.shape[1]] = pixels
    return padded


def draw_distortion(rng: np.random.Generator) -> Distortion:
    """Draw colour changes in the published ranges, each with probability 1/2, in one of two orders.

    Source: Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, as used by Mask2Former and CLOUDS.
    """
    return Distortion(
        brightness=_maybe(rng, -_BRIGHTNESS, _BRIGHTNESS, 0.0),
        contrast=_maybe(rng, *_CONTRAST, 1.0),
        saturation=_maybe(rng, *_SATURATION, 1.0),
        hue=_maybe(rng, -_HUE, _HUE, 0.0),
        contrast_first=rng.random() < 0.5,
    )


def distort(image: UInt8[np.ndarray, "h w 3"], distortion: Distortion) -> UInt8[np.ndarray, "h w 3"]:
    """Apply colour changes: brightness, then contrast and HSV in the drawn order. Values are clipped to 0..255."""
    return np.asarray(_distort(Image.fromarray(image), distortion))


# Between steps a view stays a Pillow image, because converting it to an array and back costs as much as resizing it.


def _resize(pixels: np.ndarray, geometry: Geometry, crop: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    (top, left), (rows, columns) = geometry.offset, _kept(geometry, crop)
    y, x = pixels.shape[0] / geometry.size[0], pixels.shape[1] / geometry.size[1]
    right, bottom = min((left + columns) * x, pixels.shape[1]), min((top + rows) * y, pixels.shape[0])
    return Image.fromarray(pixels).resize((columns, rows), resample, box=(left * x, top * y, right, bottom))


def _distort(picture: Image.Image, distortion: Distortion) -> Image.Image:
    levels = np.arange(256)
    contrast = _to_level(levels * distortion.contrast)
    first = _to_level(levels + distortion.brightness)
    picture = picture.point(_lookup(contrast[first] if distortion.contrast_first else first))
    if distortion.saturation != 1 or distortion.hue != 0:
        hue = (levels + round(distortion.hue / 360 * 256)) % 256
        saturation = _to_level(levels * distortion.saturation)
        picture = picture.convert("HSV").point(_lookup(hue, saturation, levels)).convert("RGB")
    if not distortion.contrast_first:
        picture = picture.point(_lookup(contrast))
    return picture


def _change_colors(part: Image.Image, rng: np.random.Generator, settings: Augmentation) -> UInt8[np.ndarray, "hc wc 3"]:
    """Apply the colour changes of the settings, and pad to the crop size."""
    if settings.distort_padding:
        part = part.crop((0, 0, settings.crop[1], settings.crop[0]))  # black outside
    if settings.distortion:
        part = _distort(part, draw_distortion(rng))
    image = np.asarray(part)
    for change in settings.changes:
        image = _changed(image, change, rng)
    return pad(image, settings.crop, 0)


def _changed(image: UInt8[np.ndarray, "h w 3"], change: Change, rng: np.random.Generator) -> np.ndarray:
    changed = change(image, rng)
    if changed.shape != image.shape or changed.dtype != np.uint8:
        raise ConfigError(
            f"augmentation {getattr(change, '__name__', change)!r} made {changed.dtype} {changed.shape} of uint8 "
            f"{image.shape}; expected the same"
        )
    return changed


def _kept(geometry: Geometry, crop: tuple[int, int]) -> tuple[int, int]:
    """Number of rows and columns of the resized image inside the crop."""
    rows, columns = (
        min(part, full - start) for part, full, start in zip(crop, geometry.size, geometry.offset, strict=True)
    )
    return rows, columns


def _legacy_nearest(index: np.ndarray, old: int, new: int) -> np.ndarray:
    """Source index of each pixel of a side resized from `old` to `new`, computed in float32 like torch's "nearest"."""
    return np.minimum((index * np.float32(old / new)).astype(np.int64), old - 1)


def _maybe(rng: np.random.Generator, low: float, high: float, default: float) -> float:
    return rng.uniform(low, high) if rng.random() < 0.5 else default


def _draw_offset(size: tuple[int, int], rng: np.random.Generator, settings: Augmentation) -> tuple[int, int]:
    rooms = [max(0, full - part) for full, part in zip(size, settings.crop, strict=True)]
    if settings.crop_offsets == "diagonal":
        share = rng.random()
        top, left = (round(room * share) for room in rooms)
    else:
        top, left = (int(rng.integers(room + 1)) for room in rooms)
    return top, left


def _flip(pixels: np.ndarray, flip: bool) -> np.ndarray:
    return pixels[:, ::-1] if flip else pixels


def _to_level(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)


def _lookup(*tables: np.ndarray) -> list[int]:
    """Pillow lookup of three channels, from one table per channel or one for all."""
    return np.concatenate(tables * (3 // len(tables))).tolist()
