"""How training reads the images of a dataset: samplers (hook `clouds_samplers`) and augmentations of plugins.

Images are RGB, uint8 "h w 3". All randomness comes from the generator that is passed, which belongs to the sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
from attrs import frozen
from jaxtyping import UInt8

# A change of the student's view that keeps its geometry: colours, noise, blur. Result: an image of the same size.
Change = Callable[[UInt8[np.ndarray, "h w 3"], np.random.Generator], UInt8[np.ndarray, "h w 3"]]


@frozen(kw_only=True)
class Wanted:
    """A class that a view has to show: more than `pixels` pixels of it."""

    train_id: int
    pixels: float


class Sampler(ABC):
    """Chooses the images of the labelled sources."""

    @abstractmethod
    def draw(self, source: int, index: int, rng: np.random.Generator) -> tuple[int, Wanted | None]:
        """The image that is read in the place of a source's image, and the class that its view has to show.

        Args:
            source: position of the source.
            index: image that is next in the shuffled order of the source.
            rng: generator of the sample; the image's view draws from it afterwards.
        """
