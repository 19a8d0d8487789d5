"""Evaluation of a pipeline on labelled datasets, one per domain."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from attrs import evolve, frozen
from jaxtyping import Int

from clouds.core.contract.labels import LabelSpace
from clouds.core.system.errors import ConfigError, DataError, did_you_mean
from clouds.core.system.images import upright_size
from clouds.core.system.progress import progress_bar
from clouds.data.folder import Dataset, Item, check_equal_sizes, open_dataset
from clouds.evaluation.confusion import class_iou, mean
from clouds.evaluation.counts import Counter, Counts, Predict, count_images, folded, read_pair
from clouds.evaluation.examples import Example, Examples, PerImage, ranked
from clouds.evaluation.protocols import check_classes, classes_of, find_benchmark, find_protocol
from clouds.evaluation.report import DomainResult, Report
from clouds.evaluation.views import Predictor, Views

if TYPE_CHECKING:
    from clouds.core.system.processes import Processes
    from clouds.evaluation.pairs import Pairs

_WINDOW = 2048

Configs = Mapping[str, str | os.PathLike[str]] | str | os.PathLike[str] | None
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
    analysis: bool = False,
    calibration: bool = False,
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
        analysis: also measure accuracy by size of region and by distance from boundaries, and keep the worst, median
            and best images of each domain for the page; see `clouds.evaluation.analysis`.
        calibration: also compare confidence with accuracy; it computes the scores of each image, see
            `clouds.evaluation.calibration`.
        configs: a `dataset.toml` for all datasets, or one per SPEC; it replaces the datasets' own.
        progress: show a progress bar on standard error if it is a terminal.

    Raises:
        ConfigError: the protocol, the benchmark, the class set, a scale, the batch size, a SPEC or a configuration is
            invalid, the protocol has its own windows, or a dataset is listed twice.
        DataError: a file cannot be used, or is too large after resizing; the message names it.
    """
    settings = Settings.make(
        protocol,
        benchmark=benchmark,
        classes=classes,
        scales=scales,
        flip=flip,
        window=window,
        batch_size=batch_size,
        analysis=analysis,
        calibration=calibration,
    )
    datasets = open_datasets(chosen_specs(specs, benchmark, data_root), pipeline.labels, configs)
    return settings.evaluate(pipeline, datasets, progress=progress)


@frozen(kw_only=True)
class Settings:
    """How to evaluate: protocol, views, class set, batch size, and what to measure besides; all checked."""

    protocol: str
    views: Views
    classes: str = ""
    batch_size: int = 1
    analysis: bool = False
    calibration: bool = False

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
        analysis: bool = False,
        calibration: bool = False,
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
        return cls(
            protocol=name,
            views=views,
            classes=classes,
            batch_size=batch_size,
            analysis=analysis,
            calibration=calibration,
        )

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
        from clouds.core.system.processes import Processes

        self.check(datasets, pipeline.labels)
        processes = Processes.current()
        domains: dict[str, DomainResult] = {}
        with progress_bar(shown=progress and processes.main) as bar:
            task = bar.add_task("evaluate", total=sum(len(dataset) for dataset in datasets.values()))
            for name, dataset in datasets.items():
                advance = partial(bar.update, task, advance=processes.world, description=name)
                domains[name] = self._evaluate_domain(pipeline, dataset, processes, advance)
        report = Report(protocol=self.protocol, views=self.views, classes=self.classes, domains=domains)
        if not (self.analysis and processes.main):
            return report
        chosen = {name: ranked(result.per_image) for name, result in domains.items()}
        scores = {"prediction": report.per_image}
        return evolve(report, examples=self.examples([("prediction", pipeline)], scores, datasets, chosen))

    def confusions(self, pipeline: Predictor, dataset: Dataset) -> Int[np.ndarray, "n k k+1"]:
        """Confusion counts of each image, in the order of `dataset.items`; this process segments them all."""
        everything, predict = range(len(dataset)), self._predict(pipeline, dataset)
        counts = count_images(predict, dataset, everything, self.protocol, Counter(classes=len(dataset.label_space)))
        return np.stack([one["confusion"] for one in counts])

    def examples(
        self,
        pipelines: Iterable[tuple[str, Predictor]],
        scores: Mapping[str, Mapping[str, PerImage]],
        datasets: Mapping[str, Dataset],
        chosen: Mapping[str, Sequence[tuple[int, str]]],
    ) -> Examples:
        """Segment chosen images once more.

        Args:
            pipelines: each by its name, one after the other.
            scores: mIoU of each image by domain, by name of the pipeline.
            datasets: by domain.
            chosen: by domain, the index of each image in its dataset, and why it was chosen.
        """
        pairs = {
            name: [read_pair(dataset, self.protocol, index) for index, _ in chosen[name]]
            for name, dataset in datasets.items()
        }
        plain, labels = evolve(self, calibration=False), dict[str, dict[str, list[np.ndarray]]]()
        for model, pipeline in pipelines:
            labels[model] = {
                name: [
                    folded(one, dataset).labels for one in plain._predict(pipeline, dataset)(i for i, _ in pairs[name])
                ]
                for name, dataset in datasets.items()
            }
        return {
            name: tuple(
                Example.of(
                    *pairs[name][place],
                    {model: maps[name][place] for model, maps in labels.items()},
                    name=(item := dataset.items[index].name),
                    why=why,
                    scores={model: scores[model][name][item] for model in labels},
                    label_space=dataset.label_space,
                )
                for place, (index, why) in enumerate(chosen[name])
            )
            for name, dataset in datasets.items()
        }

    def _evaluate_domain(
        self, pipeline: Predictor, dataset: Dataset, processes: Processes, advance: Callable[[], None]
    ) -> DomainResult:
        import torch

        counter = Counter(classes=len(dataset.label_space), analysis=self.analysis, calibration=self.calibration)
        rows = [dataset.label_space.names.index(name) for name in classes_of(self.classes, dataset.label_space.names)]
        indices, own = processes.share(range(len(dataset))), list[float | None]()

        def images() -> Iterator[Counts]:
            predict = self._predict(pipeline, dataset)
            for counts in count_images(predict, dataset, indices, self.protocol, counter):
                ious = class_iou(counts["confusion"])
                own.append(mean([ious[row] for row in rows]))
                yield counts
                advance()

        sums = {name: processes.sum(torch.from_numpy(one)).numpy() for name, one in counter.total(images()).items()}
        scores: dict[int, float | None] = {}
        for part in processes.gather(dict(zip(indices, own, strict=True))):
            scores |= part
        return DomainResult.from_counts(
            **sums,
            names=dataset.label_space.names,
            images=len(dataset),
            per_image={item.name: scores[index] for index, item in enumerate(dataset.items)},
            classes=self.classes,
        )

    def _predict(self, pipeline: Predictor, dataset: Dataset) -> Predict:
        found, options = find_protocol(self.protocol), {"batch_size": self.batch_size, "confidences": self.calibration}
        if found.side is None:
            return partial(self.views.predict_many, pipeline, **options)
        from clouds.evaluation.slide import predict_sliding  # imports torch

        return partial(predict_sliding, found, self.views, dataset.spec.kind, pipeline, **options)


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
