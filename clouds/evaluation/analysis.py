"""Where the wrong pixels are: accuracy by size of the true region, and by distance from the true boundaries.

Both are counted per image and summed, so that memory does not grow with the number of images.

A region is a connected component (8 neighbours) of one class in the ground truth. Its size is a share of the image, so
that results at different resolutions compare. Accuracy near boundaries is the trimap analysis of Kohli et al., "Robust
Higher Order Potentials for Enforcing Label Consistency", IJCV 2009, section 5, with disjoint bands; a distance is in
chessboard steps, as for Boundary IoU. The edge of the image is no boundary; that of an unlabelled area is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from attrs import frozen
from jaxtyping import Int, UInt8

from clouds.core.contract.labels import IGNORE_ID
from clouds.evaluation.boundary import boundary_map

_SIZE_LIMITS = (0.001, 0.01, 0.1)  # shares of the image
SIZES = ("under 0.1 %", "0.1 to 1 %", "1 to 10 %", "10 % and more")
_BAND_LIMITS = (1, 2, 4, 8, 16, 32)  # pixels
BANDS = (
    "1",
    *(f"{low + 1} to {high}" if high > low + 1 else f"{high}" for low, high in pairwise(_BAND_LIMITS)),
    "over 32",
)
_EIGHT_NEIGHBOURS = np.ones((3, 3), np.bool_)


@frozen
class Pixels:
    """A group of labelled pixels.

    Attributes:
        labelled: their number.
        correct: how many are correct.
    """

    labelled: int
    correct: int

    @property
    def accuracy(self) -> float | None:
        """Share that is correct, in percent; None without pixels."""
        return 100 * self.correct / self.labelled if self.labelled else None


@frozen
class Regions(Pixels):
    """Pixels of regions of similar size; `regions` is the number of regions."""

    regions: int


@frozen(kw_only=True)
class Analysis:
    """Where a domain's pixels are right and wrong.

    Attributes:
        sizes: by class name and size of the region (`SIZES`); all classes of the label space.
        bands: by distance from the next boundary in pixels (`BANDS`).
    """

    sizes: dict[str, dict[str, Regions]]
    bands: dict[str, Pixels]

    @classmethod
    def from_counts(
        cls, sizes: Int[np.ndarray, "k s 3"], bands: Int[np.ndarray, "d 2"], *, names: Sequence[str]
    ) -> Analysis:
        """The counts of `count_sizes` and `count_bands`, summed over images."""
        return cls(
            sizes={
                name: {size: Regions(*map(int, one)) for size, one in zip(SIZES, rows, strict=True)}
                for name, rows in zip(names, sizes, strict=True)
            },
            bands={band: Pixels(*map(int, one)) for band, one in zip(BANDS, bands, strict=True)},
        )

    def all_sizes(self) -> dict[str, Regions]:
        """The sum over classes, by size."""
        found: dict[str, Regions] = {}
        for size in SIZES:
            ones = [one[size] for one in self.sizes.values()]
            labelled, correct, regions = (sum(getattr(one, key) for one in ones) for key in _KEYS)
            found[size] = Regions(labelled, correct, regions)
        return found


_KEYS = ("labelled", "correct", "regions")


def count_sizes(
    truth: UInt8[np.ndarray, "h w"], prediction: UInt8[np.ndarray, "h w"], *, classes: int
) -> Int[np.ndarray, "k 4 3"]:
    """Count one image's regions. The inputs are not modified.

    Returns:
        Per class and size: number of labelled pixels, of correct ones, and of regions; to be summed over images.
    """
    from scipy import ndimage

    counts = np.zeros((classes, len(SIZES), 3), np.int64)
    places = ndimage.find_objects(truth.astype(np.int32) + 1, max_label=classes)
    for index, place in enumerate(places):  # the smallest rectangle with the whole class, or None
        if place is None:
            continue
        # 1. regions of the class, numbered from 1
        mask = truth[place] == index
        found: Any = ndimage.label(mask, _EIGHT_NEIGHBOURS)
        numbered, regions = found
        # 2. pixels of each region, and correct ones
        area = np.bincount(numbered.ravel(), minlength=regions + 1)[1:]
        right = np.bincount(numbered[prediction[place] == index], minlength=regions + 1)[1:]
        # 3. their sums by size
        size = np.searchsorted(_SIZE_LIMITS, area / truth.size, side="right")
        for column, weights in enumerate((area, right, np.ones_like(area))):
            counts[index, :, column] = np.bincount(size, weights, minlength=len(SIZES))
    return counts


def count_bands(truth: UInt8[np.ndarray, "h w"], prediction: UInt8[np.ndarray, "h w"]) -> Int[np.ndarray, "7 2"]:
    """Count one image's labelled pixels, and the correct ones, by distance from the next boundary."""
    labelled, correct = truth != IGNORE_ID, (truth == prediction) & (truth != IGNORE_ID)
    near = [boundary_map(truth, limit, edge=False) != IGNORE_ID for limit in _BAND_LIMITS]
    within = [[int(np.count_nonzero(mask & one)) for mask in (labelled, correct)] for one in near]
    within.append([int(np.count_nonzero(mask)) for mask in (labelled, correct)])
    return np.diff(np.array(within, np.int64), axis=0, prepend=0)
