"""Prediction of many images: where they come from, reading ahead in threads, batches of one size, broken files."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from attrs import frozen
from PIL import Image
from torch import Tensor

from clouds.core.pipeline.prediction import ImageLike, InputImage, Prediction
from clouds.core.system.batches import answer_in_batches, read_ahead
from clouds.core.system.errors import DataError
from clouds.core.system.images import find_pictures

Images = str | os.PathLike[str] | Iterable[ImageLike]
OnError = Callable[[ImageLike, DataError], object]


def find_images(images: Images) -> Iterable[ImageLike]:
    """Image files of a folder, glob pattern or dataset SPEC, or the images themselves.

    Raises:
        ConfigError: the SPEC is invalid.
        DataError: the place holds no image, or a single image was given.
    """
    if isinstance(images, (str, os.PathLike)):
        return find_files(images)
    if isinstance(images, Image.Image) or (isinstance(images, (np.ndarray, Tensor)) and images.ndim == 3):
        raise DataError("images: expected several images, got one; pass [image], or call predict(image)")
    many = cast("Iterable[ImageLike]", images)
    if not hasattr(many, "__iter__"):  # a torch Dataset would be indexed without end
        raise DataError(
            f"images: expected a folder, a glob pattern, a SPEC or images, got a {type(many).__name__}; for a torch "
            "Dataset, pass an iterator of its images"
        )
    return many


def find_files(place: str | os.PathLike[str]) -> list[Path]:
    """Image files of a folder, glob pattern, dataset SPEC or file, sorted. Raises as `find_images`."""
    from clouds.data.folder import dataset_images
    from clouds.data.spec import is_spec

    if is_spec(str(place)) and not Path(place).exists():
        return dataset_images(str(place))
    return find_pictures(place)


def predict_stream(
    images: Images,
    predict: Callable[[Sequence[InputImage]], Sequence[Prediction]],
    *,
    group_of: Callable[[InputImage], Hashable],
    batch_size: int,
    workers: int,
    short_side: int | None,
    max_pixels: int,
    on_error: OnError | None,
) -> Iterator[Prediction]:
    """Predictions of images in order; see `Pipeline.predict_many`.

    Args:
        images, batch_size, workers, short_side, max_pixels, on_error: as there.
        predict: predicts a batch.
        group_of: images of one group may share a batch; None is predicted alone.

    Raises:
        DataError: a number is less than 1, or as `find_images`.
    """
    if batch_size < 1:
        raise DataError(f"batch_size is {batch_size}; expected at least 1 image")
    pictures = read_images(
        images,
        ahead=max(batch_size, workers),
        workers=workers,
        short_side=short_side,
        max_pixels=max_pixels,
        on_error=on_error,
    )
    return answer_in_batches(pictures, predict, group_of=group_of, size=batch_size)


def read_images(
    images: Images,
    *,
    ahead: int,
    workers: int,
    short_side: int | None,
    max_pixels: int,
    on_error: OnError | None,
) -> Iterator[InputImage]:
    """The images in order, `ahead` of them read in advance; other arguments and errors are those of `predict_stream`.

    Raises:
        DataError: an image cannot be read, and there is no `on_error`.
    """
    if workers < 1:
        raise DataError(f"workers is {workers}; expected at least 1 thread")
    read = partial(_read, short_side=short_side, max_pixels=max_pixels, keep_error=on_error is not None)
    found = read_ahead(read, enumerate(find_images(images)), count=ahead, threads=workers)
    return _readable(found, on_error)


@frozen(eq=False)
class _Broken:
    """An image that cannot be read, and why."""

    image: ImageLike
    error: DataError


def _read(
    numbered: tuple[int, ImageLike], *, short_side: int | None, max_pixels: int, keep_error: bool
) -> InputImage | _Broken:
    position, image = numbered
    try:
        return InputImage.read(image, short_side=short_side, name=f"image {position}", max_pixels=max_pixels)
    except DataError as error:
        if not keep_error:
            raise
        return _Broken(image, error)


def _readable(found: Iterable[InputImage | _Broken], on_error: OnError | None) -> Iterator[InputImage]:
    """The images; broken ones are reported to `on_error`."""
    for one in found:
        if isinstance(one, InputImage):
            yield one
        elif on_error is not None:
            on_error(one.image, one.error)
