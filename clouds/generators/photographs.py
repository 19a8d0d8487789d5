"""Crops of photographs without labels, in the place of generated images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, final

import numpy as np
from PIL import Image

from clouds.core.contract.interfaces import Generator
from clouds.core.contract.records import GeneratedImage, GenerationRequest
from clouds.core.system.crops import drawn_crop, rounded
from clouds.core.system.images import find_pictures, read_image
from clouds.core.weights.download import sha256_of


@final
class Photographs(Generator):
    """Pictures of the world without labels, as content for self-training.

    Seed s shows picture s mod N of the N pictures in sorted order, so N images with consecutive seeds show each once.
    Seeds 0 to N - 1 show the largest crop of the requested aspect ratio; later ones a crop whose sides are 50 to 100
    per cent of it. Positions are random by seed. It reads no prompts, and ignores `steps` and `guidance`.

    Args:
        pictures: folder (not recursive) or glob pattern; links may point anywhere.

    Raises:
        DataError: there is no picture.
    """

    reads_prompts = False

    def __init__(self, pictures: str | os.PathLike[str]) -> None:
        self.pictures = find_pictures(pictures)

    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[GeneratedImage]:
        for request in requests:
            count = len(self.pictures)
            path = self.pictures[request.seed % count]
            pixels = read_image(path)
            box = drawn_crop(request.seed, count, picture=(pixels.shape[0], pixels.shape[1]), size=request.size)
            height, width = request.size
            crop = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS, box=box)
            origin = {"file": str(path.absolute()), "sha256": sha256_of(path), "crop": rounded(box)}
            yield GeneratedImage(request=request, image=np.asarray(crop), origin=origin)

    def describe(self) -> Mapping[str, Any]:
        """The number of pictures, and a hash of their names below their common folder, which may move.

        Another list would show other pictures for the same seeds.
        """
        folder = os.path.commonpath([path.absolute().parent for path in self.pictures])
        names = "\n".join(path.absolute().relative_to(folder).as_posix() for path in self.pictures)
        return {"pictures": len(self.pictures), "names": hashlib.sha256(names.encode()).hexdigest()}
