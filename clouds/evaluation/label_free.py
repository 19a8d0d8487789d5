"""Scores of a pipeline on pictures without labels, to choose among checkpoints of a domain that has no labels.

All are in percent, and higher is better. None measures accuracy: `clouds.evaluation.rank_correlation` says how well
each ranks checkpoints whose mIoU is known.
"""

# pyright: reportUnknownMemberType=false
# (torch has incomplete types)

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from itertools import combinations
from pathlib import Path
from typing import ClassVar, cast, final

import numpy as np
import torch
from attrs import frozen
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from clouds.core.contract.records import Features
from clouds.core.contract.tensors import image_tensor
from clouds.core.pipeline.many import find_files
from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.pipeline.segmenter import eval_mode, first_call
from clouds.core.system.errors import ConfigError, DataError, did_you_mean
from clouds.core.system.images import read_image, write_png
from clouds.data.transforms import distort, draw_distortion
from clouds.evaluation.confusion import agreement, count_confusion

COUNT = 40  # pictures, by default
_SEED = 0  # of all random choices
_SCALE = (0.5, 1.5)  # of a distorted picture
_MOST_PIXELS = 2**21  # 1024 x 2048, the size of Cityscapes


@frozen(eq=False)
class _Seen:
    """A picture and what the pipeline sees in it.

    Attributes:
        index: its position among the pictures.
        pipeline: the pipeline.
        image: RGB.
        labels: predicted train ids.
        scores: share of each class in the scores of a pixel, summing to 1.
        features: `res4` of the adapted backbone.
        stride: of the features, in pixels of the image.
    """

    index: int
    pipeline: Pipeline
    image: UInt8[np.ndarray, "h w 3"]
    labels: UInt8[np.ndarray, "h w"]
    scores: Float[np.ndarray, "k h w"]
    features: Float[Tensor, "c hs ws"]
    stride: int


class _Measure(ABC):
    """Adds up pictures one by one, and computes scores from the sums."""

    names: ClassVar[tuple[str, ...]]

    def __init__(self, classes: int) -> None:
        self.classes = classes

    @abstractmethod
    def add(self, seen: _Seen) -> None:
        """Add a picture."""

    @abstractmethod
    def results(self) -> dict[str, float | None]:
        """The scores in percent by name; None where they are undefined."""


@final
class _Entropies(_Measure):
    """Entropies relative to that of the uniform distribution.

    `confidence`: 100 minus the mean entropy of the pixels. `diversity`: entropy of the mean of all pixels; it falls
    when classes vanish. `information`: diversity minus the mean entropy, the mutual information of pixel and class
    (Shi and Sha, "Information-Theoretical Learning of Discriminative Clusters", ICML 2012).
    """

    names = ("confidence", "diversity", "information")

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self._entropy, self._pixels, self._sums = 0.0, 0, np.zeros(classes)

    def add(self, seen: _Seen) -> None:
        self._entropy += _entropy(seen.scores)
        self._pixels += seen.labels.size
        self._sums += seen.scores.sum((1, 2), dtype=np.float64)

    def results(self) -> dict[str, float | None]:
        whole = math.log(self.classes)
        entropy = 100 * self._entropy / self._pixels / whole
        diversity = 100 * _entropy(self._sums / self._pixels) / whole
        return {"confidence": 100 - entropy, "diversity": diversity, "information": diversity - entropy}


@final
class _Stability(_Measure):
    """`stability`: agreement of the labels with those of the picture at another size and with distorted colours."""

    names = ("stability",)

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self._counts = np.zeros((classes, classes + 1), np.int64)

    def add(self, seen: _Seen) -> None:
        rng = np.random.default_rng([_SEED, seen.index])
        height, width = seen.labels.shape
        scale = rng.uniform(*_SCALE)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        view = Image.fromarray(distort(seen.image, draw_distortion(rng))).resize(size, Image.Resampling.BILINEAR)
        labels = Image.fromarray(seen.pipeline.predict(view).labels).resize((width, height), Image.Resampling.NEAREST)
        self._counts += count_confusion(seen.labels, np.asarray(labels), classes=self.classes)

    def results(self) -> dict[str, float | None]:
        return {"stability": agreement(self._counts)}


