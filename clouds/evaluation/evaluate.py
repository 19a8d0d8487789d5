"""Evaluation of a pipeline on labelled datasets, one domain each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from clouds.core.errors import ConfigError, DataError, did_you_mean
from clouds.core.labels import LabelSpace
from clouds.core.progress import progress_bar
from clouds.data.folder import Dataset, open_dataset
from clouds.evaluation.confusion import count_confusion
from clouds.evaluation.report import DomainResult, Report, check_protocol

_PUBLISHED_SIDE = 1024

Configs = Mapping[str, str | os.PathLike[str]] | str | os.PathLike[str] | None


@runtime_checkable
class _Prediction(Protocol):
    @property
    def labels(self) -> np.ndarray: ...


@runtime_checkable
class Predictor(Protocol):
    """What is evaluated: a `clouds.Pipeline`, or anything that predicts like one."""

    @property
    def labels(self) -> LabelSpace: ...

    def predict(self, image: np.ndarray, *, short_side: int | None = None) -> _Prediction: ...


def evaluate(
    pipeline: Predictor,
    specs: Sequence[str | Dataset],
    *,
    protocol: str = "native",
    configs: Configs = None,
    progress: bool = False,
) -> Report:
    """Segment datasets and compare with their labels.

    Among several processes (torchrun) each segments its share of the images; all of them call this, and all get the
    same report, with the counts of one process.

    Args:
        pipeline: a composed or loaded pipeline.
        specs: dataset specs such as "folder:PATH:val" (without a split: the only one, or "val"), or open datasets.
        protocol: "native" (each image at its own size, scored at the size of its label) or "published" (image and
            label resized to a short side of 1024, without a limit on the long side, scored at that size).
        configs: a `dataset.toml` for all specs, or one by spec, in place of the datasets' own.
        progress: show a progress bar on standard error, when that is a terminal.

    Raises:
        ConfigError: the protocol, a spec or a configuration is wrong, or two datasets are one.
        DataError: a file cannot be used; the message names it.
    """
    import torch

    from clouds.core.processes import Processes

    check_protocol(protocol)
    processes = Processes.current()
    datasets = _open(specs, pipeline.labels, configs)
    domains: dict[str, DomainResult] = {}
    with progress_bar(shown=progress and processes.main) as bar:
        task = bar.add_task("evaluate", total=sum(len(dataset) for dataset in datasets.values()))
        for name, dataset in datasets.items():
            counts = np.zeros((len(pipeline.labels), len(pipeline.labels) + 1), np.int64)
            for index in processes.share(range(len(dataset))):
                counts += _score(pipeline, dataset, index, protocol)
                bar.update(task, advance=processes.world, description=name)
            counts = processes.sum(torch.from_numpy(counts)).numpy()
            domains[name] = DomainResult.from_counts(counts, names=pipeline.labels.names, images=len(dataset))
    return Report(protocol=protocol, domains=domains)


def short_side_size(height: int, width: int, side: int) -> tuple[int, int]:
    """(height, width) with the short side at `side` and the same aspect, rounded as published: half goes up.

    >>> short_side_size(1052, 1914, 1024)
    (1024, 1863)
    """
    scale = side / min(height, width)
    return (side, int(width * scale + 0.5)) if height < width else (int(height * scale + 0.5), side)


def _open(specs: Sequence[str | Dataset], labels: LabelSpace, configs: Configs) -> dict[str, Dataset]:
    if isinstance(specs, (str, Dataset)) or not specs:
        raise ConfigError(f"evaluate: expected a list of dataset specs, got {specs!r}; write [SPEC, ...]")
    if isinstance(configs, Mapping):
        strange = [spec for spec in configs if spec not in specs]
        if strange:
            known = [spec for spec in specs if isinstance(spec, str)]
            raise ConfigError(f"configs: {strange[0]!r} is not among the datasets{did_you_mean(strange[0], known)}")
    datasets: dict[str, Dataset] = {}
    for spec in specs:
        dataset = spec if isinstance(spec, Dataset) else _open_spec(spec, labels, configs)
        if dataset.labels.names != labels.names:
            raise ConfigError(
                f"{dataset.name}: has label space {dataset.labels.name!r}, but the pipeline predicts {labels.name!r}; "
                "open it with labels=pipeline.labels"
            )
        other, name = datasets.get(dataset.name), dataset.name
        if other is not None and isinstance(spec, str) and other.items != dataset.items:
            name = spec  # another folder of the same name
        if name in datasets:
            raise ConfigError(f"evaluate: dataset {dataset.name!r} is there twice; give it once, or another name")
        datasets[name] = dataset
    return datasets


def _open_spec(spec: str, labels: LabelSpace, configs: Configs) -> Dataset:
    config = configs.get(spec) if isinstance(configs, Mapping) else configs
    return open_dataset(spec, labels, config=config, default_split="val")


def _score(pipeline: Predictor, dataset: Dataset, index: int, protocol: str) -> np.ndarray:
    image, truth = dataset.read(index)
    if protocol == "published":
        size = short_side_size(truth.shape[0], truth.shape[1], _PUBLISHED_SIDE)
        image = _resize(image, size, Image.Resampling.BILINEAR)
        truth = _resize(truth, size, Image.Resampling.NEAREST)
    labels = pipeline.predict(image, short_side=None).labels
    folded = labels if dataset.fold is None else dataset.fold[labels]
    try:
        return count_confusion(truth, folded, classes=len(dataset.labels))
    except DataError as error:
        raise DataError(f"{dataset.items[index].image}: {error}") from error


def _resize(
    pixels: UInt8[np.ndarray, "h w *c"], size: tuple[int, int], resample: Image.Resampling
) -> UInt8[np.ndarray, "hr wr *c"]:
    return np.array(Image.fromarray(pixels).resize((size[1], size[0]), resample))
