"""Filters for generated images. Each filter computes one score and has a minimum; it may also drop labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import final

import numpy as np
from attrs import evolve, frozen
from jaxtyping import UInt8
from PIL import Image
from scipy.fft import dctn

from clouds.core.contract.records import GeneratedImage
from clouds.core.system.errors import ConfigError

BITS = 64
_SIDE = 32


@frozen(eq=False)
class Verdict:
    """What a filter says of an image.

    Attributes:
        score: higher is better, NaN is rejected.
        labels: the labels that are kept, uint8 "h w"; None keeps all.
        regions: "labelled" and "dropped" number of regions, if the filter compared labels with the image.
    """

    score: float
    labels: UInt8[np.ndarray, "h w"] | None = None
    regions: dict[str, int] | None = None


@frozen(eq=False)
class Judgement:
    """What all filters say of an image.

    Attributes:
        image: the image, with the labels that are kept.
        scores: score by filter name, up to the first filter that rejects the image.
        rejected_by: the name of that filter, or None.
        regions: see `Verdict`.
    """

    image: GeneratedImage
    scores: dict[str, float]
    rejected_by: str | None
    regions: dict[str, int] | None = None


class Filter(ABC):
    """Scores images; those below `least` are rejected.

    Attributes:
        name: key of the score in the manifest. Name and `least` identify the filter: a later run with the same ones
            reuses its rejections.
        least: minimum score.
    """

    name: str
    least: float

    @abstractmethod
    def score(self, image: GeneratedImage) -> float:
        """The score of an image; higher is better, NaN is rejected."""

    def check(self, image: GeneratedImage) -> Verdict:
        """The score of an image, and the labels that are kept, for filters that drop some."""
        return Verdict(self.score(image))

    def begin(self) -> None:
        """Called at the start of a run, to forget images of an earlier run."""
        return

    def keep(self, fingerprint: str) -> None:
        """Called for every image of the dataset, in order, so that later ones can be compared with it."""
        return


@final
class BlankFilter(Filter):
    """Rejects images of one colour: blank ones, black ones of a safety checker, and results of numeric overflow.

    The score is the standard deviation of the grey levels (0..127.5). Photographs of streets have 30 to 80, thick fog
    about 10.
    """

    name = "blank"

    def __init__(self, least: float = 3.0) -> None:
        self.least = _at_least_zero(self.name, least)

    def score(self, image: GeneratedImage) -> float:
        return float(np.asarray(Image.fromarray(image.image).convert("L"), np.float32).std())


@final
class DuplicateFilter(Filter):
    """Rejects near-duplicates of earlier images of the dataset.

    The score is the Hamming distance (0..64) between `fingerprint`s, for the nearest earlier image. Unrelated images
    differ in about 32 bits.
    """

    name = "duplicate"

    def __init__(self, least: float = 5.0) -> None:
        self.least = _at_least_zero(self.name, least)
        self.begin()

    def begin(self) -> None:
        self._known = np.empty(1024, np.uint64)
        self._count = 0

    def score(self, image: GeneratedImage) -> float:
        known = self._known[: self._count]
        mine = np.uint64(int(fingerprint(image.image), 16))
        return float(np.bitwise_count(known ^ mine).min(initial=BITS))

    def keep(self, fingerprint: str) -> None:
        if self._count == len(self._known):
            self._known = np.concatenate([self._known, np.empty_like(self._known)])
        self._known[self._count] = int(fingerprint, 16)
        self._count += 1


def fingerprint(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    """Perceptual hash (pHash) of an image, 16 hexadecimal digits.

    It takes the 8 x 8 lowest frequencies of the cosine transform of the grey image at 32 x 32 pixels, and compares each
    with their median, which excludes the mean (Zauner, Implementation and benchmarking of perceptual image hash
    functions, 2010). Changes of size, brightness and compression change few bits.
    """
    small = Image.fromarray(pixels).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    low = np.asarray(dctn(np.asarray(small, np.float32)))[:8, :8].ravel()
    bits = low > np.median(low[1:])
    return np.packbits(bits).tobytes().hex()


def judge(image: GeneratedImage, filters: Iterable[Filter], *, rejects: bool = True) -> Judgement:
    """Ask filters in their order, each about the labels that the ones before it kept, up to the first that rejects.

    Without `rejects`, all are asked and none rejects.
    """
    scores, regions = dict[str, float](), None
    for one in filters:
        verdict = one.check(image)
        scores[one.name] = round(verdict.score, 4) if np.isfinite(verdict.score) else -1.0  # JSON has no NaN
        regions = regions if verdict.regions is None else verdict.regions
        image = image if verdict.labels is None else evolve(image, labels=verdict.labels)
        if rejects and not verdict.score >= one.least:
            return Judgement(image, scores, one.name, regions)
    return Judgement(image, scores, None, regions)


def _at_least_zero(name: str, least: float) -> float:
    if not least >= 0:
        raise ConfigError(f"filter {name}: the minimum score is {least}; expected 0 or more")
    return float(least)
