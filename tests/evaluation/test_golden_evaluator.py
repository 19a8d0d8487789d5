"""Agreement with the published evaluator on its stored runs, and where it is left on purpose."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from clouds.core.contract.labels import CITYSCAPES
from clouds.core.system.images import short_side_size
from clouds.evaluation.boundary import boundary_distance, count_boundaries
from clouds.evaluation.confusion import count_confusion
from clouds.evaluation.report import DomainResult

# Both sides divide the same integers, and add at most 19 quotients: a few units of 2**-53.
EXACT = 1e-14


@pytest.fixture(scope="module")
def golden() -> Path:
    folder = os.environ.get("CLOUDS_GOLDEN")
    if not folder:
        pytest.skip("CLOUDS_GOLDEN is not set: the folder with data of the published implementation")
    return Path(folder)


CASES = pytest.mark.parametrize("case", ["allclasses", "someclasses"])


@CASES
def test_counts_and_figures(golden: Path, case: str) -> None:
    published, confusion = _read(golden / "13_evaluator.json")[case], np.zeros((19, 20), np.int64)
    for truth, prediction in _pairs(golden, case):
        confusion += count_confusion(truth, prediction, classes=19)
    assert confusion.tolist() == np.array(published["conf_matrix"]).T[:19].tolist()
    result, figures = _result(golden, case), published["res"]
    assert result.miou == pytest.approx(published["returned"]["mIoU"], rel=EXACT)
    for mine, theirs in {
        "miou": "mIoU",
        "fwiou": "fwIoU",
        "mean_accuracy": "mACC",
        "pixel_accuracy": "pACC",
    }.items():
        assert getattr(result, mine) == pytest.approx(figures[theirs], rel=EXACT)
    assert list(result.iou.values()) == _approximately(figures, "IoU-")
    assert list(result.accuracy.values()) == _approximately(figures, "ACC-")


@CASES
def test_figures_that_the_published_evaluator_returns_by_short_name(golden: Path, case: str) -> None:
    returned = _read(golden / "13_evaluator.json")[case]["returned"]
    for name, iou in _result(golden, case).iou.items():
        if name == "bus":  # the first key with "bus" in it is that of vegetation: "...,bushes"
            assert returned["IoU.bus"] == returned["IoU.vegetation"]
            assert iou != pytest.approx(returned["IoU.bus"], rel=0.1)
        elif iou is None:  # an absent class has no figure; there it has 0
            assert returned[f"IoU.{name}"] == 0
        else:
            assert iou == pytest.approx(returned[f"IoU.{name}"], rel=EXACT)


@CASES
def test_boundary_iou_is_that_of_the_paper_and_not_the_published_one(golden: Path, case: str) -> None:
    result, pairs = _result(golden, case), list(_pairs(golden, case))
    published = list(_by_class(_read(golden / "13_evaluator.json")[case]["res"], "BoundaryIoU-"))
    by_paper = [_paper(pairs, value) for value in range(19)]
    assert list(result.boundary_iou.values()) == by_paper, "two divisions of the same integers"
    assert _of_label_differences(pairs) == pytest.approx(published, rel=EXACT)
    assert not any(mine == pytest.approx(theirs, abs=1) for mine, theirs in zip(by_paper, published, strict=True))
    assert published[13:] == [0] * 6, "car and what comes after it"
    assert [mine is None for mine in by_paper] == [iou is None for iou in result.iou.values()]


def test_sizes_of_the_published_protocol(golden: Path) -> None:
    document = _read(golden / "14_resize_aug.json")
    cases = {key: value for key, value in document.items() if key[0].isdigit()}
    assert len(cases) == 11
    for key, size in cases.items():
        height, width = (int(part) for part in key.split("x"))
        if key == "1025x1024":
            assert size == [1025, 1024]
        assert list(short_side_size(height, width, 1024)) == size


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _pairs(golden: Path, case: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ground truth with 255 for ignored pixels, and prediction."""
    with np.load(golden / "13_evaluator.npz") as arrays:
        for index in range(4):
            yield arrays[f"{case}_gt{index}"], arrays[f"{case}_pred{index}"]


def _result(golden: Path, case: str) -> DomainResult:
    confusion, boundaries = np.zeros((19, 20), np.int64), np.zeros((19, 3), np.int64)
    for truth, prediction in _pairs(golden, case):
        kept = truth.copy()
        confusion += count_confusion(truth, prediction, classes=19)
        boundaries += count_boundaries(truth, prediction, classes=19)
        assert np.array_equal(truth, kept), "the published evaluator writes 19 into the ground truth where it was 255"
    return DomainResult.from_counts(confusion, boundaries, names=CITYSCAPES.names, images=4)


def _by_class(figures: dict[str, Any], prefix: str) -> Iterator[float | None]:
    """The published figures in the order of train ids; it writes nan for classes that there are not."""
    for key, value in figures.items():
        if key.startswith(prefix):
            yield None if math.isnan(float(value)) else value


def _approximately(figures: dict[str, Any], prefix: str) -> list[Any]:
    return [None if value is None else pytest.approx(value, rel=EXACT) for value in _by_class(figures, prefix)]


def _paper(pairs: list[tuple[np.ndarray, np.ndarray]], value: int) -> float | None:
    """Boundary IoU of one class, mask by mask: 3x3 erosions, nothing outside of the image or in ignored pixels."""
    if not any((truth == value).any() for truth, _ in pairs):
        return None
    both = either = 0
    for truth, prediction in pairs:
        masks = truth == value, (prediction == value) & (truth != 255)
        distance = boundary_distance(*truth.shape)
        inner = (ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=distance) for mask in masks)
        one, two = (mask & np.logical_not(eroded) for mask, eroded in zip(masks, inner, strict=True))
        both, either = both + (one & two).sum(), either + (one | two).sum()
    return 100.0 * int(both) / int(either)


def _of_label_differences(pairs: list[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """The published Boundary IoU: the label map itself is eroded, so that "classes" are differences of train ids, and
    the index of the confusion matrix is computed in 8 bits, so that 20 x 13 and more wrap round."""

    def differences(labels: np.ndarray) -> np.ndarray:
        reach = 2 * boundary_distance(*labels.shape) + 1
        least = ndimage.minimum_filter(np.pad(labels, 1), size=reach, mode="constant", cval=255)
        return labels - least[1:-1, 1:-1]

    counts = np.zeros(400, np.int64)
    for truth, prediction in pairs:
        true = differences(np.where(truth == 255, 19, truth).astype(np.uint8))
        counts += np.bincount((differences(prediction) * np.uint8(20) + true).ravel(), minlength=400)
    kept = counts.reshape(20, 20)[:19, :19]
    both = np.diagonal(kept)
    return (100 * both / (kept.sum(axis=0) + kept.sum(axis=1) - both)).tolist()