@final
class _Refinement(_Measure):
    """`refinement`: agreement of the labels with those that the pipeline's refiner makes of them."""

    names = ("refinement",)

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self._counts = np.zeros((classes, classes + 1), np.int64)

    def add(self, seen: _Seen) -> None:
        refiner, device = seen.pipeline.refiner, seen.pipeline.device
        if refiner is None:
            return
        image, labels = image_tensor(seen.image).to(device), torch.from_numpy(seen.labels).to(device)
        (targets,) = refiner.refine([image], [labels], rngs=[np.random.default_rng([_SEED, seen.index])])
        refined = targets.to_label_map().cpu().numpy()
        self._counts += count_confusion(refined, seen.labels, classes=self.classes)

    def results(self) -> dict[str, float | None]:
        return {"refinement": agreement(self._counts)}


@final
class _Separation(_Measure):
    """`separation`: share of the variance of the features that the mean features of the predicted classes explain.

    It is 100 minus the mean squared distance of a feature to its class's prototype, relative to that to the mean of
    all: the criterion of Calinski and Harabasz, 1974, without its degrees of freedom. Features are those of `res4`,
    scaled to length 1; a cell has the class of the pixel at its centre.
    """

    names = ("separation",)

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self._counts = np.zeros(classes)
        self._sums: Float[np.ndarray, "k c"] | None = None

    def add(self, seen: _Seen) -> None:
        # Features "n c" of cells, and their classes "n"
        centre = slice(seen.stride // 2, None, seen.stride)
        labels = seen.labels[centre, centre]
        level = functional.normalize(seen.features.cpu().double(), dim=0)
        cells = level[:, : labels.shape[0], : labels.shape[1]].flatten(1).T
        members = np.eye(self.classes)[labels.ravel()]
        # Sums per class "k c"
        sums = members.T @ cells.numpy()
        self._sums = sums if self._sums is None else self._sums + sums
        self._counts += members.sum(0)

    def results(self) -> dict[str, float | None]:
        total = self._counts.sum()
        if self._sums is None or not total:
            return {"separation": None}
        # Features have length 1, so that the mean squared distance to a mean m is 1 - |m|^2
        mean = self._sums.sum(0) / total
        shown = self._counts > 0
        between = (self._sums[shown] ** 2).sum(1) / self._counts[shown]
        variance = 1 - (mean**2).sum()
        explained = between.sum() / total - (mean**2).sum()
        return {"separation": 100 * float(explained / variance) if variance > 0 else None}


_MEASURES = (_Entropies, _Stability, _Refinement, _Separation)
NAMES = tuple(name for measure in _MEASURES for name in measure.names)


def label_free_scores(
    pipeline: Pipeline, pictures: Sequence[Path], *, names: Collection[str] = NAMES, keep: Path | None = None
) -> dict[str, float]:
    """Scores of a pipeline on pictures, in percent by name; higher is better.

    - `confidence`: 100 minus the mean entropy of the pixels.
    - `diversity`: entropy of the classes over all pixels.
    - `information`: diversity minus the mean entropy.
    - `stability`: agreement of the labels with those of a distorted picture.
    - `refinement`: agreement of the labels with the refiner's; missing if the pipeline has no refiner.
    - `separation`: share of the features' variance that the prototypes of the predicted classes explain.

    Agreement is the mean IoU of two label maps over the classes of either. Entropies are relative to the largest.
    Pictures are read one by one; those with more than 1024 x 2048 pixels are first made smaller.

    Args:
        pipeline: a composed or loaded pipeline.
        pictures: image files; the same files in the same order give the same scores.
        names: the scores to compute.
        keep: folder for the predicted label maps, one PNG per picture.

    Raises:
        ConfigError: a name is unknown, or the pipeline has a single class.
        DataError: there is no picture, or one cannot be read.
    """
    classes = len(pipeline.labels)
    for name in names:
        if name not in NAMES:
            raise ConfigError(f"label-free score {name!r} is unknown{did_you_mean(name, NAMES)}")
    if classes < 2:
        raise ConfigError(f"label-free scores need two or more classes; {pipeline.labels.name!r} has {classes}")
    if not pictures:
        raise DataError("label-free scores need pictures, but there are none")
    measures = [kind(classes) for kind in _MEASURES if {*kind.names} & {*names}]
    for index, path in enumerate(pictures):
        seen = _see(pipeline, path, index)
        for measure in measures:
            measure.add(seen)
        if keep is not None:
            write_png(keep / map_name(index), seen.labels)
    found = {name: value for measure in measures for name, value in measure.results().items() if name in names}
    return {name: min(100.0, max(0.0, value)) for name, value in found.items() if value is not None}


def names_with(refiner: object) -> list[str]:
    """All names; without `refinement` if the refiner is None."""
    return [name for name in NAMES if refiner is not None or name not in _Refinement.names]


def map_name(index: int) -> str:
    """File of the label map of a picture, see `label_free_scores`."""
    return f"{index:05}.png"


def choose_pictures(place: str | os.PathLike[str], count: int = COUNT) -> list[Path]:
    """At most `count` image files of a folder, glob pattern or dataset SPEC, evenly spaced in their order.

    Raises:
        ConfigError: `count` is below 1, or the SPEC is invalid.
        DataError: the place holds no image.
    """
    if count < 1:
        raise ConfigError(f"count is {count}; expected at least 1 picture")
    return spaced(find_files(place), count)


def spaced(pictures: Sequence[Path], count: int = COUNT) -> list[Path]:
    """At most `count` of the pictures, evenly spaced."""
    return (
        [pictures[index * len(pictures) // count] for index in range(count)] if len(pictures) > count else [*pictures]
    )


def consensus(folders: Sequence[Path], count: int, *, classes: int) -> list[float | None]:
    """Mean agreement of the label maps in each folder with those in each other folder; None without another.

    Args:
        folders: folders that `label_free_scores` wrote for the same pictures with pipelines of the same classes.
        count: number of pictures.
        classes: number of classes.
    """
    pairs = {pair: np.zeros((classes, classes + 1), np.int64) for pair in combinations(range(len(folders)), 2)}
    for index in range(count):
        maps = [_read_map(folder / map_name(index)) for folder in folders]
        for (one, two), counts in pairs.items():
            counts += count_confusion(maps[one], maps[two], classes=classes)
    agreements = {pair: agreement(counts) for pair, counts in pairs.items()}
    found = [[value for pair, value in agreements.items() if own in pair] for own in range(len(folders))]
    return [float(np.mean(values)) if values else None for values in cast("list[list[float]]", found)]


def _read_map(path: Path) -> UInt8[np.ndarray, "h w"]:
    with Image.open(path, formats=("PNG",)) as image:
        return np.asarray(image)


def _see(pipeline: Pipeline, path: Path, index: int) -> _Seen:
    image = read_image(path)
    shrink = math.sqrt(_MOST_PIXELS / (image.shape[0] * image.shape[1]))
    if shrink < 1:
        smaller = max(1, int(image.shape[1] * shrink)), max(1, int(image.shape[0] * shrink))
        image = np.asarray(Image.fromarray(image).resize(smaller, Image.Resampling.BILINEAR))
    with first_call(pipeline.backbone) as calls:
        prediction = pipeline.predict(image)
    size = pipeline.segmenter.network_size([image.shape[:2]])
    # Replayed CUDA graphs call nothing, and heads of several resolutions first show a smaller image
    whole = [features for seen, features in calls if tuple(seen.shape[2:]) == size]
    level = (whole[0] if whole else _features(pipeline, image)).res4[0]
    scores = prediction.scores()
    total = scores.sum(0)
    return _Seen(
        index=index,
        pipeline=pipeline,
        image=image,
        labels=prediction.labels,
        scores=np.divide(scores, total, out=np.full_like(scores, 1 / len(scores)), where=total > 0),
        features=level,
        stride=size[0] // level.shape[1],
    )


def _features(pipeline: Pipeline, image: UInt8[np.ndarray, "h w 3"]) -> Features:
    with torch.inference_mode(), eval_mode(*pipeline.segmenter.parts.values()), pipeline.autocast():
        return pipeline.segmenter.features(pipeline.pad([image_tensor(image).to(pipeline.device)]))


def _entropy(shares: Float[np.ndarray, "k ..."]) -> float:
    """Sum of the entropies of distributions over k classes, in nats."""
    from scipy.special import entr

    return float(entr(shares).sum(dtype=np.float64))
