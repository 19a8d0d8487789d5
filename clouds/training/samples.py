"""Training batches that mix labelled source images and generated images; randomness is keyed by sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from attrs import evolve, frozen
from jaxtyping import Integer, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from clouds.core.contract.sampling import Sampler as ImageSampler
from clouds.core.contract.tensors import image_tensor
from clouds.core.system.errors import ConfigError, DataError, TrainingError
from clouds.core.system.images import read_image
from clouds.core.system.processes import Processes
from clouds.data.class_mix import draw_classes, paste
from clouds.data.folder import Dataset
from clouds.data.mixing import endless
from clouds.data.segment_files import without_crowds
from clouds.data.transforms import Augmentation, augment, generated_views
from clouds.training.interrupt import ignore_signals

_ALONE = Processes()


@frozen(eq=False, kw_only=True)
class Sample:
    """One training image.

    Attributes:
        image: the student's view, RGB.
        label_map: train ids of a source image, or its segment map (int32); None for a generated one.
        clean: the teacher's view of a generated image; None for a source image.
        position: index of the sample in the phase; it keys all of its random choices.
        name: image file, for messages.
        pasted: train ids of what ClassMix pasted onto `image`, 255 elsewhere; None without.
        weight: of the image's loss.
        skipped: errors of the unreadable images that this sample replaces.
    """

    image: UInt8[Tensor, "3 h w"]
    label_map: Integer[Tensor, "h w"] | None
    clean: UInt8[Tensor, "3 h w"] | None
    position: int
    name: str
    pasted: UInt8[Tensor, "h w"] | None = None
    weight: float = 1.0
    skipped: tuple[str, ...] = ()


class SampleReader(TorchDataset["Sample | DataError"]):
    """Reads and augments samples, addressed by (dataset, index, position).

    The order of the datasets is: sources, labelled generated sets, generated images without labels.

    Args:
        sources: labelled datasets.
        generated: generated images without labels.
        labelled: generated sets with labels of their own, read like sources; sampler and ClassMix leave them alone.
        settings: augmentation of the views.
        seed: seed of all views.
        sampler: chooses the images of the sources; None takes them as they are addressed.
        instances: samples have segment maps, without crowds, instead of label maps; excludes `paste_shares`.
        paste_shares: how often ClassMix takes a view of each source, summing to 1; empty pastes nothing.
        weights: weight of an image's loss, per dataset; empty means 1 for all.
        on_error: for an unreadable image, "stop" returns the error as a value (it must survive the worker process);
            "skip" returns the dataset's next readable image.
    """

    def __init__(
        self,
        sources: Sequence[Dataset],
        generated: Sequence[Path],
        settings: Augmentation,
        *,
        seed: int,
        labelled: Sequence[Dataset] = (),
        sampler: ImageSampler | None = None,
        instances: bool = False,
        paste_shares: Sequence[float] = (),
        weights: Sequence[float] = (),
        on_error: Literal["stop", "skip"] = "stop",
    ) -> None:
        self.sources = tuple(sources)
        self.datasets = (*sources, *labelled)
        self.generated = tuple(generated)
        self.settings = settings
        self.seed = seed
        self.sampler = sampler
        self.instances = instances
        self.paste_shares = tuple(paste_shares)
        self.weights = tuple(weights)
        self.on_error: Literal["stop", "skip"] = on_error

    def __getitem__(self, key: tuple[int, int, int]) -> Sample | DataError:
        which, _, _ = key
        size = self.lengths[which]
        skipped: list[str] = []
        for offset in range(size if self.on_error == "skip" else 1):
            try:
                sample = self.read(*key, offset=offset)
            except DataError as error:
                skipped.append(str(error))
            else:
                weight = self.weights[which] if self.weights else 1.0
                return evolve(sample, weight=weight, skipped=tuple(skipped))
        if self.on_error == "skip":
            return DataError(f"no image of the dataset can be read: {skipped[0]}")
        return DataError(f"{skipped[0]}; to skip unreadable images, set data.on_error=skip")

    @property
    def lengths(self) -> list[int]:
        """Number of images of each dataset."""
        return [*map(len, self.datasets), *([len(self.generated)] if self.generated else [])]

    def read(self, which: int, index: int, position: int, *, offset: int = 0) -> Sample:
        """Read one sample, `offset` images after the drawn ones.

        Raises:
            DataError: a file cannot be read; the message names it.
        """
        rng = np.random.default_rng([self.seed, position])
        if which < len(self.datasets):
            image, labels, name = self._labelled_view(which, index, offset, rng)
            return Sample(
                image=image_tensor(image), label_map=torch.from_numpy(labels), clean=None, position=position, name=name
            )
        path = self.generated[(index + offset) % len(self.generated)]
        clean, distorted = generated_views(read_image(path), rng, self.settings)
        pasted = None
        if self.paste_shares:
            source = int(rng.choice(len(self.sources), p=self.paste_shares))
            image, labels, _ = self._labelled_view(source, int(rng.integers(len(self.sources[source]))), offset, rng)
            pasted = draw_classes(labels, rng)
            distorted = paste(image, pasted, distorted)
        return Sample(
            image=image_tensor(distorted),
            label_map=None,
            clean=image_tensor(clean),
            position=position,
            name=str(path),
            pasted=None if pasted is None else torch.from_numpy(pasted),
        )

    def _labelled_view(
        self, which: int, index: int, offset: int, rng: np.random.Generator
    ) -> tuple[UInt8[np.ndarray, "h w 3"], Integer[np.ndarray, "h w"], str]:
        """A view of a source image, its labels, and its file; a sampler may take another image."""
        source, wanted = self.datasets[which], None
        if self.sampler is not None and which < len(self.sources):
            index, wanted = self.sampler.draw(which, index, rng)
            if not 0 <= index < len(source):
                last = len(source) - 1
                raise ConfigError(f"data.sampler drew image {index} of {source.spec}; expected 0 to {last}")
        index = (index + offset) % len(source)
        if self.instances:
            image, segments = source.read_segments(index)
            pair = image, without_crowds(segments, source.label_space)
        else:
            pair = source.read(index)
        return *augment(*pair, rng, self.settings, wanted), str(source.items[index].image)


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

    The global order depends only on the reader's seed, not on the number of workers or processes. A sample's position
    keys its random choices.

    Args:
        reader: source of the samples.
        factors: how often an epoch repeats each image, per dataset; the generated set is last.
        batch_size: images per batch, over all processes.
        steps: number of batches of the whole stream.
        workers: data loader processes.
        start: number of batches to skip.
        processes: rank and number of the training processes.

    Raises:
        DataError: a dataset is empty, no image has a factor above 0, or an image cannot be read.
        TrainingError: a data loader process died.
    """
    lengths = reader.lengths
    if sum(length * factor for length, factor in zip(lengths, factors, strict=True)) <= 0:
        raise DataError(f"nothing to train on: datasets of {lengths} images with factors {list(factors)}")
    stream = endless(lengths, factors, seed=reader.seed)
    keys = ((which, index, position) for _, which, index, position in islice(stream, start * batch_size, None))
    loader: DataLoader[Any] = DataLoader(
        reader,
        batch_sampler=_Shares(keys, batch_size, steps - start, processes),
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=ignore_signals,
        generator=torch.Generator(),  # the default draws from the global generator, which would break exact resume
    )
    for batch in _checked(loader):
        for sample in batch:
            if isinstance(sample, DataError):
                raise sample
        yield batch


def _checked(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield the loader's batches; raise `TrainingError` when one of its processes dies."""
    batches = iter(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (ConnectionError, EOFError, RuntimeError) as error:  # from its broken pipe, or from torch
            if type(error) is RuntimeError and not str(error).startswith("DataLoader worker (pid"):
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise TrainingError(
                f"a data loader process died ({reason}): memory or /dev/shm may be too small for "
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
