"""Agreement with the published evaluator on its stored runs."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clouds.core.labels import CITYSCAPES
from clouds.evaluation.confusion import count_confusion
from clouds.evaluation.evaluate import short_side_size
from clouds.evaluation.report import DomainResult


@pytest.fixture(scope="module")
def golden() -> Path:
    folder = os.environ.get("CLOUDS_GOLDEN")
    if not folder:
        pytest.skip("CLOUDS_GOLDEN is not set: the folder with data of the published implementation")
    return Path(folder)


@pytest.mark.parametrize("case", ["allclasses", "someclasses"])
def test_counts_and_figures(golden: Path, case: str) -> None:
    arrays, published = np.load(golden / "13_evaluator.npz"), _read(golden / "13_evaluator.json")[case]
    counts = np.zeros((19, 20), np.int64)
    for index in range(4):
        # The published evaluator writes 19 into the ground truth where it was 255.
        truth, prediction = (arrays[f"{case}_{side}{index}"] for side in ("gt", "pred"))
        counts += count_confusion(np.where(truth == 19, 255, truth).astype(np.uint8), prediction, classes=19)
    assert counts.tolist() == np.array(published["conf_matrix"]).T[:19].tolist()
    result = DomainResult.from_counts(counts, names=CITYSCAPES.names, images=4)
    # Both sides are one division of the same integers, and a mean of at most 19 of them: a few units of 2**-53.
    assert result.miou == pytest.approx(published["returned"]["mIoU"], rel=1e-14)
    for name, iou in result.iou.items():
        if name == "bus":  # the published figure is that of the first key with "bus" in it: "...,bushes"
            assert published["returned"]["IoU.bus"] == published["returned"]["IoU.vegetation"]
        elif iou is None:
            assert published["returned"][f"IoU.{name}"] == 0
        else:
            assert iou == pytest.approx(published["returned"][f"IoU.{name}"], rel=1e-14)
    assert result.pixel_accuracy == pytest.approx(published["res"]["pACC"], rel=1e-14)


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
    return json.loads(path.read_text())
