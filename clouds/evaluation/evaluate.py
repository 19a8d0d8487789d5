"""Evaluation of a pipeline on labelled datasets, one per domain."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from clouds.core.contract.labels import LabelSpace
from clouds.core.system.errors import ConfigError, DataError, did_you_mean
from clouds.core.system.images import short_side_size
from clouds.core.system.progress import progress_bar
from clouds.data.folder import Dataset, open_dataset
from clouds.evaluation.boundary import count_boundaries
from clouds.evaluation.confusion import count_confusion
from clouds.evaluation.report import DomainResult, Report, check_protocol
from clouds.evaluation.views import Predictor, Views

_PUBLISHED_SIDE = 1024

Configs = Mapping[str, str | os.PathLike[str]] | str | os.PathLike[str] | None
Pair = tuple[np.ndarray, np.ndarray]


def evaluate(
    pipeline: Predictor,
    specs: Sequence[str | Dataset],
    *,
    protocol: str = "native",
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    window: int = 2048,
    batch_size: int = 1,
    configs: Configs = None,
    progress: bool = False,
) -> Report:
    """Segment datasets and compare the predictions with their labels.

    Under torchrun, all processes call this function, each segments its share of the images, and all return the same
    report of all images.

    Args:
        pipeline: a composed or loaded pipeline.
        specs: SPECs such as "folder:PATH:val" (default split: the only one, or "val"), or open datasets.
        protocol: "native" (each image at its own size, scored at the size of its label) or "published" (image and
            label resized to a short side of 1024, scored at that size; only `max_pixels` of `dataset.toml` limits the
            long side).
        scales: test-time augmentation: average the scores of the image at these sizes, relative to the protocol's.
        flip: test-time augmentation: also average with the scores of the mirror images.
        window: images of more than window x window pixels are segmented in overlapping windows of that side.
        batch_size: images per forward pass; see `Pipeline.predict_many`.
        configs: a `dataset.toml` for all datasets, or one per SPEC; it replaces the datasets' own.
        progress: show a progress bar on standard error if it is a terminal.

    Raises:
        ConfigError: the protocol, a scale, the batch size, a SPEC or a configuration is invalid, or a dataset is listed
            twice.
        DataError: a file cannot be used, or is too large after resizing; the message names it.
    """
    import torch

    from clouds.core.system.processes import Processes

    check_protocol(protocol)
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; expected at least 1 image")
    views = Views(scales=scales, flip=flip, window=window)
    processes = Processes.current()
    predict = partial(views.predict_many, pipeline, batch_size=batch_size)
    datasets = _open(specs, pipeline.labels, configs)
    domains: dict[str, DomainResult] = {}
    with progress_bar(shown=progress and processes.main) as bar:
        task = bar.add_task("evaluate", total=sum(len(dataset) for dataset in datasets.values()))
        for name, dataset in datasets.items():
            advance = partial(bar.update, task, advance=processes.world, description=name)
            indices = processes.share(range(len(dataset)))
            counts = _count(predict, dataset, indices, protocol, advance)
            confusion, boundaries = (processes.sum(torch.from_numpy(one)).numpy() for one in counts)
            domains[name] = DomainResult.from_counts(
                confusion, boundaries, names=pipeline.labels.names, images=len(dataset)
            )
    return Report(protocol=protocol, views=views, domains=domains)


def _open(specs: Sequence[str | Dataset], label_space: LabelSpace, configs: Configs) -> dict[str, Dataset]:
    if isinstance(specs, (str, Dataset)) or not specs:
        raise ConfigError(f"evaluate: expected a list of dataset specs, got {specs!r}; write [SPEC, ...]")
    if isinstance(configs, Mapping):
        strange = [spec for spec in configs if spec not in specs]
        if strange:
            known = [spec for spec in specs if isinstance(spec, str)]
            raise ConfigError(f"configs: {strange[0]!r} is not among the datasets{did_you_mean(strange[0], known)}")
    datasets: dict[str, Dataset] = {}
    for spec in specs:
        dataset = spec if isinstance(spec, Dataset) else _open_spec(spec, label_space, configs)
        if dataset.label_space.names != label_space.names:
            raise ConfigError(
                f"{dataset.name}: has label space {dataset.label_space.name!r}, but the pipeline predicts "
                f"{label_space.name!r}; open it with label_space=pipeline.labels"
            )
        other, name = datasets.get(dataset.name), dataset.name
        if other is not None and isinstance(spec, str) and other.items != dataset.items:
            name = spec  # another folder of the same name
        if name in datasets:
            raise ConfigError(f"evaluate: dataset {dataset.name!r} is listed twice; list it once, or rename one")
        datasets[name] = dataset
    return datasets


def _open_spec(spec: str, label_space: LabelSpace, configs: Configs) -> Dataset:
    config = configs.get(spec) if isinstance(configs, Mapping) else configs
    return open_dataset(spec, label_space, config=config, default_split="val")


def _count(
    predict: Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]],
    dataset: Dataset,
    indices: Sequence[int],
    protocol: str,
    advance: Callable[[], None],
) -> tuple[np.ndarray, np.ndarray]:
    """Confusion and boundary counts over some images of a dataset."""
    classes = len(dataset.label_space)
    confusion, boundaries = np.zeros((classes, classes + 1), np.int64), np.zeros((classes, 3), np.int64)
    truths: deque[np.ndarray] = deque()  # of the images in progress

    def images() -> Iterator[np.ndarray]:
        for index in indices:
            image, truth = _read(dataset, protocol, index)
            truths.append(truth)
            yield image

    for index, labels in zip(indices, predict(images()), strict=True):
        truth = truths.popleft()
        folded = labels if dataset.fold is None else dataset.fold[labels]
        try:
            confusion += count_confusion(truth, folded, classes=classes)
        except DataError as error:
            raise DataError(f"{dataset.items[index].image}: {error}") from error
        boundaries += count_boundaries(truth, folded, classes=classes)
        advance()
    return confusion, boundaries


def _read(dataset: Dataset, protocol: str, index: int) -> Pair:
    image, truth = dataset.read(index)
    if protocol == "native":
        return image, truth
    name, most = str(dataset.items[index].image), dataset.max_pixels
    size = short_side_size(truth.shape[0], truth.shape[1], _PUBLISHED_SIDE, name=name, max_pixels=most)
    return _resize(image, size, Image.Resampling.BILINEAR), _resize(truth, size, Image.Resampling.NEAREST)


def _resize(
    pixels: UInt8[np.ndarray, "h w *c"], size: tuple[int, int], resample: Image.Resampling
) -> UInt8[np.ndarray, "hr wr *c"]:
    return np.array(Image.fromarray(pixels).resize((size[1], size[0]), resample))
