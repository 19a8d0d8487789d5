"""The contracts of samplers and augmentations: how training reads images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clouds.core.contract.sampling import Change, Sampler, Wanted
from clouds.testing.contract import require, require_instance, violation

_DRAWS = 20
_SIZES = ((64, 96), (33, 47), (1, 1))


def check_sampler(sampler: Sampler, sizes: Sequence[int], *, classes: int = 19) -> None:
    """Check a sampler on some draws from each source.

    - A draw is the position of an image of the source, and None or a `Wanted` class.
    - It depends on its arguments and their generator alone: the views of a batch do not depend on processes and
      workers, and runs resume exactly.

    Args:
        sampler: what the factory returns.
        sizes: number of images of each source that it was built for.
        classes: number of classes of the label space.

    Raises:
        ContractError: a clause is broken.
    """
    require_instance(sampler, Sampler, "sampler")
    for source, size in enumerate(sizes):
        for seed in range(_DRAWS):
            index = seed % size
            drawn = sampler.draw(source, index, np.random.default_rng(seed))
            _check_draw(sampler, drawn, size, classes)
            np.random.random()  # another state of the global generator
            again = sampler.draw(source, index, np.random.default_rng(seed))
            require(
                again == drawn,
                sampler,
                "draws of equal generators must be equal",
                got=f"{drawn}, then {again}",
                remedy="draw from `rng` alone, and keep no state from draw to draw",
            )


def _check_draw(sampler: Sampler, drawn: object, size: int, classes: int) -> None:
    if not (isinstance(drawn, tuple) and len(drawn) == 2):
        raise violation(sampler, "draw must return a pair", got=repr(drawn), remedy="return index, wanted (or None)")
    index, wanted = drawn
    require(
        isinstance(index, int) and 0 <= index < size,
        sampler,
        f"the index must be an int from 0 to {size - 1}, the images of the source",
        got=repr(index),
        remedy="convert numpy's integers with int(), and draw from the given source",
    )
    require(
        wanted is None or (isinstance(wanted, Wanted) and 0 <= wanted.train_id < classes and wanted.pixels >= 0),
        sampler,
        f"the wanted class must be None or a Wanted with a train id below {classes} and at least 0 pixels",
        got=repr(wanted),
        remedy="return None if any view of the image will do",
    )


def check_augmentation(change: Change) -> None:
    """Check an augmentation on random images.

    - The result is an image of the same size, uint8; the image that was given stays as it was.
    - It depends on the image and the generator alone.

    Args:
        change: what the factory returns.

    Raises:
        ContractError: a clause is broken.
    """
    subject = getattr(change, "__name__", type(change).__name__)
    for seed, size in enumerate(_SIZES):
        image = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
        given = image.copy()
        made = change(given, np.random.default_rng(seed))
        got = f"{getattr(made, 'dtype', type(made).__name__)} of shape {getattr(made, 'shape', None)}"
        require(
            isinstance(made, np.ndarray) and made.dtype == np.uint8 and made.shape == image.shape,
            subject,
            f"the result must be a uint8 array of shape {image.shape}",
            got=got,
            remedy="keep the geometry, and round and clip to 0..255",
        )
        require(
            np.array_equal(given, image),
            subject,
            "the given image must stay as it was: other views are made of it",
            got="a changed image",
            remedy="work on a copy",
        )
        np.random.random()  # another state of the global generator
        require(
            np.array_equal(change(given, np.random.default_rng(seed)), made),
            subject,
            "results of equal generators must be equal",
            got="another image",
            remedy="draw from the generator that is passed alone",
        )
