"""Evaluation of panoptic segments and instances on small sets in COCO's format."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import clouds
from clouds import ConfigError, DataError
from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.pipeline.segments import Instances, Panoptic, Segment

LABELS = ["road", "car"]
HEAD = {"name": "mask2former", "queries": 6, "width": 64, "layers": 1, "encoder_layers": 1}
ROAD, CARS, CROWD = 1, (2, 3), 4  # segments of the pictures


def _write(folder: Path, count: int = 3) -> str:
    """Two cars and a group of cars on a road, with a pixel of void; the last picture is void altogether."""
    annotations = []
    for index in range(count):
        segments = np.ones((40, 60), np.uint8)
        segments[5:15, 5:25], segments[5:15, 30:50], segments[20:30, 5:25], segments[39, 59] = 2, 3, 4, 0
        segments *= index < count - 1
        infos = [
            {"id": one, "category_id": 149 if one == ROAD else 3, "iscrowd": int(one == CROWD)}
            for one in np.unique(segments).tolist()
            if one
        ]
        annotations.append({"file_name": f"{index}.png", "segments_info": infos})
        for path, pixels in (
            (folder / "val2017" / f"{index}.jpg", np.full((40, 60, 3), 90, np.uint8)),
            (folder / "annotations" / "panoptic_val2017" / f"{index}.png", segments[..., None] * np.uint8([1, 0, 0])),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    text = json.dumps({"annotations": annotations})
    (folder / "annotations" / "panoptic_val2017.json").write_text(text, encoding="utf-8")
    return f"coco-panoptic:{folder}:val"


def _compose(**parts: object) -> Pipeline:
    labels = {"names": LABELS, "things": ["car"]}
    pipeline = clouds.compose(**{"backbone": "tiny", "head": HEAD, "labels": labels, "device": "cpu", **parts})
    pipeline.trained = True
    return pipeline


def _answer(monkeypatch: pytest.MonkeyPatch, pictures: list[list[np.ndarray]]) -> None:
    """Let the pipeline find these masks in each picture: the road's first, then those of cars."""

    def predict_many(self: Pipeline, images: Iterator[np.ndarray], **options: object) -> Iterator[object]:
        for _, masks in zip(images, pictures, strict=True):
            infos = [
                Segment(id=n, label=int(n > 1), is_thing=n > 1, score=0.9, area=int(mask.sum()))
                for n, mask in enumerate(masks, 1)
                if mask.any()
            ]
            segments = sum((mask * n for n, mask in enumerate(masks, 1)), np.zeros((40, 60))).astype(np.int32)
            cars = Instances(
                labels=np.ones(len(masks) - 1, np.int64),
                scores=np.full(len(masks) - 1, 0.9, np.float32),
                masks=np.stack(masks[1:]).astype(np.bool_),
            )
            panoptic = Panoptic(segments=segments, infos=tuple(infos))
            yield SimpleNamespace(
                panoptic=lambda panoptic=panoptic, **thresholds: panoptic, instances=lambda top, cars=cars: cars
            )

    monkeypatch.setattr(Pipeline, "predict_many", predict_many)


def _masks(folder: Path) -> list[np.ndarray]:
    stored = np.array(Image.open(folder / "annotations" / "panoptic_val2017" / "0.png"))[..., 0]
    return [stored == one for one in (ROAD, *CARS)]


def test_what_is_right_has_all_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = _write(tmp_path)
    _answer(monkeypatch, [_masks(tmp_path)] * 3)
    report = clouds.evaluate_segments(_compose(), [spec])
    scores = report.domains["coco-panoptic:val"]
    assert (scores.images, scores.pq, scores.sq, scores.rq) == (3, 100, 100, 100)
    assert (scores.pq_things, scores.pq_stuff) == (100, 100)
    # in the void picture all cars are wrong, and in the others found first: images of equal score keep their order
    assert scores.ap == pytest.approx(100)
    assert (report.pq, report.ap) == (scores.pq, scores.ap)


def test_instances_in_one_segment_are_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = _write(tmp_path, count=2)
    road, one, two = _masks(tmp_path)
    _answer(monkeypatch, [[road, one | two]] * 2)
    scores = clouds.evaluate_segments(_compose(), [spec]).domains["coco-panoptic:val"]
    assert scores.class_pq == {"road": 100, "car": 0}
    assert (scores.pq, scores.pq_things, scores.pq_stuff) == (50, 0, 100)
    # the IoU with each car is 1/2, enough at 0.5 alone, where one of two is found
    assert scores.class_ap50 == {"road": None, "car": pytest.approx(100 * 51 / 101)}
    assert scores.ap == pytest.approx(10 * 51 / 101)


def test_a_report_has_text_json_and_html(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = _write(tmp_path)
    _answer(monkeypatch, [_masks(tmp_path)] * 3)
    report = clouds.evaluate_segments(_compose(), [spec], short_side=64)
    text = report.to_text()
    assert "images at short side 64; mask threshold 0.8, overlap threshold 0.8; AP with 100 instances" in text
    assert [line.split() for line in text.splitlines() if line.startswith("  road")] == [
        ["road", "100.0", "100.0", "100.0", "–", "–"]
    ]
    document = json.loads(report.to_json())
    assert document["domains"]["coco-panoptic:val"]["class_pq"] == {"road": 100, "car": 100}
    assert "PQ of things" in report.to_html()


def test_a_pipeline_is_scored_in_one_piece_and_in_any_batches(tmp_path: Path) -> None:
    spec, pipeline = _write(tmp_path), _compose()
    reports = [
        clouds.evaluate_segments(pipeline, [spec], batch_size=size, object_mask_threshold=0.0, overlap_threshold=0.0)
        for size in (1, 3)
    ]
    assert reports[0].domains["coco-panoptic:val"].pq is not None
    assert reports[0].to_json() == reports[1].to_json()


def test_stuff_alone_has_no_precision(tmp_path: Path) -> None:
    scores = clouds.evaluate_segments(_compose(labels=LABELS), [_write(tmp_path)]).domains["coco-panoptic:val"]
    assert (scores.ap, scores.pq_things) == (None, None)
    assert scores.pq is not None


def test_what_cannot_be_scored_is_refused(tmp_path: Path) -> None:
    spec = _write(tmp_path)
    with pytest.raises(
        ConfigError, match=r"head LinearHead predicts one mask per class, so instances cannot be told apart"
    ):
        clouds.evaluate_segments(_compose(head="linear"), [spec])
    for folder in ("images", "labels"):
        (tmp_path / folder / "val").mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / folder / "val" / "0.png")
    with pytest.raises(ConfigError, match=r"evaluate_segments: folder:.*:val: label files of kind 'folder' number no"):
        clouds.evaluate_segments(_compose(), [f"folder:{tmp_path}"])
    (tmp_path / "fold.toml").write_text('[fold]\ncar = "ignore"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"coco-panoptic:val has a \[fold\], which joins classes but not"):
        clouds.evaluate_segments(_compose(), [spec], configs=tmp_path / "fold.toml")
    with pytest.raises(ConfigError, match="overlap_threshold is 2"):
        clouds.evaluate_segments(_compose(), [spec], overlap_threshold=2.0)
    Image.fromarray(np.zeros((40, 61, 3), np.uint8)).save(tmp_path / "val2017" / "1.jpg")
    with pytest.raises(DataError, match=r"1\.jpg is 40x61, but its label .*1\.png is 40x60"):
        clouds.evaluate_segments(_compose(), [spec])
