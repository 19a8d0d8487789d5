"""Counts of one image, of which all metrics of a domain are made; they are summed over images and processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from attrs import evolve, frozen
from jaxtyping import UInt8
from PIL import Image

from clouds.core.contract.labels import IGNORE_ID
from clouds.core.system.errors import ConfigError, DataError
from clouds.core.system.images import short_side_size
from clouds.data.folder import Dataset
from clouds.evaluation.analysis import BANDS, SIZES, count_bands, count_sizes
from clouds.evaluation.boundary import count_boundaries
from clouds.evaluation.calibration import BINS, count_confidences
from clouds.evaluation.confusion import count_confusion
from clouds.evaluation.protocols import find_protocol
from clouds.evaluation.views import Segmentation

Counts = dict[str, np.ndarray]  # by what is counted
Predict = Callable[[Iterable[np.ndarray]], Iterator[Segmentation]]


@frozen(kw_only=True)
class Counter:
    """What to count.

    Attributes:
        classes: number of classes.
        analysis: also count sizes and bands, see `clouds.evaluation.analysis`.
        calibration: also count confidences, see `clouds.evaluation.calibration`.
    """

    classes: int
    analysis: bool = False
    calibration: bool = False

    def count(self, truth: UInt8[np.ndarray, "h w"], found: Segmentation) -> Counts:
        """Count one image. Raises `DataError` as `count_confusion`."""
        labels, classes = found.labels, self.classes
        counts = {
            "confusion": count_confusion(truth, labels, classes=classes),
            "boundaries": count_boundaries(truth, labels, classes=classes),
        }
        if self.analysis:
            counts |= {"sizes": count_sizes(truth, labels, classes=classes), "bands": count_bands(truth, labels)}
        if self.calibration:
            if found.confidences is None:
                raise ConfigError("calibration: the predictions have no confidences; predict with confidences=True")
            counts["confidences"] = count_confidences(found.confidences, truth == labels, truth != IGNORE_ID)
        return counts

    def total(self, images: Iterable[Counts]) -> Counts:
        """The sum over images; zeros without any."""
        sums = self._zeros()
        for counts in images:
            for name, one in counts.items():
                sums[name] += one
        return sums

    def _zeros(self) -> Counts:
        classes = self.classes
        shapes: dict[str, tuple[int, ...]] = {"confusion": (classes, classes + 1), "boundaries": (classes, 3)}
        if self.analysis:
            shapes |= {"sizes": (classes, len(SIZES), 3), "bands": (len(BANDS), 2)}
        zeros = {name: np.zeros(shape, np.int64) for name, shape in shapes.items()}
        return zeros | ({"confidences": np.zeros((BINS, 3))} if self.calibration else {})


def count_images(
    predict: Predict, dataset: Dataset, indices: Sequence[int], protocol: str, counter: Counter
) -> Iterator[Counts]:
    """Counts of each image, in the order of `indices`.

    Raises:
        DataError: a file cannot be used, or a label is no class; names the image.
    """
    truths: deque[np.ndarray] = deque()  # of the images in progress

    def images() -> Iterator[np.ndarray]:
        for index in indices:
            image, truth = read_pair(dataset, protocol, index)
            truths.append(truth)
            yield image

    for index, found in zip(indices, predict(images()), strict=True):
        try:
            yield counter.count(truths.popleft(), folded(found, dataset))
        except DataError as error:
            raise DataError(f"{dataset.items[index].image}: {error}") from error


def folded(found: Segmentation, dataset: Dataset) -> Segmentation:
    """Apply the fold of a dataset to predicted labels."""
    return found if dataset.fold is None else evolve(found, labels=dataset.fold[found.labels])


def read_pair(
    dataset: Dataset, protocol: str, index: int
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
    """Image and label map at the size of a protocol.

    Raises:
        DataError: a file cannot be used, or is too large after resizing; names it.
    """
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
