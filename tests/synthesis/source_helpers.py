"""A labelled dataset, and a generator that starts from it, for tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

import clouds
from clouds.core.contract.labels import CITYSCAPES
from clouds.core.contract.plan import Part
from clouds.core.system.images import write_png
from clouds.synthesis.labelled_source import LabelledSource

PART = Part(kind="generator", name="dim", options={}, distribution="d", version="1")
SIZE = (16, 32)


def write_labelled(folder: Path, count: int = 3) -> str:
    """Images whose left half is a dark road and whose right half is a bright sky; the blue channel is the number."""
    for number in range(count):
        labels = np.zeros((24, 48), np.uint8)
        labels[:, 24:] = 10
        image = np.stack([np.where(labels == 10, 220, 40)] * 2 + [np.full_like(labels, number)], -1)
        write_png(folder / "images" / "train" / f"{number}.png", image.astype(np.uint8))
        write_png(folder / "labels" / "train" / f"{number}.png", labels)
    return f"folder:{folder}:train"


def open_source(folder: Path, count: int = 3) -> LabelledSource:
    return LabelledSource.open(write_labelled(folder, count), CITYSCAPES)


class Dim(clouds.Generator):
    """Draws the source darker, with noise of the seed; counts what it draws."""

    reads_source = True

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def generate(self, requests: Iterable[clouds.GenerationRequest]) -> Iterator[clouds.GeneratedImage]:
        for request in requests:
            self.seeds.append(request.seed)
            source = request.source
            assert source is not None
            noise = np.random.default_rng(request.seed).integers(0, 30, source.image.shape, np.uint8)
            image = source.image // 2 + noise
            yield clouds.GeneratedImage(request=request, image=image, labels=source.labels, label_kind="inherited")
