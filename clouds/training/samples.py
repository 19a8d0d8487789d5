"""Batches for training: labelled source images and generated ones, mixed; randomness is keyed by the sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from attrs import evolve, frozen
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from clouds.core.system.errors import DataError, TrainingError
from clouds.core.system.images import read_image
from clouds.core.system.processes import Processes
from clouds.data.folder import Dataset
from clouds.data.mixing import endless
from clouds.data.transforms import Augmentation, augment, generated_views
from clouds.training.interrupt import ignore_signals

_ALONE = Processes()


@frozen(eq=False, kw_only=True)
class Sample:
    """One training image.

    Attributes:
        image: what the student sees.
        label_map: train ids of a source image; None for a generated one.
        clean: what the teacher sees of a generated image; None for a source image.
        position: number of the sample in the phase; it keys every random choice about it.
        name: of its image file, for messages.
        skipped: what was wrong with the images whose place it took.
    """

    image: UInt8[Tensor, "3 h w"]
    label_map: UInt8[Tensor, "h w"] | None
    clean: UInt8[Tensor, "3 h w"] | None
    position: int
    name: str
    skipped: tuple[str, ...] = ()


class SampleReader(TorchDataset["Sample | DataError"]):
    """Reads and transforms samples, addressed by (set, index, position); the generated set comes after the sources.

    Args:
        sources: labelled datasets.
        generated: generated images.
        settings: how views are made.
        seed: of all views.
        on_error: what an image that cannot be read gives: "stop" the error, as a value, so that it comes whole out of
            a reading process; "skip" the set's next image that can be read.
    """

    def __init__(
        self,
        sources: Sequence[Dataset],
        generated: Sequence[Path],
        settings: Augmentation,
        *,
        seed: int,
        on_error: Literal["stop", "skip"] = "stop",
    ) -> None:
        self.sources = tuple(sources)
        self.generated = tuple(generated)
        self.settings = settings
        self.seed = seed
        self.on_error: Literal["stop", "skip"] = on_error

    def __getitem__(self, key: tuple[int, int, int]) -> Sample | DataError:
        which, index, position = key
        size = len(self.sources[which]) if which < len(self.sources) else len(self.generated)
        skipped: list[str] = []
        for offset in range(size if self.on_error == "skip" else 1):
            try:
                sample = self.read(which, (index + offset) % size, position)
            except DataError as error:
                skipped.append(str(error))
            else:
                return evolve(sample, skipped=tuple(skipped))
        if self.on_error == "skip":
            return DataError(f"no image of the set can be read: {skipped[0]}")
        return DataError(f"{skipped[0]}; to train without such images, set data.on_error=skip")

    def read(self, which: int, index: int, position: int) -> Sample:
        """One sample. Raises `DataError` naming the file when it cannot be read."""
        rng = np.random.default_rng([self.seed, position])
        if which < len(self.sources):
            image, labels = self.sources[which].read(index)
            image, labels = augment(image, labels, rng, self.settings)
            name = str(self.sources[which].items[index].image)
            return Sample(
                image=_tensor(image), label_map=torch.from_numpy(labels), clean=None, position=position, name=name
            )
        path = self.generated[index]
        clean, distorted = generated_views(read_image(path), rng, self.settings)
        return Sample(image=_tensor(distorted), label_map=None, clean=_tensor(clean), position=position, name=str(path))


def batches(
    reader: SampleReader,
    *,
    factors: Sequence[float],
    batch_size: int,
    steps: int,
    workers: int,
    start: int = 0,
    processes: Processes = _ALONE,
) -> Iterator[list[Sample]]:
    """Yield this process's share of the batches `start` to `steps`.

    The stream depends on the reader's seed alone, neither on the number of workers nor on that of processes: each takes
    its share of one global order, and position keys what is drawn.

    Args:
        reader: where samples come from.
        factors: repeats per epoch of an image of each set, generated images last.
        batch_size: images per batch, of all processes.
        steps: number of batches of the whole stream.
        workers: reading processes.
        start: batches of the stream to leave out.
        processes: which of several processes this is.

    Raises:
        DataError: a set is empty, no image has a factor above 0, or an image cannot be read.
        TrainingError: a reading process ended.
    """
    lengths = [len(source) for source in reader.sources]
    if reader.generated:
        lengths.append(len(reader.generated))
    if sum(length * factor for length, factor in zip(lengths, factors, strict=True)) <= 0:
        raise DataError(f"nothing to train on: sets of {lengths} images with factors {list(factors)}")
    stream = endless(lengths, factors, seed=reader.seed)
    keys = ((which, index, position) for _, which, index, position in islice(stream, start * batch_size, None))
    loader: DataLoader[Any] = DataLoader(
        reader,
        batch_sampler=_Shares(keys, batch_size, steps - start, processes),
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=ignore_signals,
        generator=torch.Generator(),  # it would draw from the global one otherwise, which a resumed run must not
    )
    for batch in _whole(loader):
        for sample in batch:
            if isinstance(sample, DataError):
                raise sample
        yield batch


def _whole(loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches of a loader; one of its processes that ends before it is an error of its own."""
    batches = iter(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (ConnectionError, EOFError, RuntimeError) as error:  # what is left of its pipes, or what torch says
            if type(error) is RuntimeError and not str(error).startswith("DataLoader worker (pid"):
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise TrainingError(
                f"a reading process ended ({reason}): memory or /dev/shm may be too small for "
                f"{loader.num_workers} of them; --set data.workers=0 reads in the training process"
            ) from error
        yield batch


class _Shares(Sampler[list[tuple[int, int, int]]]):
    """One process's share of each batch."""

    def __init__(
        self, keys: Iterator[tuple[int, int, int]], batch_size: int, batches: int, processes: Processes
    ) -> None:
        self._keys, self._size, self._batches, self._processes = keys, batch_size, batches, processes

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        for _ in range(self._batches):
            yield list(self._processes.share(list(islice(self._keys, self._size))))


def _tensor(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[Tensor, "3 h w"]:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
