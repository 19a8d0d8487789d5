"""Average precision of instances, against pycocotools' own summary and by hand."""

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from clouds import LabelSpace
from clouds.core.pipeline.segments import Instances
from clouds.evaluation.average_precision import average_precision, found_instances, true_instances

LABELS = LabelSpace.from_names(["road", "car", "person"], things=["car", "person"])
CAR, PERSON, VOID = 1, 2, 255


def _instances(masks: list[np.ndarray], labels: list[int], scores: list[float]) -> Instances:
    return Instances(
        labels=np.array(labels, np.int64), scores=np.array(scores, np.float32), masks=np.stack(masks).astype(np.bool_)
    )


def _precision(truth: np.ndarray, found: Instances) -> np.ndarray:
    true = true_instances(truth, LABELS, image=0)
    return average_precision(true, found_instances(found, image=0), images=1, classes=3)


def test_precision_by_hand() -> None:
    truth = np.zeros((10, 10), np.int32)
    truth[:4], truth[6:] = 256 + CAR, 512 + CAR
    one, two = truth == 256 + CAR, truth == 512 + CAR
    part = one.copy()
    part[3] = False  # IoU 3/4
    both = _precision(truth, _instances([one, two], [CAR, CAR], [0.9, 0.8]))
    assert both[:, CAR].tolist() == [1.0] * 10
    assert np.isnan(both[:, [0, PERSON]]).all(), "no true instance"
    # two instances in one mask: the IoU with each is 1/2, which is enough for the first threshold alone; then one of
    # two is found, and the 51 of 101 recall levels up to 1/2 have precision 1
    merged = _precision(truth, _instances([one | two], [CAR], [0.9]))
    assert merged[:, CAR] == pytest.approx([51 / 101] + [0] * 9)
    assert _precision(truth, _instances([one], [CAR], [0.9]))[:, CAR] == pytest.approx([51 / 101] * 10)
    # 0.5 to 0.75: found
    assert _precision(truth, _instances([part], [CAR], [0.9]))[:, CAR] == pytest.approx([51 / 101] * 6 + [0] * 4)
    # a first, wrong one
    wrong = _precision(truth, _instances([~(one | two), one, two], [CAR, CAR, CAR], [0.9, 0.8, 0.7]))
    assert wrong[:, CAR] == pytest.approx([2 / 3] * 10)


def test_a_crowd_is_neither_missed_nor_an_error() -> None:
    truth = np.full((10, 10), VOID, np.int32)
    truth[:4], truth[6:] = 256 + PERSON, PERSON
    one, inside = truth == 256 + PERSON, truth == PERSON
    inside[8:] = False
    precision = _precision(truth, _instances([inside, one], [PERSON, PERSON], [0.9, 0.8]))
    assert precision[:, PERSON] == pytest.approx([1.0] * 10)
    nothing = np.zeros((4, 4), np.int32)
    empty = Instances(labels=np.zeros(0, np.int64), scores=np.zeros(0, np.float32), masks=np.zeros((0, 4, 4), np.bool_))
    assert np.isnan(_precision(nothing, empty)).all()
    assert _precision(truth, empty)[:, PERSON].tolist() == [0.0] * 10


def test_the_means_are_those_of_pycocotools(tmp_path: Path) -> None:
    """Its own way, through files and with its own settings, on made images: one without truth, one without results."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng, truth, found = np.random.default_rng(0), [], []
    for image in range(8):
        segments = rng.choice([0, 256 + CAR, 512 + CAR, 256 + PERSON, PERSON, VOID], (6, 6)).repeat(3, 0).repeat(3, 1)
        segments = segments.astype(np.int32) if image else np.zeros((18, 18), np.int32)
        truth += true_instances(segments, LABELS, image=image)
        masks = [(segments == value) ^ (rng.random((18, 18)) < 0.08) for value in (257, 513, 258, 513, 2, 0)]
        if image != 1:
            scores = rng.random(6).round(1).tolist()
            found += found_instances(_instances(masks, [CAR, CAR, PERSON, PERSON, PERSON, CAR], scores), image=image)
    precision = average_precision(truth, found, images=8, classes=3)
    for name, rows in (("truth", truth), ("found", found)):
        plain = [
            {
                **row,
                "id": number,
                "segmentation": {**row["segmentation"], "counts": row["segmentation"]["counts"].decode()},
            }
            for number, row in enumerate(rows, 1)
        ]
        images = [{"id": image, "height": 18, "width": 18} for image in range(8)]
        document = {"images": images, "categories": [{"id": one} for one in range(3)], "annotations": plain}
        (tmp_path / f"{name}.json").write_text(json.dumps(document if name == "truth" else plain), encoding="utf-8")
    with redirect_stdout(StringIO()):
        coco = COCO(str(tmp_path / "truth.json"))
        evaluator = COCOeval(coco, coco.loadRes(str(tmp_path / "found.json")), "segm")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    assert 0 < evaluator.stats[0] < evaluator.stats[1] < 1
    # the same numbers, averaged in another order
    assert np.nanmean(precision) == pytest.approx(evaluator.stats[0], rel=1e-12)
    assert np.nanmean(precision[0]) == pytest.approx(evaluator.stats[1], rel=1e-12)
