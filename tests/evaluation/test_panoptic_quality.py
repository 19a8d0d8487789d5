"""Panoptic quality, against panopticapi and by hand."""

from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clouds import LabelSpace
from clouds.evaluation.panoptic_quality import PanopticQuality, count_segments

LABELS = LabelSpace.from_names(["road", "sky", "car", "person"], things=["car", "person"])
ROAD, SKY, CAR, PERSON, VOID = 0, 1, 2, 3, 255
PEER = "panopticapi is not installed; pip install --no-deps panopticapi-lite"


def _of_segments(predicted: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """A segment map as a prediction: numbers from 1, and their classes; void is no segment."""
    values = [one for one in np.unique(predicted).tolist() if one != VOID]
    numbers = sum((predicted == one) * np.int32(index) for index, one in enumerate(values, 1))
    return np.zeros(predicted.shape, np.int32) + numbers, [one % 256 for one in values]


def _count(truth: list[list[int]], predicted: list[list[int]]) -> list[list[float]]:
    return count_segments(np.array(truth, np.int32), *_of_segments(np.array(predicted)), LABELS).tolist()


def test_segments_match_above_half() -> None:
    one, two = 256 + CAR, 512 + CAR
    # IoU 3/4 and 2/3; two cars in one are both missed, and the joint one is wrong
    assert _count([[ROAD] * 4, [one] * 3 + [two]], [[ROAD] * 3 + [one], [one] * 3 + [two]])[CAR] == [0.75 + 1, 2, 0, 0]
    assert _count([[one] * 2 + [two] * 2], [[one] * 4])[CAR] == [0, 0, 1, 2]
    assert _count([[one] * 3 + [two] * 1], [[one] * 4])[CAR] == [0.75, 1, 0, 1]
    assert _count([[ROAD] * 4], [[SKY] * 4]) == [[0, 0, 0, 1], [0, 0, 1, 0], [0] * 4, [0] * 4]


def test_void_and_crowds_are_no_errors() -> None:
    person, crowd = 256 + PERSON, PERSON
    assert _count([[VOID] * 3 + [ROAD]], [[person] * 4])[PERSON] == [0, 0, 0, 0]
    assert _count([[VOID] * 2 + [ROAD] * 2], [[person] * 4])[PERSON] == [0, 0, 1, 0], "half of it is not more"
    assert _count([[VOID] * 2 + [person] * 2], [[person] * 4])[PERSON] == [1, 1, 0, 0], "void is not in the union"
    assert _count([[crowd] * 4], [[person] * 4])[PERSON] == [0, 0, 0, 0]
    assert _count([[crowd] * 4], [[VOID] * 4])[PERSON] == [0, 0, 0, 0], "a crowd is not missed"
    assert _count([[crowd] * 4], [[256 + CAR] * 4])[CAR] == [0, 0, 1, 0], "it excuses its own class alone"
    assert _count([[VOID] * 4], [[VOID] * 4]) == [[0] * 4] * 4


def test_figures_follow_from_the_counts() -> None:
    counts = np.array([[1.5, 2, 1, 1], [0, 0, 0, 0], [0, 0, 2, 0], [0.6, 1, 0, 0]])
    quality = PanopticQuality.from_counts(counts)
    assert quality.pq == pytest.approx([100 * 1.5 / 3, None, 0, 60])
    assert quality.sq == pytest.approx([75, None, 0, 60])
    assert quality.rq == pytest.approx([100 * 2 / 3, None, 0, 100])
    assert quality.means() == pytest.approx((110 / 3, 45, 500 / 9))
    assert quality.means(LABELS.things)[0] == pytest.approx(30)
    assert quality.means([False] * 4) == (None, None, None)


def _peer(truth: np.ndarray, predicted: np.ndarray, labels: Sequence[int], folder: Path) -> np.ndarray:
    """The counts of panopticapi, from PNGs as it reads them."""
    evaluation = pytest.importorskip("panopticapi.evaluation", reason=PEER)
    ids = np.where(truth == VOID, 0, truth + 1)
    for name, pixels in (("truth.png", ids), ("predicted.png", predicted)):
        channels = [pixels % 256, pixels // 256 % 256, pixels // 65536]
        Image.fromarray(np.stack(channels, -1).astype(np.uint8)).save(folder / name)
    values, areas = np.unique(truth[truth != VOID], return_counts=True)
    infos = [
        {"id": v + 1, "category_id": v % 256, "area": area, "iscrowd": int(v < 256 and LABELS.things[v])}
        for v, area in zip(values.tolist(), areas.tolist(), strict=True)
    ]
    found = [{"id": number, "category_id": label} for number, label in enumerate(labels, 1)]
    pair = (
        {"file_name": "truth.png", "image_id": 1, "segments_info": infos},
        {"file_name": "predicted.png", "segments_info": found},
    )
    with redirect_stdout(StringIO()):
        stat = evaluation.pq_compute_single_core(0, [pair], folder, folder, dict.fromkeys(range(4)))
    return np.array([[stat[i].iou, stat[i].tp, stat[i].fp, stat[i].fn] for i in range(4)])


def test_the_counts_are_those_of_panopticapi(tmp_path: Path) -> None:
    """Made maps with instances, stuff, crowds and void, and predictions that differ from them more or less."""
    rng, total = np.random.default_rng(0), np.zeros((4, 4))
    values = [ROAD, SKY, CAR, PERSON, 256 + CAR, 512 + CAR, 256 + PERSON, VOID]
    for share in (0.0, 0.1, 0.4, 1.0) * 15:
        truth = rng.choice(values, (4, 5)).repeat(4, 0).repeat(4, 1).astype(np.int32)
        other = rng.choice([*values, 768 + PERSON], truth.shape)
        predicted, labels = _of_segments(np.where(rng.random(truth.shape) < share, other, truth))
        counts = count_segments(truth, predicted, labels, LABELS)
        # the sums of some ten IoUs in another order
        assert np.allclose(counts, _peer(truth, predicted, labels, tmp_path), rtol=1e-12, atol=0)
        total += counts
    assert (total.sum(0) > 20).all(), "matches, errors and misses occur"
    nothing = np.full((4, 4), VOID, np.int32)
    for truth, predicted in ((nothing, nothing), (nothing, nothing * 0), (nothing * 0, nothing)):
        segments = _of_segments(predicted)
        assert (count_segments(truth, *segments, LABELS) == _peer(truth, *segments, tmp_path)).all()
