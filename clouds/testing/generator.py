"""The contract of generators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from attrs import evolve

from clouds.core.contract.interfaces import Generator
from clouds.core.contract.labels import CITYSCAPES, IGNORE_ID
from clouds.core.contract.records import GeneratedImage, GenerationRequest, LabelledImage
from clouds.testing.contract import require, require_instance, violation

_REQUESTS = (
    GenerationRequest(prompt="a photo of a street with cars, by day", seed=0, size=(64, 96), steps=2),
    GenerationRequest(prompt="a photo of a street with cars, by day", seed=1, size=(64, 96), steps=2),
    GenerationRequest(prompt="a photo of houses in the fog, at night", seed=0, size=(96, 64), steps=2),
)
# The batch changes the summation order, so a diffusion model's results differ in the last bits and may round to the
# neighbouring one of 256 levels.
_LEVELS = 1


def check_generator(generator: Generator, *, requests: Sequence[GenerationRequest] = _REQUESTS) -> None:
    """Check a built generator on a few small requests.

    - It yields one uint8 RGB image of the requested size per request, in order; labels, if any, have the same size.
    - A generator that reads a source gets labelled images with the requests, and needs them: another source gives
      another image. Inherited labels are those of the source, or ignored.
    - The same request gives the same image, alone or in a batch (within one grey level).
    - Another seed gives another image.
    - No request yields nothing.

    Args:
        generator: the generator.
        requests: at least two; the first two have equal prompts and sizes but different seeds, and equal sources.

    Raises:
        ContractError: a clause is broken.
    """
    require_instance(generator, Generator, "generator")
    if generator.reads_source:
        requests = [evolve(one, source=one.source or _source(one.size)) for one in requests]
    nothing = list(generator.generate(iter(())))
    require(
        not nothing, generator, "no request must give no picture", got=f"{len(nothing)}", remedy="loop over requests"
    )
    made = list(generator.generate(iter(requests)))
    require(
        [image.request for image in made] == list(requests),
        generator,
        "generate must yield one GeneratedImage per request, in order, with its request",
        got=[image.request for image in made],
        remedy="yield GeneratedImage(request=request, ...) in the order of the requests",
    )
    for image in made:
        _check_image(generator, image)
    _check_same(generator, made, list(generator.generate(requests)), "generated again", levels=0)
    alone = [image for request in requests for image in generator.generate([request])]
    _check_same(generator, made, alone, "generated alone", levels=_LEVELS)
    require(
        not np.array_equal(made[0].image, made[1].image),
        generator,
        "requests that differ only in their seed must give different pictures",
        got="equal pictures",
        remedy="draw the noise from `request.seed`",
    )
    if generator.reads_source:
        _check_source(generator, requests[0], made[0])


def _source(size: tuple[int, int], seed: int = 0) -> LabelledImage:
    """Stripes of four classes, each in a colour of its own; another seed gives others."""
    height, width = size
    classes = np.random.default_rng(seed).permutation(len(CITYSCAPES))[:4].astype(np.uint8)
    labels = np.tile(classes[np.arange(width) * 4 // width], (height, 1))
    return LabelledImage(image=CITYSCAPES.color_table()[labels], labels=labels, label_space=CITYSCAPES)


def _check_source(generator: Generator, request: GenerationRequest, made: GeneratedImage) -> None:
    (other,) = generator.generate([evolve(request, source=_source(request.size, seed=1))])
    require(
        not np.array_equal(made.image, other.image),
        generator,
        "requests that differ only in their source must give different pictures, as `reads_source` says",
        got="equal pictures",
        remedy="make the picture from `request.source`, or leave out `reads_source`",
    )


def _check_image(generator: Generator, image: GeneratedImage) -> None:
    height, width = image.request.size
    arrays: list[tuple[str, object, tuple[int, ...]]] = [("image", image.image, (height, width, 3))]
    if image.labels is not None:
        arrays.append(("labels", image.labels, (height, width)))
    for name, array, shape in arrays:
        if not isinstance(array, np.ndarray):
            raise violation(
                generator, f"{name} must be a numpy array", got=type(array).__name__, remedy="convert it, RGB, uint8"
            )
        require(
            array.shape == shape and array.dtype == np.uint8,
            generator,
            f"{name} of a request of size {image.request.size} must be uint8 of shape {shape}",
            got=f"{array.dtype} of shape {array.shape}",
            remedy="sizes are (height, width); return exactly the requested size",
        )
    if image.labels is not None and image.label_kind == "inherited":
        source = image.request.source
        require(
            source is not None and _inherited(image.labels, source.labels),
            generator,
            "inherited labels must be those of the request's source, or 255",
            got="others" if source is not None else "no source",
            remedy="return labels of your own with label_kind='exact', or set `reads_source`",
        )


def _check_same(
    generator: Generator, first: Sequence[GeneratedImage], second: Sequence[GeneratedImage], how: str, *, levels: int
) -> None:
    for one, other in zip(first, second, strict=True):
        difference = int(np.abs(one.image.astype(int) - other.image.astype(int)).max())
        same_labels = (one.labels is None and other.labels is None) or (
            one.labels is not None and other.labels is not None and np.array_equal(one.labels, other.labels)
        )
        require(
            difference <= levels and same_labels,
            generator,
            f"a request must give the same picture and labels when {how}, within {levels} grey levels",
            got=f"a difference of {difference} levels, labels {'equal' if same_labels else 'different'}",
            remedy="draw from a random source made from `request.seed`, never from global state or one per batch",
        )


def _inherited(labels: np.ndarray, source: np.ndarray) -> bool:
    return bool(((labels == source) | (labels == IGNORE_ID)).all())
