"""Crops of photographs without labels, in the place of generated images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from hashlib import file_digest
from pathlib import Path
from typing import Any, final

import numpy as np
from PIL import Image

from clouds.core.contract.interfaces import Generator
from clouds.core.contract.records import GeneratedImage, GenerationRequest
from clouds.core.system.images import find_pictures, read_image

_LEAST_SHARE = 0.5  # of the largest crop's sides, once a picture is shown again


@final
class Photographs(Generator):
    """Pictures of the world without labels, as content for self-training.

    Seed s shows picture s mod N of the N pictures in sorted order, so N images with consecutive seeds show each once.
    The first N seeds show the largest crop of the requested aspect ratio; later ones a crop whose sides are 50 to 100
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
            path = self.pictures[request.seed % len(self.pictures)]
            pixels = read_image(path)
            box = self._crop(request, pixels.shape[0], pixels.shape[1])
            height, width = request.size
            crop = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS, box=box)
            origin = {"file": str(path.absolute()), "sha256": _sha256(path), "crop": [round(side, 3) for side in box]}
            yield GeneratedImage(request=request, image=np.asarray(crop), origin=origin)

    def describe(self) -> Mapping[str, Any]:
        """The number of pictures, and a hash of their names: another list would show others for the same seeds."""
        names = "\n".join(path.name for path in self.pictures)
        return {"pictures": len(self.pictures), "names": hashlib.sha256(names.encode()).hexdigest()}

    def _crop(self, request: GenerationRequest, height: int, width: int) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in pixels of the picture."""
        rng = np.random.default_rng(request.seed)
        scale = min(height / request.size[0], width / request.size[1])
        if request.seed >= len(self.pictures):
            scale *= rng.uniform(_LEAST_SHARE, 1.0)
        rows, columns = request.size[0] * scale, request.size[1] * scale
        top, left = rng.uniform(0, 1) * (height - rows), rng.uniform(0, 1) * (width - columns)
        return left, top, left + columns, top + rows


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return file_digest(stream, "sha256").hexdigest()
