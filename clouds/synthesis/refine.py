"""Refined datasets: label maps written once, with pictures of before and after; resumable."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import frozen
from jaxtyping import UInt8

from clouds.core.errors import DataError
from clouds.core.files import write_text
from clouds.core.images import read_image, write_png
from clouds.core.interfaces import Refiner
from clouds.core.labels import LabelSpace
from clouds.core.progress import progress_bar

FILE_NAME = "refined.json"
SPLIT = "train"
_OPACITY = 0.6


@frozen(kw_only=True)
class RefinedSet:
    """A dataset of images with refined label maps.

    Attributes:
        folder: `images/train/`, `labels/train/` (train ids, 255 = ignore), `pictures/` (image, before, after).
        spec: the dataset for `clouds train` and others.
        images: how many there are.
        written: label maps written now; the others were there.
    """

    folder: Path
    spec: str
    images: int
    written: int


def refine_set(
    refiner: Refiner,
    images: Sequence[Path],
    label: Callable[[Path], UInt8[np.ndarray, "h w"]],
    *,
    out: str | os.PathLike[str],
    labels: LabelSpace,
    made_with: Mapping[str, Any],
    seed: int = 0,
    progress: bool = False,
) -> RefinedSet:
    """Refine the label map of each image, or of those that `out` lacks: a killed run is finished by the same call.

    What an image draws depends on `seed` and its name alone. Images are linked to, not copied. An image's label map is
    written last, and every file appears whole.

    Args:
        refiner: what refines.
        images: files with different names.
        label: gives the label map to refine, of the image's size; asked only for what is missing.
        out: folder of the new dataset, or of an earlier run.
        labels: what the train ids mean, for the pictures.
        made_with: what refiner and label maps are, as plain values, so that `out` never mixes two sorts.
        seed: 0 or more.
        progress: show a progress bar on standard error, when that is a terminal.

    Raises:
        DataError: two images of one name, an image that cannot be read, a label map of another size, or an `out` that
            holds something else.
    """
    folder = Path(out)
    named = _by_name(images)
    _claim(folder, json.loads(json.dumps({**made_with, "seed": seed}, default=str)))
    missing = {name: path for name, path in named.items() if not _label_file(folder, name).exists()}
    with progress_bar(shown=progress) as bar:
        for name, path in bar.track(missing.items(), description="refine"):
            image, before = read_image(path), label(path)
            if before.shape != image.shape[:2]:
                raise DataError(f"{path}: the image is {image.shape[:2]}, its label map {before.shape} (height, width)")
            after = _refine(refiner, image, before, np.random.default_rng([seed, *name.encode()]))
            _link(path, folder / "images" / SPLIT / path.name)
            write_png(folder / "pictures" / f"{name}.png", before_and_after(image, before, after, labels))
            write_png(_label_file(folder, name), after)
    return RefinedSet(folder=folder, spec=f"folder:{folder}:{SPLIT}", images=len(named), written=len(missing))


def before_and_after(
    image: UInt8[np.ndarray, "h w 3"],
    before: UInt8[np.ndarray, "h w"],
    after: UInt8[np.ndarray, "h w"],
    labels: LabelSpace,
) -> UInt8[np.ndarray, "h w3 3"]:
    """The image, and it under the colours of both label maps, side by side; 255 shows black."""
    palette = np.zeros((256, 3), np.float32)
    palette[: len(labels)] = labels.palette
    shown = [image * (1 - _OPACITY) + palette[label_map] * _OPACITY for label_map in (before, after)]
    return np.concatenate([image, *(picture.round().astype(np.uint8) for picture in shown)], axis=1)


def _refine(refiner: Refiner, image: np.ndarray, before: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    (targets,) = refiner.refine([pixels], [torch.from_numpy(before.copy())], rngs=[rng])
    return targets.to_label_map().cpu().numpy()


def _by_name(images: Sequence[Path]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for path in images:
        if path.stem in named:
            raise DataError(f"{named[path.stem]} and {path} have one name; give images with different names")
        named[path.stem] = path
    return named


def _claim(folder: Path, made_with: dict[str, Any]) -> None:
    """Say in the folder what its label maps are made with; refuse one that holds something else."""
    path = folder / FILE_NAME
    if path.exists():
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path}: not what an earlier run wrote ({error}); choose another folder") from error
        if there != made_with:
            raise DataError(f"{folder} was refined with {there}, now it is {made_with}; choose another folder")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is not empty and has no {FILE_NAME}; choose another folder")
    else:
        write_text(path, json.dumps(made_with, indent=2) + "\n")


def _label_file(folder: Path, name: str) -> Path:
    return folder / "labels" / SPLIT / f"{name}.png"


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        target.unlink(missing_ok=True)  # a link to what is no longer there
        target.symlink_to(source.resolve())
