"""The random draws of the published augmentation, as our records; used by the tests of sets 14 and 15."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from clouds.data.transforms import Distortion

# Our colour changes go through 256 steps of hue, truncated (1.4 degrees), and a rounded shift (0.7); the published ones
# through 180, rounded (1 degree): 3.1 degrees at 255/60 levels each, 13. Saturation and value are rounded to 8 bits on
# both sides: 4 more. On average truncation costs about one level.
LARGEST, MEAN = 17, 2.0


def same_draws(seed: int) -> np.random.Generator:
    """A generator with the numbers of numpy's global one after `numpy.random.seed(seed)`."""
    return np.random.Generator(np.random.RandomState(seed)._bit_generator)


def to_distortion(draws: Iterable[float]) -> Distortion:
    """Read the draws in the published order: a coin before each change, one for the order after the first change."""
    values, numbers = dict[str, Any](), iter(draws)
    if next(numbers):
        values["brightness"] = next(numbers)
    values["contrast_first"] = bool(next(numbers))
    hsv = ["saturation", "hue"]
    for name in ["contrast", *hsv] if values["contrast_first"] else [*hsv, "contrast"]:
        if next(numbers):
            values[name] = next(numbers) * (2 if name == "hue" else 1)  # published in steps of two degrees
    return Distortion(**values)


def replay(seed: int) -> Iterator[float]:
    """The draws of the published colour distortion after `random.seed(seed)`."""
    source = random.Random(seed)
    coin = source.randrange(2)
    yield coin
    if coin:
        yield source.uniform(-32, 32)
    first = source.randrange(2)
    yield first
    for kind in ("contrast", "saturation", "hue") if first else ("saturation", "hue", "contrast"):
        coin = source.randrange(2)
        yield coin
        if coin:
            yield source.randint(-18, 18) if kind == "hue" else source.uniform(0.5, 1.5)


def assert_same_colours(made: np.ndarray, published: np.ndarray) -> None:
    difference = np.abs(made.astype(int) - published)
    assert difference.max() <= LARGEST
    assert difference.mean() <= MEAN
