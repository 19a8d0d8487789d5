"""Weighted mixing of datasets, like the published repeat-factor sampler."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import count
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from clouds.core.system.errors import ConfigError

_FEWEST = 0.01  # samples per epoch on average; with fewer, finding one sample takes hundreds of epochs


class Draw(NamedTuple):
    """One sample of an endless stream: `position` counts from 0 over all epochs and keys the sample's randomness."""

    epoch: int
    dataset: int
    index: int
    position: int


def mixed_order(lengths: Sequence[int], factors: Sequence[float], *, seed: int, epoch: int) -> Int[np.ndarray, "n 2"]:
    """The order of one epoch over several datasets: rows of (dataset, index).

    It shuffles the rows of `repeated`, with new coins for each epoch. The same seed and epoch give the same order.
    Several processes take shares of this order, so that together they run exactly one epoch.

    Raises:
        ConfigError: lengths and factors differ in number or are negative, or no sample would ever be drawn.
    """
    _check(lengths, factors)
    rng = np.random.default_rng((seed, epoch))
    return rng.permutation(repeated(lengths, factors, rng.random(sum(lengths))))


def repeated(
    lengths: Sequence[int], factors: Sequence[float], coins: Float[np.ndarray, " r"]
) -> Int[np.ndarray, "n 2"]:
    """The samples of one epoch, in order: rows of (dataset, index).

    Every sample of dataset d occurs floor(f_d) times, and once more if its coin, a number in 0..1, is below
    f_d - floor(f_d).
    """
    dataset = np.repeat(np.arange(len(lengths)), lengths)
    index = np.concatenate([np.arange(length) for length in lengths])
    factor = np.repeat(np.asarray(factors, float), lengths)
    repeats = np.floor(factor).astype(int) + (coins < factor - np.floor(factor))
    return np.repeat(np.stack([dataset, index], axis=1), repeats, axis=0)


def endless(lengths: Sequence[int], factors: Sequence[float], seed: int) -> Iterator[Draw]:
    """Yield epochs of `mixed_order` forever. `itertools.islice(..., n, None)` continues after n samples.

    Raises:
        ConfigError: as `mixed_order`, or an epoch has so few samples that most epochs are empty.
    """
    _check(lengths, factors)
    expected = sum(length * factor for length, factor in zip(lengths, factors, strict=True))
    if expected < _FEWEST:
        raise ConfigError(
            f"mixing: lengths {list(lengths)} with repeat factors {list(factors)} give {expected:g} samples per epoch "
            f"on average; expected at least {_FEWEST}"
        )
    position = count()
    for epoch in count():
        for dataset, index in mixed_order(lengths, factors, seed=seed, epoch=epoch).tolist():
            yield Draw(epoch, dataset, index, next(position))


def _check(lengths: Sequence[int], factors: Sequence[float]) -> None:
    if len(lengths) != len(factors):
        raise ConfigError(f"mixing: {len(factors)} repeat factors for {len(lengths)} datasets; give one per dataset")
    wrong = [value for value in (*lengths, *factors) if not (value >= 0 and math.isfinite(value))]
    if wrong:
        raise ConfigError(f"mixing: lengths and repeat factors must be finite and not negative, got {wrong[0]}")
    if not sum(length * factor for length, factor in zip(lengths, factors, strict=True)):
        raise ConfigError(f"mixing: lengths {list(lengths)} with repeat factors {list(factors)} give no sample at all")
