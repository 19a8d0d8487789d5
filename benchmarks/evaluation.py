"""Overhead of `clouds.evaluate` beyond the model, on images and labels of the procedural generator.

The model alone (backbone, head, and merging of masks into labels) segments the same decoded images. Both alternate in
each round, so that other load affects both; the overhead is their ratio. So is the cost of calibration, from an
evaluation with it in the same round. Further rows time the parts: reading a pair of files, which the evaluation does in
a parallel thread, and counting.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import frozen

import clouds
from benchmarks.rows import row
from clouds.core.contract.records import GenerationRequest
from clouds.core.system.images import write_png
from clouds.data.folder import Dataset, open_dataset
from clouds.evaluation.boundary import count_boundaries
from clouds.evaluation.confusion import count_confusion
from clouds.generators.procedural import ProceduralGenerator

PROMPTS = ("a busy road in daylight", "a quiet street at night", "a highway in the rain", "a village road in fog")


@frozen(kw_only=True)
class Load:
    """Amount of work: `images` of `size` (height, width) pixels in each of `rounds`, for each backbone."""

    backbones: tuple[str, ...] = ("tiny", "clip-rn50")
    size: tuple[int, int] = (512, 1024)
    images: int = 8
    rounds: int = 7


def run(load: Load | None = None) -> list[dict[str, Any]]:
    """Rows of seconds per image for the evaluation and for the model alone, of the overhead, and of the parts."""
    load = load or Load()
    with tempfile.TemporaryDirectory() as name:
        write_files(Path(name), load)
        return [one for backbone in load.backbones for one in _measure(backbone, Path(name), load)]


def write_files(folder: Path, load: Load) -> None:
    """Write a dataset of street scenes with exact labels, as PNG."""
    requests = [
        GenerationRequest(prompt=PROMPTS[index % len(PROMPTS)], seed=index, size=load.size)
        for index in range(load.images)
    ]
    for index, made in enumerate(ProceduralGenerator().generate(requests)):
        write_png(folder / "images" / "val" / f"{index}.png", made.image)
        assert made.labels is not None, "this generator knows what it draws"
        write_png(folder / "labels" / "val" / f"{index}.png", made.labels)


def _measure(backbone: str, folder: Path, load: Load) -> list[dict[str, Any]]:
    pipeline = clouds.compose(backbone=backbone, head="mask2former", pretrained=False)
    pipeline.trained = True  # only speed matters here
    dataset = open_dataset(f"folder:{folder}", pipeline.labels)
    pictures = [dataset.read_image(index) for index in range(load.images)]
    runs: dict[str, Callable[[], object]] = {
        "evaluation": lambda: clouds.evaluate(pipeline, [dataset]),
        "model alone": lambda: segment_all(pipeline, pictures),
        "evaluation with calibration": lambda: clouds.evaluate(pipeline, [dataset], calibration=True),
    }
    times: dict[str, list[float]] = {metric: [] for metric in runs}
    for repeat in runs.values():
        repeat()
    for _ in range(load.rounds):
        for metric, repeat in runs.items():
            times[metric].append(_seconds(repeat) / load.images)
    rounds = list(zip(*times.values(), strict=True))
    beyond = [100 * (all_of_it / model - 1) for all_of_it, model, _ in rounds]
    calibration = [calibrated / all_of_it for all_of_it, _, calibrated in rounds]
    facts = {"shape": list(load.size), "images": load.images}
    provider = f"{backbone}+mask2former"
    return [
        *(row("evaluation", provider, metric, "s/image", values, **facts) for metric, values in times.items()),
        row("evaluation", provider, "evaluation beyond the model", "%", beyond, **facts),
        row("evaluation", provider, "calibration, times the evaluation", "x", calibration, **facts),
        *(
            row("evaluation", provider, part, "ms/image", values, **facts)
            for part, values in _parts(pipeline, dataset).items()
        ),
    ]


@torch.inference_mode()
def segment_all(pipeline: clouds.Pipeline, pictures: list[np.ndarray]) -> list[np.ndarray]:
    """Label maps of decoded images, computed by the model's parts only."""
    pipeline.backbone.eval()
    pipeline.head.eval()
    answers: list[np.ndarray] = []
    for picture in pictures:
        image = torch.from_numpy(picture).to(pipeline.device).permute(2, 0, 1)
        output, size = pipeline.forward([image]).image(0), (picture.shape[0], picture.shape[1])
        answers.append(pipeline.head.segment(output, size, size).cpu().numpy())
    return answers


def _parts(pipeline: clouds.Pipeline, dataset: Dataset) -> dict[str, list[float]]:
    """Milliseconds per image, by part."""
    times: dict[str, list[float]] = {"reading": [], "counting confusion": [], "counting boundaries": []}
    classes = len(pipeline.labels)
    for index in range(len(dataset)):
        image, truth = dataset.read(index)
        labels = pipeline.predict(image).labels
        parts: tuple[Callable[[], object], ...] = (
            lambda index=index: dataset.read(index),
            lambda truth=truth, labels=labels: count_confusion(truth, labels, classes=classes),
            lambda truth=truth, labels=labels: count_boundaries(truth, labels, classes=classes),
        )
        for values, part in zip(times.values(), parts, strict=True):
            values.append(1000 * _seconds(part))
    return times


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
