"""Rare-class sampling: images are drawn by class, rare classes more often.

Source: Hoyer, Dai, Van Gool, "DAFormer", CVPR 2022, section 3.3 and its published code.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

import numpy as np
from attrs import field, frozen
from jaxtyping import Int

from clouds.core.contract.class_index import class_probabilities
from clouds.core.contract.sampling import Sampler, Wanted
from clouds.core.system.config import within
from clouds.core.system.errors import ConfigError
from clouds.data.class_index import read_class_index
from clouds.data.folder import Dataset


@frozen(kw_only=True)
class RareClassConfig:
    """Settings of rare-class sampling.

    Attributes:
        temperature: T in P(c) = softmax((1 - f_c) / T), where f_c is the class's share of the labelled pixels.
        min_pixels: pixels of the class that an image needs more than, to be drawn for it.
        min_crop_share: share of `min_pixels` that its view needs more than, else the view is drawn again.
    """

    temperature: float = field(validator=within(0, 1000, above=True))
    min_pixels: int = field(validator=within(0, 10**9))
    min_crop_share: float = field(validator=within(0, 1))


@final
class RareClassSampler(Sampler):
    """Rare-class sampling of every source.

    Args:
        datasets: the labelled sources.
        index: one file per source, which `clouds datasets check --index` wrote.
        temperature, min_pixels, min_crop_share: see `RareClassConfig`; the defaults are DAFormer's.

    Raises:
        ConfigError: a number is out of its range, or no image has enough pixels of a class.
        DataError: an index cannot be read, or is that of another version of the dataset.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        *,
        index: tuple[str, ...],
        temperature: float = 0.01,
        min_pixels: int = 3000,
        min_crop_share: float = 0.5,
    ) -> None:
        config = RareClassConfig(temperature=temperature, min_pixels=min_pixels, min_crop_share=min_crop_share)
        self._sources = tuple(
            RareClasses(read_class_index(Path(file), dataset).counts, config, where=file)
            for file, dataset in zip(index, datasets, strict=True)
        )

    def draw(self, source: int, index: int, rng: np.random.Generator) -> tuple[int, Wanted]:
        return self._sources[source].draw(rng)


class RareClasses:
    """Draws an image of one dataset for a drawn class.

    Args:
        counts: pixels of each image by train id, with at least one labelled pixel.
        config: temperature and minima.
        where: start of messages.

    Raises:
        ConfigError: a class occurs, but no image has more than `min_pixels` pixels of it.
    """

    def __init__(self, counts: Int[np.ndarray, "n k"], config: RareClassConfig, *, where: str) -> None:
        self.probabilities = class_probabilities(counts, config.temperature)
        self._images = [np.flatnonzero(column > config.min_pixels) for column in counts.T]
        self._pixels = config.min_pixels * config.min_crop_share
        for train_id, (probability, images) in enumerate(zip(self.probabilities, self._images, strict=True)):
            if probability > 0 and not len(images):
                raise ConfigError(
                    f"{where}: no image has more than {config.min_pixels} pixels of class {train_id} (at most "
                    f"{counts[:, train_id].max()}); lower min_pixels"
                )

    def draw(self, rng: np.random.Generator) -> tuple[int, Wanted]:
        """Draw a class by its probability, then one of its images uniformly. Returns image index and class."""
        train_id = int(rng.choice(len(self.probabilities), p=self.probabilities))
        index = int(rng.choice(self._images[train_id]))
        return index, Wanted(train_id=train_id, pixels=self._pixels)
