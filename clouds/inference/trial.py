"""Trying a pipeline on a stranger's picture: reading, segmenting and drawing within limits of size and time."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from time import monotonic

import numpy as np
from attrs import field, frozen
from attrs.validators import ge
from jaxtyping import Float32, UInt8
from PIL import Image
from torch import nn

from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.pipeline.prediction import Prediction
from clouds.core.system.errors import CloudsError, ConfigError, DataError
from clouds.core.system.images import MAX_PIXELS, read_image
from clouds.inference.formats import confidence

MAX_WORDS = 64  # classes in words; scores take 4 bytes per class and pixel
_INSTANCES = 20
_LEAST_SCORE = 0.1  # of instances; others are noise
_OPACITY = np.float32(0.6)  # of the masks of instances
_FADED = 4  # how much darker equal pixels are in a picture of differences
_DIFFERENT = (255, 196, 0)


class TimeLimitError(CloudsError):
    """A forward pass took longer than its limit."""


@frozen(kw_only=True)
class Limits:
    """What a picture may cost.

    Attributes:
        max_pixels: pictures with more pixels are refused before they are decoded.
        side: a picture's long side is shrunk to this many pixels, so that it is segmented in one piece.
        seconds: limit for the forward pass of a model.
    """

    max_pixels: int = field(default=MAX_PIXELS, validator=ge(1))
    side: int = field(default=2048, validator=ge(32))
    seconds: float = field(default=60.0, validator=ge(0))


@frozen(eq=False)
class Model:
    """A loaded pipeline, and the name to show it under."""

    name: str
    pipeline: Pipeline

    @property
    def takes_words(self) -> bool:
        """Whether classes can be chosen in words."""
        return self.pipeline.head.open_vocabulary

    def segment(self, pixels: UInt8[np.ndarray, "h w 3"], words: tuple[str, ...], limits: Limits) -> Prediction:
        """Segment a picture of at most `limits.side` pixels a side.

        Args:
            pixels: RGB.
            words: class names for an open-vocabulary head; none for the pipeline's own classes.
            limits: of the forward pass.

        Raises:
            ConfigError: the words are no label space.
            TimeLimitError: the limit has passed.
        """
        pipeline = self.pipeline.with_labels(list(words)) if words and self.takes_words else self.pipeline
        with time_limit(pipeline, limits.seconds):
            return pipeline.predict(pixels, window=limits.side)


@contextmanager
def time_limit(module: nn.Module, seconds: float) -> Generator[None]:
    """Stop the module's forward passes within the block after some seconds, when they reach their next layer.

    Raises:
        TimeLimitError: the limit has passed.
    """
    end = monotonic() + seconds

    def check(*_: object) -> None:
        if monotonic() > end:
            raise TimeLimitError(
                f"stopped after {seconds:g} seconds; choose a smaller picture, or start with --side or --seconds"
            )

    hooks = [one.register_forward_pre_hook(check) for one in module.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def read_picture(path: Path, limits: Limits) -> UInt8[np.ndarray, "h w 3"]:
    """Read an uploaded picture as RGB, shrunk to the limit; errors have the name of the file without its folder.

    Raises:
        DataError: see `clouds.core.system.images.read_image`.
    """
    try:
        picture = Image.fromarray(read_image(path, max_pixels=limits.max_pixels))
    except DataError as error:
        raise DataError(str(error).replace(f"{path.parent}/", "")) from error
    picture.thumbnail((limits.side, limits.side))
    return np.asarray(picture)


def read_words(text: str) -> tuple[str, ...]:
    """Class names, separated by commas or line breaks.

    >>> read_words("road, traffic light,")
    ('road', 'traffic light')

    Raises:
        ConfigError: a name occurs twice, or there are too many.
    """
    words = tuple(word for part in re.split(r"[,\n]", text) if (word := " ".join(part.split())))
    if len(words) > MAX_WORDS:
        raise ConfigError(f"{len(words)} classes; expected at most {MAX_WORDS}")
    twice = sorted({word for word in words if words.count(word) > 1})
    if twice:
        raise ConfigError(f"classes named twice: {', '.join(twice)}; name each once")
    return words


def confidence_picture(found: Prediction) -> tuple[UInt8[np.ndarray, "h w"], str]:
    """The share of the best class per pixel, 0..255, and a table of the classes in the picture as HTML."""
    share = confidence(found.scores())
    counts = np.bincount(found.labels.ravel(), minlength=len(found.label_space))
    sums = np.bincount(found.labels.ravel(), share.ravel(), minlength=len(found.label_space))
    order = np.argsort(-counts, kind="stable").tolist()
    rows = [_row(found, label, counts, sums) for label in order if counts[label]]
    head = "<tr><th>class</th><th>pixels</th><th>confidence</th></tr>"
    return (share * 255).round().astype(np.uint8), f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _row(found: Prediction, label: int, counts: np.ndarray, sums: np.ndarray) -> str:
    red, green, blue = found.label_space.palette[label]
    swatch = f'<span aria-hidden="true" style="color: rgb({red}, {green}, {blue})">■</span>'
    shares = f"<td>{counts[label] / found.labels.size:.1%}</td><td>{sums[label] / counts[label]:.0%}</td>"
    return f"<tr><td>{swatch} {escape(found.label_space.names[label])}</td>{shares}</tr>"


def best_instances(found: Prediction) -> list[tuple[Float32[np.ndarray, "h w"], str]]:
    """Opacities of the best instances, best first, each with its number, class and score."""
    instances = found.instances(top=_INSTANCES)
    rows = zip(instances.masks, instances.labels.tolist(), instances.scores.tolist(), strict=True)
    return [
        (mask * _OPACITY, f"{number} {found.label_space.names[label]} {score:.2f}")
        for number, (mask, label, score) in enumerate(rows, start=1)
        if score >= _LEAST_SCORE
    ]


def differences(one: Prediction, other: Prediction) -> tuple[UInt8[np.ndarray, "h w 3"], float]:
    """The darkened picture with the pixels marked whose classes have different names, and their share in 0..1."""
    names = sorted({*one.label_space.names, *other.label_space.names})
    numbers = [np.array([names.index(name) for name in found.label_space.names]) for found in (one, other)]
    different = numbers[0][one.labels] != numbers[1][other.labels]
    picture = one.image // _FADED
    picture[different] = _DIFFERENT
    return picture, float(different.mean())
