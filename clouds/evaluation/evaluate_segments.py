"""Evaluation of panoptic and instance segmentation, one domain per dataset."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch

from clouds.core.contract.interfaces import capabilities
from clouds.core.contract.labels import LabelSpace
from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.pipeline.prediction import Prediction
from clouds.core.system.errors import ConfigError
from clouds.core.system.processes import Processes
from clouds.core.system.progress import progress_bar
from clouds.data.folder import Dataset
from clouds.data.spec import lacks_instances
from clouds.evaluation.average_precision import (
    TOP,
    Annotation,
    average_precision,
    found_instances,
    true_instances,
)
from clouds.evaluation.evaluate import Configs, open_datasets
from clouds.evaluation.panoptic_quality import count_segments
from clouds.evaluation.segment_report import SegmentReport, SegmentScores

_WHOLE = 2**31  # side of a window that no image exceeds: masks end at the edges of windows
Measured = tuple[np.ndarray, list[Annotation], list[Annotation]]  # counts of PQ; true and found instances


def evaluate_segments(
    pipeline: Pipeline,
    specs: Sequence[str | Dataset],
    *,
    short_side: int | None = None,
    object_mask_threshold: float = 0.8,
    overlap_threshold: float = 0.8,
    batch_size: int = 1,
    configs: Configs = None,
    progress: bool = False,
) -> SegmentReport:
    """Panoptic quality (PQ, SQ, RQ) of panoptic segments, and average precision (AP, AP50) of instances.

    Images are segmented in one piece, and scored at their own size. Under torchrun, all processes call this function,
    each segments its share of the images, and all return the same report.

    Args:
        pipeline: a composed or loaded pipeline, whose head separates instances.
        specs: SPECs of kinds whose label files number instances (default split: the only one, or "val"), or datasets.
        short_side: resize the short side to this many pixels before the network; None keeps the image's size.
        object_mask_threshold, overlap_threshold: see `Prediction.panoptic`.
        batch_size: images per forward pass; see `Pipeline.predict_many`.
        configs: a `dataset.toml` for all datasets, or one per SPEC; it replaces the datasets' own.
        progress: show a progress bar on standard error if it is a terminal.

    Raises:
        ConfigError: the head predicts one mask per class, a threshold or SPEC is invalid, label files number no
            instances, or a dataset has a fold.
        DataError: a file cannot be used; the message names it.
    """
    if "instances" not in capabilities(pipeline.head):
        raise ConfigError(
            f"evaluate_segments: head {type(pipeline.head).__name__} predicts one mask per class, so instances cannot "
            "be told apart; train a pipeline with head=mask2former or eomt"
        )
    datasets = open_segment_datasets(specs, pipeline.labels, configs)
    thresholds = {"object_mask_threshold": object_mask_threshold, "overlap_threshold": overlap_threshold}
    predict = partial(pipeline.predict_many, batch_size=batch_size, short_side=short_side, window=_WHOLE)
    processes, domains = Processes.current(), dict[str, SegmentScores]()
    with progress_bar(shown=progress and processes.main) as bar:
        task = bar.add_task("evaluate", total=sum(len(dataset) for dataset in datasets.values()))
        for name, dataset in datasets.items():
            advance = partial(bar.update, task, advance=processes.world, description=name)
            indices = processes.share(range(len(dataset)))
            found = _measure(predict, dataset, indices, thresholds, advance)
            domains[name] = _scores(found, dataset, processes)
    size = "their own size" if short_side is None else f"short side {short_side}"
    words = f"images at {size}; mask threshold {object_mask_threshold:g}, overlap threshold {overlap_threshold:g}"
    return SegmentReport(settings=f"{words}; AP with {TOP} instances per image", domains=domains)


def open_segment_datasets(
    specs: Sequence[str | Dataset], label_space: LabelSpace, configs: Configs
) -> dict[str, Dataset]:
    """Datasets by domain name, all of which number instances. Raises `ConfigError` and `DataError` as above."""
    datasets = open_datasets(specs, label_space, configs)
    for name, dataset in datasets.items():
        if dataset.segment_files is None:
            raise ConfigError(f"evaluate_segments: {dataset.spec}: {lacks_instances(dataset.spec.kind)}")
        if dataset.fold is not None:
            raise ConfigError(f"evaluate_segments: {name} has a [fold], which joins classes but not their segments")
    return datasets


def _measure(
    predict: Callable[[Iterator[np.ndarray]], Iterator[Prediction]],
    dataset: Dataset,
    indices: Sequence[int],
    thresholds: dict[str, float],
    advance: Callable[[], None],
) -> Measured:
    """Counts over some images of a dataset, and their instances."""
    labels, truths = dataset.label_space, deque[np.ndarray]()  # truths of the images in progress
    counts, truth, found = np.zeros((len(labels), 4)), list[Annotation](), list[Annotation]()

    def images() -> Iterator[np.ndarray]:
        for index in indices:
            image, segments = dataset.read_segments(index)
            truths.append(segments)
            yield image

    for index, prediction in zip(indices, predict(images()), strict=True):
        segments, panoptic = truths.popleft(), prediction.panoptic(**thresholds)
        counts += count_segments(segments, panoptic.segments, [one.label for one in panoptic.infos], labels)
        if any(labels.things):
            truth += true_instances(segments, labels, image=index)
            found += found_instances(prediction.instances(top=TOP), image=index)
        advance()
    return counts, truth, found


def _scores(found: Measured, dataset: Dataset, processes: Processes) -> SegmentScores:
    """The scores of what all processes found."""
    counts = processes.sum(torch.from_numpy(found[0])).numpy()
    shares = processes.gather(found[1:])
    truth, predicted = (
        sorted((one for share in shares for one in share[part]), key=lambda one: one["image_id"]) for part in (0, 1)
    )
    images, classes = len(dataset), len(dataset.label_space)
    precision = average_precision(truth, predicted, images=images, classes=classes)
    return SegmentScores.of(counts, precision, dataset.label_space, images=images)
