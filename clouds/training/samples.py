"""Batches for training: labelled source images and generated ones, mixed; randomness is keyed by the sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import frozen
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from clouds.core.errors import DataError
from clouds.core.images import read_image
from clouds.data.folder import Dataset
from clouds.data.mixing import endless
from clouds.data.transforms import Augmentation, augment, generated_views


@frozen(eq=False, kw_only=True)
class Sample:
    """One training image.

    Attributes:
        image: what the student sees.
        label_map: train ids of a source image; None for a generated one.
        clean: what the teacher sees of a generated image; None for a source image.
        position: number of the sample in the run; it keys every random choice about it.
        name: for messages.
    """

    image: UInt8[Tensor, "3 h w"]
    label_map: UInt8[Tensor, "h w"] | None
    clean: UInt8[Tensor, "3 h w"] | None
    position: int
    name: str


class SampleReader(TorchDataset[Sample]):
    """Reads and transforms samples, addressed by (set, index, position); the generated set comes after the sources."""

    def __init__(
        self, sources: Sequence[Dataset], generated: Sequence[Path], settings: Augmentation, *, seed: int
    ) -> None:
        self.sources = tuple(sources)
        self.generated = tuple(generated)
        self.settings = settings
        self.seed = seed

    def __getitem__(self, key: tuple[int, int, int]) -> Sample:
        which, index, position = key
        rng = np.random.default_rng([self.seed, position])
        if which < len(self.sources):
            image, labels = self.sources[which].read(index)
            image, labels = augment(image, labels, rng, self.settings)
            name = self.sources[which].items[index].name
            return Sample(
                image=_tensor(image), label_map=torch.from_numpy(labels), clean=None, position=position, name=name
            )
        path = self.generated[index]
        clean, distorted = generated_views(read_image(path), rng, self.settings)
        return Sample(image=_tensor(distorted), label_map=None, clean=_tensor(clean), position=position, name=path.name)


def batches(
    reader: SampleReader, *, factors: Sequence[float], batch_size: int, steps: int, workers: int
) -> Iterator[list[Sample]]:
    """Yield `steps` batches. The stream depends on the reader's seed alone, not on the number of workers.

    Args:
        reader: where samples come from.
        factors: repeats per epoch of an image of each set, generated images last.
        batch_size: images per batch.
        steps: number of batches.
        workers: reading processes.

    Raises:
        DataError: a set is empty, or no image has a factor above 0.
    """
    lengths = [len(source) for source in reader.sources]
    if reader.generated:
        lengths.append(len(reader.generated))
    if sum(length * factor for length, factor in zip(lengths, factors, strict=True)) <= 0:
        raise DataError(f"nothing to train on: sets of {lengths} images with factors {list(factors)}")
    stream = endless(lengths, factors, seed=reader.seed)
    keys = ((which, index, position) for _, which, index, position in stream)
    loader: DataLoader[Any] = DataLoader(
        reader,
        batch_sampler=[list(islice(keys, batch_size)) for _ in range(steps)],
        num_workers=workers,
        collate_fn=list,
    )
    yield from loader


def _tensor(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[Tensor, "3 h w"]:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
