"""Resumable refinement of label maps to a dataset, with images of before and after."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import frozen
from jaxtyping import UInt8

from clouds.core.contract.component import Kind
from clouds.core.contract.interfaces import Refiner
from clouds.core.contract.labels import CITYSCAPES, LabelSpace
from clouds.core.contract.tensors import image_tensor
from clouds.core.pipeline.composer import load
from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.pipeline.prediction import overlaid
from clouds.core.system.errors import ConfigError, DataError
from clouds.core.system.files import link_file, own_folder, target_in
from clouds.core.system.images import read_image, write_png
from clouds.core.system.progress import progress_bar
from clouds.synthesis.engines import Here, Workers, build_component
from clouds.synthesis.provenance import require_provenance

FILE_NAME = "refined.json"
SPLIT = "train"
_OPACITY = 0.6


@frozen(kw_only=True)
class RefinedSet:
    """A dataset of images with refined label maps.

    Attributes:
        folder: folder with `images/train/`, `labels/train/` (train ids, 255 = ignore), `pictures/` (image, before,
            after).
        spec: SPEC of the dataset, for `clouds train` and other commands.
        images: number of images.
        written: number of label maps that this call wrote; the others existed.
    """

    folder: Path
    spec: str
    images: int
    written: int


@frozen
class LabelRefiner:
    """Refines label maps, and predicts missing ones first.

    Attributes:
        refiner: the refiner.
        pipeline: predicts label maps; None if every image has one.
    """

    refiner: Refiner
    pipeline: Pipeline | None = None


def build_label_refiner(document: str, checkpoint: str | None, device: str, trust: Sequence[str] = ()) -> LabelRefiner:
    """Build a refiner, and load the pipeline that predicts label maps.

    Args:
        document: the refiner; see `build_component`.
        checkpoint: folder of a saved pipeline, or None.
        device: device of both.
        trust: see `clouds.load`.
    """
    pipeline = load(checkpoint, device=device, trust=trust) if checkpoint else None
    return LabelRefiner(build_component(Kind.REFINER.value, document, device), pipeline)


def predicted_labels(worker: LabelRefiner) -> LabelSpace:
    """The label space of a worker's pipeline; without one Cityscapes, the label space of exact label maps."""
    return worker.pipeline.labels if worker.pipeline else CITYSCAPES


def refine_set(
    refiner: Refiner | Workers[LabelRefiner],
    images: Sequence[Path],
    label: Callable[[Path], UInt8[np.ndarray, "h w"]] | None,
    *,
    out: str | os.PathLike[str],
    label_space: LabelSpace,
    made_with: Mapping[str, Any],
    seed: int = 0,
    progress: bool = False,
) -> RefinedSet:
    """Refine the label maps that `out` lacks; repeating the call finishes an interrupted run.

    An image's random choices depend only on `seed` and its name. Images are linked, not copied. Files are written
    atomically, the label map last.

    Args:
        refiner: the refiner, or workers that refine one image at a time.
        images: image files with different names.
        label: reads the label map to refine, of the image's size; called only for missing results. None: the workers'
            pipelines predict it.
        out: folder of the new dataset, or of an earlier run.
        label_space: label space of the train ids, for the colours in `pictures/`.
        made_with: provenance of images, refiner and label maps as plain values, so that `out` never mixes different
            ones.
        seed: 0 or more.
        progress: show a progress bar on standard error if it is a terminal.

    Raises:
        ConfigError: there are neither label maps nor a pipeline, or the seed is negative.
        DataError: there is no image, two images share a name, an image cannot be read, a label map differs in size,
            `out` holds something else, or another process is writing to it.
        WorkerError: see `Workers.map`.
    """
    if seed < 0:
        raise ConfigError(f"refinement: seed={seed}; expected 0 or more")
    named = _by_name(images)
    if not named:
        raise DataError(f"{out}: nothing to refine; give at least one image")
    workers = Here(LabelRefiner(refiner)) if isinstance(refiner, Refiner) else refiner
    with own_folder(out, marker=FILE_NAME) as folder, progress_bar(shown=progress) as bar:
        require_provenance(folder / FILE_NAME, {**made_with, "seed": seed}, verb="refined")
        missing = {name: path for name, path in named.items() if not _label_file(folder, name).exists()}
        done = workers.map(_refine, (_Job.of(name, path, label, seed) for name, path in missing.items()))
        for job, (before, after) in bar.track(done, total=len(missing), description="refine"):
            _link(job.path, target_in(folder, f"images/{SPLIT}") / job.path.name)
            picture = before_and_after(job.image, before, after, label_space)
            write_png(target_in(folder, f"pictures/{job.name}.png"), picture)
            write_png(target_in(folder, f"labels/{SPLIT}/{job.name}.png"), after)
    return RefinedSet(folder=folder, spec=f"folder:{folder}:{SPLIT}", images=len(named), written=len(missing))


def before_and_after(
    image: UInt8[np.ndarray, "h w 3"],
    before: UInt8[np.ndarray, "h w"],
    after: UInt8[np.ndarray, "h w"],
    label_space: LabelSpace,
) -> UInt8[np.ndarray, "h w3 3"]:
    """The image, and the image overlaid with each label map, side by side; 255 is black."""
    shown = [overlaid(image, label_map, label_space, opacity=_OPACITY) for label_map in (before, after)]
    return np.concatenate([image, *shown], axis=1)


@frozen(kw_only=True, eq=False)
class _Job:
    """An image and its label map to refine; None means that it is predicted."""

    name: str
    path: Path
    image: np.ndarray
    before: np.ndarray | None
    seed: int

    @classmethod
    def of(cls, name: str, path: Path, label: Callable[[Path], np.ndarray] | None, seed: int) -> _Job:
        image, before = read_image(path), label(path) if label else None
        if before is not None and before.shape != image.shape[:2]:
            raise DataError(f"{path}: the image is {image.shape[:2]}, its label map {before.shape} (height, width)")
        return cls(name=name, path=path, image=image, before=before, seed=seed)


def _refine(worker: LabelRefiner, job: _Job) -> tuple[np.ndarray, np.ndarray]:
    """The label map before and after."""
    pixels, before = image_tensor(job.image), job.before
    if before is None:
        if worker.pipeline is None:
            raise ConfigError("neither label maps nor a pipeline to predict them are given; give one of them")
        before = worker.pipeline.predict(pixels).labels
    rng = np.random.default_rng([job.seed, *os.fsencode(job.name)])
    (targets,) = worker.refiner.refine([pixels], [torch.from_numpy(before.copy())], rngs=[rng])
    return before, targets.to_label_map().cpu().numpy()


def _by_name(images: Sequence[Path]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for path in images:
        if path.stem in named:
            raise DataError(f"{named[path.stem]} and {path} share a name; give images with different names")
        named[path.stem] = path
    return named


def _label_file(folder: Path, name: str) -> Path:
    return folder / "labels" / SPLIT / f"{name}.png"


def _link(source: Path, target: Path) -> None:
    link_file(source, target)
    if not target.samefile(source):
        raise DataError(f"{target} is {target.resolve()}, not {source}; choose another folder")
