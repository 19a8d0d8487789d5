"""Images to the content of result files, in this process or on workers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from attrs import field, frozen

from clouds.core.pipeline.composer import load
from clouds.core.pipeline.many import OnError, read_images
from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.pipeline.prediction import ImageLike, InputImage, Prediction
from clouds.core.pipeline.segments import ImageMasks
from clouds.core.system.errors import ConfigError, DataError
from clouds.core.system.images import MAX_PIXELS
from clouds.evaluation.views import Views
from clouds.inference.formats import check_formats, find_formats
from clouds.synthesis.workers import Workers

Named = tuple[str, ImageLike]  # name of the result files, and an image


def _to_tuple(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


@frozen(kw_only=True)
class PredictOptions:
    """What is predicted, and how.

    Attributes:
        formats: names of `clouds.inference.formats.FORMATS`.
        views: scales, mirror images and windows; scores of several views are averaged.
        short_side: see `Pipeline.predict`.
        max_pixels: see `Pipeline.predict`.
        batch_size: images per forward pass.
        readers: threads that read and decode images.

    Raises:
        ConfigError: a format is unknown, two formats write one file, or a format needs masks, which several views do
            not have.
    """

    formats: tuple[str, ...] = field(default=("train-ids", "overlay"), converter=_to_tuple)
    views: Views = field(factory=Views)
    short_side: int | None = None
    max_pixels: int = MAX_PIXELS
    batch_size: int = 1
    readers: int = 1

    def __attrs_post_init__(self) -> None:
        masks = [name for name, one in zip(self.formats, find_formats(self.formats), strict=True) if one.needs_masks]
        if masks and not self.views.single:
            raise ConfigError(
                f"format {masks[0]} needs masks, and several scales or mirror images average class scores: omit scales "
                "and flip, or choose another format"
            )


@frozen
class Encoded:
    """The result of one image: content of its files by ending of their names, or the error."""

    name: str
    files: dict[str, bytes] = field(factory=dict)
    error: str = ""


@frozen
class Encoder:
    """A pipeline that turns images into the content of files.

    Raises:
        ConfigError: a format cannot hold the pipeline's classes.
    """

    pipeline: Pipeline
    options: PredictOptions

    def __attrs_post_init__(self) -> None:
        check_formats(self.options.formats, self.pipeline.labels)

    def encode(self, images: Iterable[Named]) -> Iterator[Encoded]:
        """One result per image: predictions in the order of the images, errors as soon as they are known."""
        waiting: OrderedDict[int, Named] = OrderedDict()  # by id of the image; another thread adds
        broken: list[Encoded] = []

        def take() -> Iterator[ImageLike]:
            for name, image in images:
                waiting[id(image)] = (name, image)
                yield image

        def report(image: ImageLike, error: DataError) -> None:
            broken.append(Encoded(waiting.pop(id(image))[0], error=str(error)))

        for prediction in self.predict(take(), report):
            yield from _drain(broken)
            _, (name, _) = waiting.popitem(last=False)
            yield self._encode(name, prediction)
        yield from _drain(broken)

    def predict(self, images: Iterable[ImageLike], on_error: OnError | None = None) -> Iterator[Prediction]:
        """Predictions in order; `on_error` and errors are those of `Pipeline.predict_many`."""
        options = self.options
        if options.views.single:
            return self.pipeline.predict_many(
                images,
                batch_size=options.batch_size,
                workers=options.readers,
                short_side=options.short_side,
                window=options.views.window_side,
                max_pixels=options.max_pixels,
                on_error=on_error,
            )
        return self._average(images, on_error)

    def _average(self, images: Iterable[ImageLike], on_error: OnError | None) -> Iterator[Prediction]:
        """Predictions from the mean scores of all views."""
        options = self.options
        for picture in read_images(
            images,
            ahead=options.readers,
            workers=options.readers,
            short_side=None,
            max_pixels=options.max_pixels,
            on_error=on_error,
        ):
            total = options.views.total_scores(
                self.pipeline, picture.pixels, batch_size=options.batch_size, short_side=options.short_side
            )
            yield _averaged(picture, total / options.views.count, self.pipeline)

    def _encode(self, name: str, prediction: Prediction) -> Encoded:
        files: dict[str, bytes] = {}
        try:
            for one in find_formats(self.options.formats):
                files |= one.encode(prediction, name)
        except DataError as error:  # masks of an image that was segmented in windows
            return Encoded(name, error=f"{prediction.path or name}: {error}")
        return Encoded(name, files)


def build_encoder(checkpoint: str, options: PredictOptions, device: str, trust: Sequence[str] = ()) -> Encoder:
    """Load a saved pipeline to encode its predictions; for workers on other machines."""
    return Encoder(load(Path(checkpoint), device=device, trust=trust), options)


def encode_on(workers: Workers[Encoder], images: Iterable[Named], *, batch_size: int) -> Iterator[Encoded]:
    """Encode on workers, a batch at a time; see `Encoder.encode`."""
    remaining = iter(images)
    batches = iter(lambda: tuple(islice(remaining, batch_size)), ())
    for _, found in workers.map(_encode_batch, batches):
        yield from found


def _encode_batch(encoder: Encoder, images: tuple[Named, ...]) -> list[Encoded]:
    return list(encoder.encode(images))


def _drain(broken: list[Encoded]) -> Iterator[Encoded]:
    while broken:
        yield broken.pop(0)


def _averaged(picture: InputImage, scores: np.ndarray, pipeline: Pipeline) -> Prediction:
    return Prediction(
        labels=scores.argmax(0).astype(np.uint8),
        image=picture.pixels,
        label_space=pipeline.labels,
        compute_scores=lambda: scores,
        find_masks=partial(_no_masks, picture.path),
        path=picture.path,
    )


def _no_masks(path: Path | None) -> ImageMasks:
    raise DataError(f"{path or 'image'}: has averaged scores of several views, and no masks")
