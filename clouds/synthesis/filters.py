"""What a generated picture must pass to be kept. Every filter measures one number, and states the least that passes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import final

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from scipy.fft import dctn

from clouds.core.contract.records import GeneratedImage
from clouds.core.system.errors import ConfigError

BITS = 64
_SIDE = 32


class Filter(ABC):
    """Measures pictures; those below `least` are rejected.

    Attributes:
        name: key of the score in the manifest. With `least` it is what the filter is: rejections by filters of the
            same names and least scores count for a later run.
        least: the least score that passes.
    """

    name: str
    least: float

    @abstractmethod
    def score(self, image: GeneratedImage) -> float:
        """The more the better; not a number is rejected."""

    def begin(self) -> None:
        """Told that a run begins: pictures of an earlier one, perhaps of another set, are to be forgotten."""
        return

    def keep(self, fingerprint: str) -> None:
        """Told of every picture that is in the set, in order, so that later ones can be compared with it."""
        return


@final
class BlankFilter(Filter):
    """Rejects pictures of one colour: the blank, the black of a safety checker, the broken of a numeric overflow.

    The score is the standard deviation of the grey levels (0..127.5). Photographs of streets are at 30 to 80, thick
    fog at about 10.
    """

    name = "blank"

    def __init__(self, least: float = 3.0) -> None:
        self.least = _at_least_zero(self.name, least)

    def score(self, image: GeneratedImage) -> float:
        return float(np.asarray(Image.fromarray(image.image).convert("L"), np.float32).std())


@final
class DuplicateFilter(Filter):
    """Rejects near-duplicates of earlier pictures of the set.

    The score is the number of different bits (0..64) between `fingerprint`s, for the nearest earlier picture. Pictures
    without relation differ in about 32.
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
    """Perceptual hash (pHash) of a picture, 16 hexadecimal digits: the signs of its 64 lowest frequencies.

    The picture in grey at 32 x 32 pixels, its two-dimensional cosine transform, of that the 8 x 8 lowest frequencies
    but the mean, each compared with their median (Zauner, Implementation and benchmarking of perceptual image hash
    functions, 2010). Changes of size, brightness and compression change few bits.
    """
    small = Image.fromarray(pixels).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    low = np.asarray(dctn(np.asarray(small, np.float32)))[:8, :8].ravel()
    bits = low > np.median(low[1:])
    return np.packbits(bits).tobytes().hex()


def judge(image: GeneratedImage, filters: Iterable[Filter]) -> tuple[dict[str, float], str | None]:
    """The scores of a picture by filter, up to the first that rejects it, and that filter's name."""
    scores: dict[str, float] = {}
    for one in filters:
        value = one.score(image)
        scores[one.name] = round(value, 4) if np.isfinite(value) else -1.0  # JSON has no word for not a number
        if not value >= one.least:
            return scores, one.name
    return scores, None


def _at_least_zero(name: str, least: float) -> float:
    if not least >= 0:
        raise ConfigError(f"filter {name}: the least score is {least}; expected 0 or more")
    return float(least)
