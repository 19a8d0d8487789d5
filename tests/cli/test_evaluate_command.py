"""`clouds evaluate` with protocols and benchmarks, and the lists of both."""

import json
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import Run, assert_one_line
from PIL import Image

import clouds
from clouds.core.system.images import write_png
from clouds.evaluation.protocols import BENCHMARKS, PROTOCOLS


def test_all_protocols_give_one_table(run: Run, checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    spec, page = f"folder:{photos}", tmp_path / "report"
    protocols = ("--protocol", "native", "slide-512-341", "whole-native")
    outcome = run("evaluate", checkpoint, "--data", spec, *protocols, "--report", page, "--json", tmp_path / "all.json")
    assert (outcome.code, outcome.err) == (0, "")
    first = [line.split()[0] for line in outcome.out.splitlines() if line.strip()]
    assert [word for word in first if word in PROTOCOLS] == ["native", "slide-512-341", "whole-native"]
    assert outcome.out.count("protocol slide-512-341: images resized to fit 1024 x 512") == 1
    documents = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))["protocols"]
    assert list(documents) == ["native", "slide-512-341", "whole-native"]
    assert json.loads((page / "report.json").read_text(encoding="utf-8"))["protocols"] == documents
    assert "windows of 512 x 512 at stride 341" in (page / "report.html").read_text(encoding="utf-8")


