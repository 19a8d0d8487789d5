"""Evaluation of a pipeline on labelled datasets, one per domain."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from attrs import frozen
from jaxtyping import Int, UInt8
from PIL import Image

from clouds.core.contract.labels import LabelSpace
from clouds.core.system.errors import ConfigError, DataError, did_you_mean
from clouds.core.system.images import short_side_size, upright_size
from clouds.core.system.progress import progress_bar
from clouds.data.folder import Dataset, Item, check_equal_sizes, open_dataset
from clouds.evaluation.boundary import count_boundaries
from clouds.evaluation.confusion import count_confusion
from clouds.evaluation.protocols import check_classes, find_benchmark, find_protocol
from clouds.evaluation.report import DomainResult, Report
from clouds.evaluation.views import Predictor, Views

if TYPE_CHECKING:
    from clouds.evaluation.pairs import Pairs

_WINDOW = 2048

Configs = Mapping[str, str | os.PathLike[str]] | str | os.PathLike[str] | None
Pair = tuple[np.ndarray, np.ndarray]
_Spec = TypeVar("_Spec")


def evaluate(
    pipeline: Predictor,
    specs: Sequence[str | Dataset | Pairs] = (),
    *,
    protocol: str | None = None,
    benchmark: str | None = None,
    data_root: str | os.PathLike[str] = ".",
    classes: str | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    window: int | None = None,
    batch_size: int = 1,
    configs: Configs = None,
    progress: bool = False,
) -> Report:
    """Segment datasets and compare the predictions with their labels.

    Under torchrun, all processes call this function, each segments its share of the images, and all return the same
    report of all images.

    Args:
        pipeline: a composed or loaded pipeline.
        specs: SPECs such as "folder:PATH:val" (default split: the only one, or "val"), open datasets, or torch Datasets
            of pairs (image, label map), see `clouds.evaluation.pairs.Pairs`.
        protocol: a name of `clouds list protocols`; default: the benchmark's, or "native" (each image at its own size,
            scored at the size of its label).
        benchmark: a name of `clouds list benchmarks`, in place of `specs`; it also sets protocol and classes.
        data_root: folder with the datasets of a benchmark.
        classes: class set of the means: "cityscapes-19", "synthia-16", "synthia-13"; default: the benchmark's, or all.
        scales: test-time augmentation: average the scores of the image at these sizes, relative to the protocol's.
        flip: test-time augmentation: also average with the scores of the mirror images.
        window: images of more than window x window pixels are segmented in overlapping windows of that side; default:
            2048. Only protocols without windows of their own take it: "native" and "clouds-1024".
        batch_size: images, or sliding windows, per forward pass; see `Pipeline.predict_many`.
        configs: a `dataset.toml` for all datasets, or one per SPEC; it replaces the datasets' own.
        progress: show a progress bar on standard error if it is a terminal.

    Raises:
        ConfigError: the protocol, the benchmark, the class set, a scale, the batch size, a SPEC or a configuration is
            invalid, the protocol has its own windows, or a dataset is listed twice.
        DataError: a file cannot be used, or is too large after resizing; the message names it.
    """
    settings = Settings.make(
        protocol, benchmark=benchmark, classes=classes, scales=scales, flip=flip, window=window, batch_size=batch_size
    )
    datasets = open_datasets(chosen_specs(specs, benchmark, data_root), pipeline.labels, configs)
    return settings.evaluate(pipeline, datasets, progress=progress)


@frozen(kw_only=True)
class Settings:
    """How to evaluate: protocol, views, class set, batch size; all checked."""

    protocol: str
    views: Views
    classes: str = ""
    batch_size: int = 1

    @classmethod
    def make(
        cls,
        protocol: str | None = None,
        *,
        benchmark: str | None = None,
        classes: str | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        window: int | None = None,
        batch_size: int = 1,
    ) -> Settings:
        """Settings from the arguments of `evaluate`. Raises `ConfigError` for invalid or contradictory ones."""
        setting = find_benchmark(benchmark) if benchmark else None
        name = protocol or (setting.protocol if setting else "native")
        found = find_protocol(name)
        own = found.whole or found.side is not None
        if own and window is not None:
            raise ConfigError(
                f"window={window} contradicts protocol {name!r} ({found}); omit it, or choose protocol native"
            )
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; expected at least 1 image")
        default = None if own else _WINDOW
        views = Views(scales=scales, flip=flip, window=default if window is None else window)
        classes = classes if classes is not None else (setting.classes if setting else "")
        return cls(protocol=name, views=views, classes=classes, batch_size=batch_size)

    def check(self, datasets: Mapping[str, Dataset], label_space: LabelSpace) -> None:
        """Check that the class set and the protocol fit, from the headers of image and label files.

        Raises:
            ConfigError: the label space lacks a class of the class set.
            DataError: a label has another size than its image.
        """
        check_classes(self.classes, label_space)
        for dataset in datasets.values():
            for item in dataset.items:
                _check_item(item, dataset.max_pixels, self.protocol)

    def evaluate(self, pipeline: Predictor, datasets: Mapping[str, Dataset], *, progress: bool = False) -> Report:
        """See `evaluate`; `datasets` are those of `open_datasets`."""
        import torch

        from clouds.core.system.processes import Processes

        self.check(datasets, pipeline.labels)
        processes = Processes.current()
        domains: dict[str, DomainResult] = {}
        with progress_bar(shown=progress and processes.main) as bar:
            task = bar.add_task("evaluate", total=sum(len(dataset) for dataset in datasets.values()))
            for name, dataset in datasets.items():
                advance = partial(bar.update, task, advance=processes.world, description=name)
                indices = processes.share(range(len(dataset)))
                counts = _count(self._predict(pipeline, dataset), dataset, indices, self.protocol, advance)
                confusion, boundaries = (processes.sum(torch.from_numpy(one)).numpy() for one in counts)
                names, images = pipeline.labels.names, len(dataset)
                domains[name] = DomainResult.from_counts(
                    confusion, boundaries, names=names, images=images, classes=self.classes
                )
        return Report(protocol=self.protocol, views=self.views, classes=self.classes, domains=domains)

    def confusions(self, pipeline: Predictor, dataset: Dataset) -> Int[np.ndarray, "n k k+1"]:
        """Confusion counts of each image, in the order of `dataset.items`; this process segments them all."""
        counts = _count_images(self._predict(pipeline, dataset), dataset, range(len(dataset)), self.protocol)
        return np.stack([confusion for confusion, _ in counts])

    def _predict(self, pipeline: Predictor, dataset: Dataset) -> Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]]:
        found = find_protocol(self.protocol)
        if found.side is None:
            return partial(self.views.predict_many, pipeline, batch_size=self.batch_size)
        from clouds.evaluation.slide import predict_sliding  # imports torch

        return partial(predict_sliding, found, self.views, dataset.spec.kind, pipeline, batch_size=self.batch_size)


def chosen_specs(
    specs: Sequence[_Spec], benchmark: str | None, data_root: str | os.PathLike[str]
) -> Sequence[_Spec | str]:
    """The datasets to evaluate: those listed, or those of a benchmark.

    Raises:
        ConfigError: both are given, or the benchmark is unknown.
        DataError: a dataset of the benchmark has no folder.
    """
    if benchmark is None:
        return specs
    found = find_benchmark(benchmark)
    if specs:
        raise ConfigError(f"benchmark {benchmark!r} has its own datasets; omit it, or the list of datasets")
    return found.specs(Path(data_root))


def open_datasets(
    specs: Sequence[str | Dataset | Pairs], label_space: LabelSpace, configs: Configs
) -> dict[str, Dataset]:
    """Datasets by domain name. Raises `ConfigError` and `DataError` as `evaluate` does."""
    if isinstance(specs, (str, Dataset)) or not isinstance(specs, Sequence) or not specs:
        raise ConfigError(f"evaluate: expected a list of dataset specs, got {specs!r}; write [SPEC, ...]")
    if isinstance(configs, Mapping):
        strange = [spec for spec in configs if spec not in specs]
        if strange:
            known = [spec for spec in specs if isinstance(spec, str)]
            raise ConfigError(f"configs: {strange[0]!r} is not among the datasets{did_you_mean(strange[0], known)}")
    datasets: dict[str, Dataset] = {}
    for spec in specs:
        dataset = _open(spec, label_space, configs)
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


def _open(spec: str | Dataset | Pairs, label_space: LabelSpace, configs: Configs) -> Dataset:
    if isinstance(spec, Dataset):
        return spec
    if not isinstance(spec, str):
        from clouds.evaluation.pairs import PairDataset  # imports torch

        return PairDataset.of(spec, label_space)
    config = configs.get(spec) if isinstance(configs, Mapping) else configs
    return open_dataset(spec, label_space, config=config, default_split="val")


def _check_item(item: Item, max_pixels: int, protocol: str) -> None:
    """Raise `DataError` if image and label differ in size; unreadable files are reported when they are read."""
    if item.label is None:
        return
    try:
        image, label = (upright_size(path, max_pixels=max_pixels) for path in (item.image, item.label))
    except DataError:
        return
    try:
        check_equal_sizes(item, image, label)
    except DataError as error:
        raise DataError(f"protocol {protocol!r} does not fit: {error}") from error


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
    for counts in _count_images(predict, dataset, indices, protocol):
        confusion += counts[0]
        boundaries += counts[1]
        advance()
    return confusion, boundaries


def _count_images(
    predict: Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]],
    dataset: Dataset,
    indices: Sequence[int],
    protocol: str,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Confusion and boundary counts of each image."""
    classes = len(dataset.label_space)
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
            confusion = count_confusion(truth, folded, classes=classes)
        except DataError as error:
            raise DataError(f"{dataset.items[index].image}: {error}") from error
        yield confusion, count_boundaries(truth, folded, classes=classes)


def _read(dataset: Dataset, protocol: str, index: int) -> Pair:
    image, truth = dataset.read(index)
    side = find_protocol(protocol).short_side
    if side is None:
        return image, truth
    name, most = str(dataset.items[index].image), dataset.max_pixels
    size = short_side_size(truth.shape[0], truth.shape[1], side, name=name, max_pixels=most)
    return _resize(image, size, Image.Resampling.BILINEAR), _resize(truth, size, Image.Resampling.NEAREST)


def _resize(
    pixels: UInt8[np.ndarray, "h w *c"], size: tuple[int, int], resample: Image.Resampling
) -> UInt8[np.ndarray, "hr wr *c"]:
    return np.array(Image.fromarray(pixels).resize((size[1], size[0]), resample))
