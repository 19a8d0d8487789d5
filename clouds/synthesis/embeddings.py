"""Image embeddings made ahead, so that training costs the refiner's mask decoder alone from the first step on."""

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
    """What is kept now: how many embeddings, and their bytes as tensors."""

    count: int
    bytes: int


def prepare_embeddings(
    refiner: Refiner, images: Sequence[Path], *, room: int | None = None, mirrored: bool = True, progress: bool = False
) -> Embeddings:
    """Make a refiner with a cache encode images; what the cache has already costs no encoder.

    Training finds them when the images have the size of its crop: views of others are cropped or padded.

    Args:
        refiner: one whose `prepare` keeps what it computes.
        images: files.
        room: bound on the cache's size in bytes; what does not fit would push out what came before. None: no bound.
        mirrored: mirror images, too, which training shows half of the time.
        progress: show a progress bar on standard error, when that is a terminal.

    Raises:
        DataError: an image cannot be read, the cache cannot be written, or has too little room.
    """
    total = 0
    with progress_bar(shown=progress) as bar, warnings.catch_warnings():
        warnings.simplefilter("error", CacheWarning)
        for number, path in enumerate(bar.track(images, description="prepare"), start=1):
            pixels = image_tensor(read_image(path))
            try:
                prepared = refiner.prepare([pixels, pixels.flip(-1)] if mirrored else [pixels])
            except CacheWarning as error:
                raise DataError(f"{path}: its embedding could not be kept: {error}") from error
            total += sum(value.nbytes for one in prepared for value in one.tensors.values())
            if room is not None and total // number * len(images) > room:
                raise DataError(
                    f"the embeddings of {len(images)} images take about {total // number * len(images)} bytes, the "
                    f"cache is bounded at {room}; raise cache_bytes, or prepare fewer images"
                )
    return Embeddings(count=len(images) * (1 + mirrored), bytes=total)