def test_a_report_shows_pictures_and_where_pixels_are_wrong(
    run: Run, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    page = tmp_path / "report"
    outcome = run("evaluate", checkpoint, "--data", f"folder:{photos}", "--report", page, "--calibration")
    assert (outcome.code, outcome.err) == (0, "")
    words = (page / "report.html").read_text(encoding="utf-8")
    for title in ("Worst, median and best images", "Confusions", "Size and boundaries", "Calibration"):
        assert f"<h2>{title}</h2>" in words
    result = json.loads((page / "report.json").read_text(encoding="utf-8"))["domains"]["photos:val"]
    assert result["per_image"].keys() == {"a", "b"}
    assert 0 <= result["calibration"]["ece"] <= 100
    assert sum(one["labelled"] for one in result["analysis"]["bands"].values()) == 2 * 39 * 50
    # The terminal shows the same with and without a report.
    assert run("evaluate", checkpoint, "--data", f"folder:{photos}").out == outcome.out


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another pipeline with the same classes, which counts as trained."""
    tiny = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    pipeline = clouds.compose(backbone=tiny, head={"name": "linear", "width": 8}, device="cpu")
    pipeline.trained = True
    pipeline.save(tmp_path / "other")
    return tmp_path / "other"


def test_checkpoints_against_each_other(run: Run, checkpoint: Path, other: Path, photos: Path, tmp_path: Path) -> None:
    page, data = tmp_path / "report", ("--data", f"folder:{photos}")
    outcome = run("evaluate", checkpoint, "--against", other, *data, "--report", page, "--json", tmp_path / "all.json")
    assert (outcome.code, outcome.err) == (0, "")
    assert "IoU per class on photos:val" in outcome.out
    assert f"{other} − {checkpoint}" in outcome.out
    document = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert list(document["pipelines"]) == [str(checkpoint), str(other)]
    assert list(document["gains"]) == [str(other)]
    words = (page / "report.html").read_text(encoding="utf-8")
    for title in ("IoU per class", "Image by image", "Images that changed most"):
        assert f"<h2>{title}</h2>" in words


def test_checkpoints_that_cannot_be_compared(run: Run, checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    data = ("--data", f"folder:{photos}")
    again = run("evaluate", checkpoint, "--against", checkpoint, *data)
    assert_one_line(again, f"{checkpoint}: is listed twice; compare different checkpoints")
    for words in (("--protocol", "native", "whole-native"), ("--calibration",)):
        outcome = run("evaluate", checkpoint, "--against", tmp_path, *data, *words)
        assert outcome.code == 2
        assert "--against compares under one --protocol, and without --calibration" in outcome.err
    clouds.compose(backbone="tiny", head="linear", device="cpu", labels=["road", "sky"]).save(tmp_path / "two")
    outcome = run("evaluate", checkpoint, "--against", tmp_path / "two", *data)
    assert_one_line(outcome, "two: has 2 classes (road, sky), but", "compare pipelines with the same label space")


def test_a_benchmark_whose_sets_are_missing(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    outcome = run("evaluate", checkpoint, "--benchmark", "city-to-acdc", "--data-root", tmp_path)
    assert_one_line(outcome, f"benchmark 'city-to-acdc': no folder {tmp_path}/acdc; put or link", "--data-root")


def test_faults_are_found_before_the_pipeline_is_built(
    run: Run, checkpoint: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clouds.core.pipeline.composer.load", None)
    data = ("--data", f"folder:{photos}")
    outcome = run("evaluate", checkpoint, *data, "--protocol", "slide-512-341", "--window", 512)
    assert_one_line(outcome, "window=512 contradicts protocol 'slide-512-341'")
    assert_one_line(run("evaluate", checkpoint, *data, "--classes", "synthia-12"), "did you mean 'synthia-1")
    assert_one_line(run("evaluate", checkpoint, *data, "--benchmark", "gta-to-cbm"), "has its own datasets")
    page = photos / "images" / "val" / "a.png"
    assert_one_line(
        run("evaluate", checkpoint, *data, "--report", page),
        f'Invalid value "{page}" for --report. A file is no folder',
        code=2,
    )
    label = photos / "labels" / "val" / "b.png"
    Image.new("L", (25, 20)).save(label)
    outcome = run("evaluate", checkpoint, *data, "--protocol", "clouds-1024")
    assert_one_line(outcome, "protocol 'clouds-1024' does not fit", f"{label} is 20x25")


def test_lists(run: Run) -> None:
    protocols, benchmarks = run("list", "protocols").out, run("list", "benchmarks").out
    for name, protocol in PROTOCOLS.items():
        assert name in protocols
        assert str(protocol) in protocols
    for name, benchmark in BENCHMARKS.items():
        assert name in benchmarks
        assert benchmark.protocol in benchmarks
    document = json.loads(run("list", "benchmarks", "--json").out)
    assert document[0]["evaluated sets"] == "cityscapes:cityscapes:val bdd100k:bdd100k:val mapillary:mapillary:val"


@pytest.fixture
def cars(tmp_path: Path) -> str:
    """A picture of a car on a road, in COCO's panoptic format."""
    pixels = np.ones((40, 64), np.uint8)
    pixels[10:30, 10:40] = 2
    infos = [{"id": one, "category_id": category, "iscrowd": 0} for one, category in ((1, 149), (2, 3))]
    document = {"annotations": [{"file_name": "a.png", "segments_info": infos}]}
    labels = tmp_path / "cars" / "annotations" / "panoptic_val2017"
    (tmp_path / "cars" / "val2017").mkdir(parents=True)
    Image.fromarray(pixels * 80).save(tmp_path / "cars" / "val2017" / "a.jpg")
    write_png(labels / "a.png", pixels[..., None] * np.array([1, 0, 0], np.uint8))
    labels.with_suffix(".json").write_text(json.dumps(document), encoding="utf-8")
    return f"coco-panoptic:{tmp_path / 'cars'}"


def test_segments_are_scored(run: Run, cars: str, tmp_path: Path) -> None:
    head = {"name": "mask2former", "queries": 4, "width": 64, "layers": 1, "encoder_layers": 1}
    pipeline = clouds.compose(backbone="tiny", head=head, device="cpu")
    pipeline.trained = True
    pipeline.save(tmp_path / "model")
    files = ("--json", tmp_path / "all.json", "--report", tmp_path / "page")
    outcome = run("evaluate-segments", tmp_path / "model", cars, "--overlap-threshold", 0.5, *files)
    assert (outcome.code, outcome.err) == (0, "")
    assert "mask threshold 0.8, overlap threshold 0.5" in outcome.out
    assert [line.split()[0] for line in outcome.out.splitlines() if line.startswith("  AP")] == ["AP", "AP50"]
    document = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert list(document["domains"]) == ["coco-panoptic:val"]
    assert json.loads((tmp_path / "page" / "report.json").read_text(encoding="utf-8")) == document
    assert "PQ of stuff" in (tmp_path / "page" / "report.html").read_text(encoding="utf-8")


def test_sets_without_instances_are_refused_before_the_pipeline_is_built(
    run: Run, checkpoint: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clouds.core.pipeline.composer.load", None)
    outcome = run("evaluate-segments", checkpoint, f"folder:{photos}")
    assert_one_line(outcome, "label files of kind 'folder' number no instances; kinds that do: cityscapes-panoptic")


def test_a_head_of_one_mask_per_class_is_refused(run: Run, checkpoint: Path, cars: str) -> None:
    assert_one_line(run("evaluate-segments", checkpoint, cars), "head LinearHead predicts one mask per class")
