"""Refiners on a teacher's labels of photographs: regions, boundaries and classes before and after.

Teacher: a linear head on frozen EfficientNet-Lite2 (`plugins/clouds-efficientnet-lite`), after a warm-up on renders of
a driving simulator. Photographs: CamVid's training pictures. Their true labels are read for this measurement alone.
No teacher sees them.

    python -m benchmarks.refinement --data DIR --out DIR [--seeds 0 1 2]

`--data` has `carla_town07`, `carla_mix` and `camvid`; `--out` keeps the teachers, one per seed, so that a repeated call
trains only missing ones. Of 100 evenly spaced pictures, 40 are measured. Every fifth, none of which is among them, had
chosen the options of `guided` and of the peers with seed 0. Peers are methods of other libraries
(`benchmarks/relabel.py`); those that are not installed are left out. Rows are appended to
`benchmarks/results/refinement.jsonl`, seed by seed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import define, field
from jaxtyping import Int

import clouds
from benchmarks.generalization import FOLD
from benchmarks.refiners import band_accuracy
from benchmarks.relabel import Method, Picture, methods
from benchmarks.rows import append, row
from clouds.core.contract.labels import LabelSpace
from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.system.config import to_toml
from clouds.core.system.files import write_text
from clouds.data.folder import Dataset, open_dataset
from clouds.evaluation.boundary import boundary_iou, count_boundaries
from clouds.evaluation.confusion import class_iou, count_confusion, mean, mean_iou, pixel_accuracy

NAME = "refinement"
MEAN, TIME = "mIoU", "time per picture"
BAND = 4  # pixels
RECIPE = {
    "extends": "folder",
    "data": {"source_factors": [1.0, 34.0], "scale": [1.5, 3.0]},
    "warmup": {"steps": 300},
}


@define(eq=False)
class Counts:
    """What one method did to the pictures of one teacher, summed over pictures.

    Attributes:
        names: classes.
        confusion: see `clouds.evaluation.confusion`.
        boundaries: see `clouds.evaluation.boundary`.
        near: per picture, share of right pixels near edges, in percent.
        seconds: CPU time per picture.
    """

    names: Sequence[str]
    confusion: Int[np.ndarray, "k k+1"] | int = 0
    boundaries: Int[np.ndarray, "k 3"] | int = 0
    near: list[float] = field(factory=list)
    seconds: list[float] = field(factory=list)

    def add(self, labels: np.ndarray, truth: np.ndarray, seconds: float) -> None:
        """Count one picture."""
        self.confusion = self.confusion + count_confusion(truth, labels, classes=len(self.names))
        self.boundaries = self.boundaries + count_boundaries(truth, labels, classes=len(self.names))
        self.near.append(band_accuracy(labels, truth, BAND))
        self.seconds.append(seconds)

    def metrics(self) -> dict[str, float]:
        """Metrics by name, in percent."""
        confusion, boundaries = np.asarray(self.confusion), np.asarray(self.boundaries)
        found = {
            MEAN: mean_iou(confusion),
            "right pixels": pixel_accuracy(confusion),
            "boundary IoU": mean(boundary_iou(boundaries)),
            f"right within {BAND} px of an edge": np.mean(self.near),
            "ignored": 100 * confusion[:, -1].sum() / confusion.sum(),
        }
        return {name: float(value) for name, value in found.items() if value is not None}

    def classes(self) -> dict[str, float]:
        """IoU of the classes of the truth, in percent."""
        ious = zip(self.names, class_iou(np.asarray(self.confusion)), strict=True)
        return {name: round(iou, 2) for name, iou in ious if iou is not None}


def run(data: Path, out: Path, seed: int, spaced: int = 100) -> list[dict[str, Any]]:
    """Rows of all methods on the labels of one teacher; `spaced` is that of `measured_places`."""
    pipeline = teacher(data, out / f"seed-{seed}", seed)
    dataset = photographs(data, out, pipeline.labels)
    places = measured_places(len(dataset), spaced)
    measured = measure(pipeline, dataset, places, methods())
    facts = {"seed": seed, "pictures": len(places), "steps": RECIPE["warmup"]["steps"]}
    return [one for name, counts in measured.items() for one in _rows(name, counts, facts)]


def teacher(data: Path, folder: Path, seed: int) -> Pipeline:
    """The pipeline after the warm-up: trained, continued or loaded."""
    if (folder / "warmup" / "plan.json").is_file():
        return clouds.load(folder / "warmup")
    if (folder / "checkpoint.pt").is_file():
        pipeline = clouds.load(folder / "start")
        clouds.train(pipeline, resume=folder)
        return pipeline
    torch.manual_seed(seed)
    pipeline = clouds.compose(backbone="efficientnet-lite2", head="linear", refiner="regions")
    source = [f"folder:{data / name}:train" for name in ("carla_town07", "carla_mix")]
    clouds.train(pipeline, source=source, recipe={**RECIPE, "seed": seed}, phase="warmup", out=folder)
    return pipeline


def photographs(data: Path, out: Path, labels: LabelSpace) -> Dataset:
    """The photographs, with the fold of their 11 classes."""
    config = out / "camvid.toml"
    write_text(config, to_toml({"fold": FOLD}))
    return open_dataset(f"folder:{data / 'camvid'}:train", labels, config=config)


def measured_places(length: int, spaced: int) -> list[int]:
    """Places of the measured pictures: the third and fourth of each five of `spaced` evenly spaced ones."""
    places = np.linspace(0, length - 1, spaced).round().astype(int)
    return [place for position, place in enumerate(places.tolist()) if position % 5 in (2, 3)]


def measure(
    pipeline: Pipeline, dataset: Dataset, places: Sequence[int], methods: Mapping[str, Method]
) -> dict[str, Counts]:
    """Counts of each method on a teacher's labels of pictures at some places of the dataset."""
    counts = {name: Counts(pipeline.labels.names) for name in methods}
    for place in places:
        image, truth = dataset.read(place)
        predicted = pipeline.predict(image)
        picture = Picture(image=image, labels=predicted.labels, scores=predicted.scores())
        for name, method in methods.items():
            start = time.process_time()
            labels = method(picture)
            seconds = time.process_time() - start
            counts[name].add(labels if dataset.fold is None else dataset.fold[labels], truth, seconds)
    return counts


def _rows(name: str, counts: Counts, facts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of one method; that of the mean IoU has the IoU of each class, too."""
    metrics, classes = counts.metrics(), counts.classes()
    for metric, value in metrics.items():
        yield row(NAME, name, metric, "%", [value], **facts, **({"classes": classes} if metric == MEAN else {}))
    yield row(NAME, name, TIME, "CPU s", counts.seconds, **facts)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked = parser.parse_args()
    for seed in asked.seeds:
        print(append(NAME, run(asked.data, asked.out, seed)))


if __name__ == "__main__":
    main()
