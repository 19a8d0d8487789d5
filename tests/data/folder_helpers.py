"""What the tests of folder datasets share."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

SIZE = (4, 6)
Pixels = np.ndarray | Image.Image


class Add(Protocol):
    """Writes one pair; an image and a label of `SIZE` are made where none is given."""

    def __call__(
        self,
        name: str,
        *,
        split: str = "train",
        image: Pixels | None = None,
        label: Pixels | None = None,
        suffix: str = ".png",
        unlabelled: bool = False,
    ) -> Path: ...


def save(path: Path, pixels: Pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path)
