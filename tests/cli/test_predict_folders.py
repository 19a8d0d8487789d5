"""`clouds predict` on many images, as a user calls it: formats, resume, broken images."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from cli_helpers import Outcome
from PIL import Image

import clouds
from clouds.core.contract.labels import LabelSpace
from clouds.core.contract.records import HeadOutput
from clouds.core.pipeline.segments import ImageMasks
from clouds.core.system.images import write_png
from clouds.inference.folder import FILE_NAME, ROWS
from clouds.inference.formats import FORMATS, confidence, run_lengths

NAMES = ("a", "b")
PROGRAM = (sys.executable, "-c", "import sys; from clouds.cli.app import main; sys.exit(main())")


def call(*words: object) -> Outcome:
    """Run the command in a process of its own."""
    done = subprocess.run([*PROGRAM, *map(str, words)], capture_output=True, text=True, timeout=300)
    return Outcome(done.returncode, done.stdout, done.stderr)


def results(folder: Path) -> set[str]:
    """Names of the result files."""
    return {path.name for path in folder.iterdir()} - {FILE_NAME, ROWS, ".lock"}


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline with masks and things."""
    pipeline = clouds.compose(
        backbone={"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
        head={"name": "mask2former", "queries": 8, "width": 64, "layers": 1, "encoder_layers": 1},
        device="cpu",
    )
    pipeline.trained = True
    folder = tmp_path_factory.mktemp("masks") / "checkpoint"
    pipeline.save(folder)
    return folder


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_of_a_folder(name: str, masks: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = call("predict", masks, photos / "images" / "val", "--format", name, "--out", out, "--device", "cpu")
    assert outcome == Outcome(0, f"2 images predicted, 0 existed: {name} in {out}\n", "")
    assert results(out) == {f"{one}{ending}" for one in NAMES for ending in FORMATS[name].files.values()}
    found = clouds.load(masks, device="cpu").predict(photos / "images" / "val" / "a.png")
    _check(name, out, found)


def _check(name: str, out: Path, found: clouds.Prediction) -> None:
    """The files of image a say what the prediction says."""
    space = found.label_space

    def pixels(ending: str) -> np.ndarray:
        with Image.open(out / f"a{ending}") as picture:
            return np.asarray(picture)

    if name == "train-ids":
        assert np.array_equal(pixels(".png"), found.labels)
    elif name in ("ids", "cityscapes-ids"):
        assert np.array_equal(pixels(".png"), np.array(space.ids)[found.labels])
    elif name == "color":
        assert np.array_equal(pixels("_color.png"), np.array(space.palette, np.uint8)[found.labels])
    elif name == "overlay":
        assert np.array_equal(pixels("_overlay.png"), np.asarray(found.overlay()))
    elif name == "scores":
        assert np.array_equal(np.load(out / "a_scores.npy"), found.scores().astype(np.float16))
    elif name == "confidence":
        assert np.array_equal(pixels("_confidence.png"), (confidence(found.scores()) * 255).round().astype(np.uint8))
    elif name == "panoptic":
        rgb = pixels("_panoptic.png").astype(int)
        panoptic = found.panoptic()
        assert np.array_equal(rgb[..., 0] + 256 * rgb[..., 1] + 256**2 * rgb[..., 2], panoptic.segments)
        document = json.loads((out / "a_panoptic.json").read_text(encoding="utf-8"))
        assert document["file_name"] == "a_panoptic.png"
        expected = [(one.id, one.label, one.area) for one in panoptic.infos]
        assert [(one["id"], one["category_id"], one["area"]) for one in document["segments_info"]] == expected
    else:
        rows = json.loads((out / "a_instances.json").read_text(encoding="utf-8"))
        instances = found.instances()
        assert [row["category_id"] for row in rows] == instances.labels.tolist()
        for row, mask in zip(rows, instances.masks, strict=True):
            assert np.array_equal(_decoded(row["segmentation"]), mask)
            left, top, width, height = row["bbox"]
            assert mask[top : top + height, left : left + width].sum() == mask.sum()


def test_panoptic_and_instances_as_coco_has_them() -> None:
    """Two cars side by side on a road: three masks of one class each, on a map of a quarter of the size."""
    space = LabelSpace.from_names(["road", "car"], things=["car"])
    masks = torch.full((1, 3, 2, 4), -9.0)
    masks[0, 1, :, 0] = masks[0, 2, :, 3] = masks[0, 0, :, 1:3] = 9.0
    classes = 9.0 * torch.eye(3)[[0, 1, 1]][None]
    output = HeadOutput(class_logits=classes, mask_logits=masks)
    found = clouds.Prediction(
        labels=np.zeros((8, 16), np.uint8),
        image=np.zeros((8, 16, 3), np.uint8),
        label_space=space,
        compute_scores=lambda: np.zeros((2, 8, 16), np.float32),
        find_masks=lambda: ImageMasks(output=output, valid_size=(8, 16), size=(8, 16)),
    )
    files = FORMATS["panoptic"].encode(found, "street")
    ids = np.asarray(Image.open(BytesIO(files["_panoptic.png"])))[..., 0]
    document = json.loads(files["_panoptic.json"])
    assert [(one["category"], one["isthing"]) for one in document["segments_info"]] == [
        ("road", 0),
        ("car", 1),
        ("car", 1),
    ]
    for one in document["segments_info"]:
        rows, columns = np.nonzero(ids == one["id"])
        left, top, width, height = one["bbox"]
        assert (left, top) == (columns.min(), rows.min())
        assert (left + width - 1, top + height - 1) == (columns.max(), rows.max())
        assert one["area"] == len(rows)
    rows = json.loads(FORMATS["instances"].encode(found, "street")["_instances.json"])
    masks_found = found.instances().masks
    best = [row for row in rows if row["score"] > 0.9]
    assert [row["category"] for row in best] == ["car", "car"]
    for row, mask in zip(rows, masks_found, strict=True):
        assert np.array_equal(_decoded(row["segmentation"]), mask)


def _decoded(code: dict[str, list[int]]) -> np.ndarray:
    """The mask of a run-length code, column by column."""
    values = np.arange(len(code["counts"])) % 2
    return np.repeat(values, code["counts"]).reshape(code["size"], order="F").astype(bool)


@pytest.mark.parametrize("mask", [np.eye(3, 4, dtype=bool), np.zeros((2, 2), bool), np.ones((1, 3), bool)])
def test_run_lengths_give_the_mask_back(mask: np.ndarray) -> None:
    counts = run_lengths(mask)
    assert np.array_equal(_decoded({"size": list(mask.shape), "counts": counts}), mask)


def test_confidence_is_the_share_of_the_best_class() -> None:
    scores = np.array([[[3.0, 0.0]], [[1.0, 0.0]]], np.float32)
    assert confidence(scores).tolist() == [[0.75, 0.0]]


def test_several_formats_scales_and_mirror_images(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    """The labels are the best class of the mean scores, which are written as float16: they agree where it is clear."""
    options = ("--scales", 1, 1.5, "--flip", "--format", "train-ids", "--format", "scores", "--window", 48)
    outcome = call("predict", checkpoint, f"folder:{photos}:val", *options, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    labels, scores = np.asarray(Image.open(tmp_path / "out" / "a.png")), np.load(tmp_path / "out" / "a_scores.npy")
    image = np.asarray(Image.open(photos / "images" / "val" / "a.png"))
    pipeline, expected = clouds.load(checkpoint), np.zeros(scores.shape, np.float32)
    for side in (40, 60):
        for step in (1, -1):
            view = np.ascontiguousarray(image[:, ::step])
            expected += pipeline.predict(view, short_side=side, window=48).scores()[..., ::step] / 4
    np.testing.assert_allclose(scores, expected, rtol=2**-10, atol=1e-4)  # half a step of float16, and of a batch
    best = np.sort(expected, axis=0)
    clear = best[-1] - best[-2] > 1e-3 * best[-1]
    assert np.array_equal(labels[clear], expected.argmax(0)[clear])
    outcome = call("predict", checkpoint, photos / "images" / "val", *options[:4], "--format", "panoptic")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "format panoptic needs masks, and several scales or mirror images average class scores" in outcome.err


def test_a_second_run_predicts_only_what_is_missing(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    pictures, out = photos / "images" / "val", tmp_path / "out"
    words = ("predict", checkpoint, pictures, "--out", out)
    assert call(*words).out == f"2 images predicted, 0 existed: train-ids, overlay in {out}\n"
    before = (out / "a.png").stat().st_mtime_ns
    (out / "b_overlay.png").unlink()
    write_png(pictures / "c.png", np.zeros((8, 8, 3), np.uint8))
    assert call(*words).out == f"2 images predicted, 1 existed: train-ids, overlay in {out}\n"
    assert (out / "a.png").stat().st_mtime_ns == before
    assert results(out) == {f"{one}{ending}" for one in "abc" for ending in (".png", "_overlay.png")}
    write_png(pictures / "a.png", np.zeros((9, 9, 3), np.uint8))  # another image under the same name
    assert call(*words).out == f"1 images predicted, 2 existed: train-ids, overlay in {out}\n"
    with Image.open(out / "a.png") as labels:
        assert labels.size == (9, 9)


def test_a_killed_run_is_finished_by_the_next(checkpoint: Path, tmp_path: Path) -> None:
    pictures, out, count = tmp_path / "pictures", tmp_path / "out", 200
    rng = np.random.default_rng(0)
    for index in range(count):
        write_png(pictures / f"{index:03}.png", rng.integers(0, 256, (64, 64, 3), np.uint8))
    words = ("predict", checkpoint, pictures, "--out", out, "--device", "cpu")
    run = subprocess.Popen([*PROGRAM, *map(str, words)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 200
        while not ((out / ROWS).exists() and (out / ROWS).read_bytes().count(b"\n") >= 5):
            assert run.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.kill(run.pid, signal.SIGKILL)
        run.wait(60)
    done = (out / ROWS).read_bytes().count(b"\n")
    assert done < count
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("00[0-4]*.png")}
    outcome = call(*words)
    assert outcome.out == f"{count - done} images predicted, {done} existed: train-ids, overlay in {out}\n"
    assert kept == {name: (out / name).stat().st_mtime_ns for name in kept}
    assert call("predict", checkpoint, pictures, "--out", tmp_path / "alone", "--device", "cpu").code == 0
    assert results(out) == results(tmp_path / "alone")
    for name in results(out):
        assert (out / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


@pytest.mark.parametrize("views", [(), ("--flip",)])
def test_broken_pictures_are_named_and_the_rest_is_done(
    checkpoint: Path, photos: Path, tmp_path: Path, views: tuple[str, ...]
) -> None:
    pictures, out = photos / "images" / "val", tmp_path / "out"
    (pictures / "aa.png").write_bytes(b"hello")
    (pictures / "cut.png").write_bytes((pictures / "a.png").read_bytes()[:1000])
    Image.new("1", (20_000, 10_000)).save(pictures / "huge.png")  # 200 megapixels
    words = ("predict", checkpoint, pictures, "--out", out, "--format", "train-ids", "--zip", "--json", *views)
    outcome = call(*words)
    assert outcome.code == 1
    lines = outcome.err.splitlines()
    assert len(lines) == 3
    for line, word in zip(lines, ["not a picture", "truncated", "10000 x 20000 pixels"], strict=True):
        assert line.startswith(f"error: {pictures}/")
        assert word in line
    rows = {Path(row.pop("image")).name: row for row in json.loads(outcome.out)}
    assert {name for name, row in rows.items() if "error" in row} == {"aa.png", "cut.png", "huge.png"}
    assert rows["a.png"] == {"labels": str(out / "a.png")}
    assert results(out) == {"a.png", "b.png"}
    assert not (tmp_path / "out.zip").exists()
    for name in ("aa", "cut", "huge"):
        (pictures / f"{name}.png").unlink()
    assert call(*words).code == 0
    assert ZipFile(tmp_path / "out.zip").namelist() == ["a.png", "b.png"]
    (pictures / "b.png").write_bytes(b"broken since")
    assert call(*words).code == 1
    assert results(out) == {"a.png"}
    assert not (tmp_path / "out.zip").exists()


def test_masks_of_an_image_in_windows(masks: Path, photos: Path, tmp_path: Path) -> None:
    words = ("--window", 32, "--format", "panoptic", "--out", tmp_path / "out")
    outcome = call("predict", masks, photos / "images" / "val" / "a.png", *words)
    assert outcome.code == 1
    assert outcome.out == f"0 images predicted, 0 existed, 1 failed: panoptic in {tmp_path / 'out'}\n"
    assert "a.png: an image of 40 x 50 pixels was segmented in windows of 32 pixels" in outcome.err
    assert outcome.err.count("\n") == 1


def _refused(outcome: Outcome, *words: str, code: int = 1) -> None:
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (code, "", 1), outcome
    assert all(word in outcome.err for word in words), outcome.err


def test_what_is_refused_is_said_in_one_line(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    pictures, out = photos / "images" / "val", tmp_path / "out"
    (tmp_path / "empty").mkdir()
    _refused(call("predict", checkpoint, tmp_path / "empty", "--out", out), "empty: holds no picture")
    (pictures / "a.jpg").write_bytes((pictures / "a.png").read_bytes())
    _refused(
        call("predict", checkpoint, pictures, "--out", out),
        f"results of {pictures / 'a.jpg'} and {pictures / 'a.png'} would both be {out / 'a.png'}; predict them",
    )
    (pictures / "a.jpg").unlink()
    twice = ("--format", "ids", "--format", "train-ids")
    _refused(call("predict", checkpoint, pictures, *twice), "formats ids and train-ids both write NAME.png", code=2)
    assert not out.exists()


def test_predictions_of_two_kinds_are_never_mixed(checkpoint: Path, masks: Path, photos: Path, tmp_path: Path) -> None:
    pictures, out = photos / "images" / "val", tmp_path / "out"
    assert call("predict", checkpoint, pictures / "a.png", "--out", out).code == 0
    _refused(call("predict", masks, pictures, "--out", out), f"{out} was predicted with checkpoint.", "choose another")
    _refused(
        call("predict", checkpoint, pictures, "--out", out, "--short-side", 32),
        "with short_side None, not with 32; choose",
    )
    (tmp_path / "other").mkdir()
    write_png(tmp_path / "other" / "a.png", np.zeros((8, 8, 3), np.uint8))
    _refused(call("predict", checkpoint, tmp_path / "other", "--out", out), "other/a.png would both be")
    _refused(call("predict", checkpoint, pictures, "--out", photos), "is not empty and has no predictions.json")
    (out / ROWS).write_text("{}\n", encoding="utf-8")
    _refused(call("predict", checkpoint, pictures, "--out", out), "predictions.jsonl: not the rows of predictions")
