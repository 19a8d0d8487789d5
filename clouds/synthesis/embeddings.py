"""Image embeddings computed in advance, so that training only runs the refiner's mask decoder."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from clouds.core.contract.interfaces import Refiner
from clouds.core.contract.tensors import image_tensor
from clouds.core.system.errors import DataError
from clouds.core.system.images import read_image
from clouds.core.system.progress import progress_bar
from clouds.core.weights.tensor_cache import CacheWarning


@frozen(kw_only=True)
class Embeddings:
    """Number of cached embeddings, and their size in bytes."""

    count: int
    bytes: int


def prepare_embeddings(
    refiner: Refiner, images: Sequence[Path], *, room: int | None = None, mirrored: bool = True, progress: bool = False
) -> Embeddings:
    """Encode images with a refiner that has a cache; cached images are not encoded again.

    Training finds the embeddings if the images have the size of its crop, because it crops or pads other sizes.

    Args:
        refiner: a refiner whose `prepare` caches its results.
        images: image files.
        room: size limit of the cache in bytes, beyond which new embeddings would evict earlier ones; None: no limit.
        mirrored: also encode mirror images, which training shows half of the time.
        progress: show a progress bar on standard error if it is a terminal.

    Raises:
        DataError: an image cannot be read, or the cache is too small or cannot be written.
    """
    total = 0
    with progress_bar(shown=progress) as bar, warnings.catch_warnings():
        warnings.simplefilter("error", CacheWarning)
        for number, path in enumerate(bar.track(images, description="prepare"), start=1):
            pixels = image_tensor(read_image(path))
            try:
                prepared = refiner.prepare([pixels, pixels.flip(-1)] if mirrored else [pixels])
            except CacheWarning as error:
                raise DataError(f"{path}: its embedding cannot be cached: {error}") from error
            total += sum(value.nbytes for one in prepared for value in one.tensors.values())
            if room is not None and total // number * len(images) > room:
                raise DataError(
                    f"the embeddings of {len(images)} images take about {total // number * len(images)} bytes, but the "
                    f"cache is limited to {room}; raise cache_bytes, or prepare fewer images"
                )
    return Embeddings(count=len(images) * (1 + mirrored), bytes=total)
