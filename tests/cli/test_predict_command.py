"""`clouds predict`."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import Run, assert_one_line
from PIL import Image

import clouds

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (40, 50, 3), np.uint8)


def test_results_keep_name_and_size(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    picture = tmp_path / "street.jpg"
    Image.fromarray(PIXELS).save(picture)
    before = picture.read_bytes()
    outcome = run("predict", checkpoint, picture, "--out", tmp_path / "out", "--json")
    assert outcome.code == 0, outcome.err
    (document,) = json.loads(outcome.out)
    assert document["image"] == str(picture)
    with Image.open(tmp_path / "out" / "street.png") as labels:
        assert (labels.mode, labels.size) == ("L", (50, 40))
        assert np.asarray(labels).max() < 19
    with Image.open(document["overlay"]) as overlay:
        assert (overlay.mode, overlay.size) == ("RGB", (50, 40))
    assert picture.read_bytes() == before


@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray(RNG.integers(0, 256, (20, 30, 4), np.uint8), "RGBA"),
        Image.fromarray(PIXELS).convert("L"),
        Image.fromarray(PIXELS).convert("P"),
        Image.fromarray(PIXELS[:1, :1]),
        Image.fromarray(PIXELS[:1]),
    ],
    ids=["RGBA", "greyscale", "palette", "1x1", "1 row"],
)
def test_unusual_pictures_just_work(run: Run, checkpoint: Path, tmp_path: Path, picture: Image.Image) -> None:
    picture.save(tmp_path / "odd.png")
    outcome = run("predict", checkpoint, tmp_path / "odd.png", "--out", tmp_path / "out")
    assert (outcome.code, outcome.err) == (0, "")
    with Image.open(tmp_path / "out" / "odd.png") as labels:
        assert labels.size == picture.size


def test_a_short_side_keeps_the_size_of_the_results(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    run("predict", checkpoint, tmp_path / "a.png", "--out", tmp_path / "out", "--short-side", 64)
    with Image.open(tmp_path / "out" / "a.png") as labels:
        assert labels.size == (50, 40)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (None, "no such file"),
        (b"hello", "not a picture"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "truncated"),
        ("truncated", "truncated"),
        ("16 bit", "more than 8 bits"),
        ("folder", "holds no picture"),
    ],
)
def test_bad_pictures_are_named_and_nothing_is_written(
    run: Run, checkpoint: Path, tmp_path: Path, content: bytes | str | None, word: str
) -> None:
    picture = tmp_path / "bad.png"
    if isinstance(content, bytes):
        picture.write_bytes(content)
    elif content == "truncated":
        Image.fromarray(PIXELS).save(picture)
        picture.write_bytes(picture.read_bytes()[:1000])
    elif content == "16 bit":
        Image.fromarray(np.zeros((4, 4), np.uint16)).save(picture)
    elif content == "folder":
        picture.mkdir()
    outcome = run("predict", checkpoint, picture, "--out", tmp_path / "out")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert outcome.err.startswith(f"error: {picture}")
    assert word in outcome.err
    assert not list(tmp_path.glob("out/*.png"))


def test_folders_patterns_and_datasets_stand_for_their_pictures(
    run: Run, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "c.png")
    for place in (photos / "images" / "val", f"{photos}/images/val/*.png", f"folder:{photos}:val"):
        outcome = run("predict", checkpoint, place, tmp_path / "c.png", "--out", tmp_path / "out", "--json")
        assert outcome.code == 0, outcome.err
        assert [Path(one["image"]).name for one in json.loads(outcome.out)] == ["a.png", "b.png", "c.png"]
    outcome = run("predict", checkpoint, "folder:nowhere", "--out", tmp_path / "out")
    assert_one_line(outcome, "folder:nowhere", "no folder nowhere/images")


@pytest.mark.parametrize("place", ["{}/images/val", "{}/images/val/*", "folder:{}:val"])
def test_files_that_are_no_pictures_are_counted_and_named(
    run: Run, checkpoint: Path, photos: Path, tmp_path: Path, place: str
) -> None:
    (photos / "images" / "val" / "c.gif").write_bytes(b"GIF89a")
    (photos / "images" / "val" / "d.png").symlink_to("nowhere.png")
    if place.startswith("folder:"):  # where links are followed, and one that leads nowhere is an error when it is read
        (photos / "images" / "val" / "d.png").rename(photos / "images" / "val" / "d.raw")
    outcome = run("predict", checkpoint, place.format(photos), "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert outcome.out == f"2 images predicted, 0 existed: train-ids, overlay in {tmp_path / 'out'}\n"
    assert re.fullmatch(
        r"note: .*val: 2 files \(c\.gif, d\.(png|raw)\): not read; pictures are files that end in \.jpg, .*\n"
        if not place.endswith("*")
        else r"note: .*/\*: 2 files \(c\.gif, d\.png\): not read; pictures are files that end in .*\n",
        outcome.err,
    )


def test_batches_write_the_same_files(run: Run, checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    for batch_size in (1, 3):
        out = tmp_path / str(batch_size)
        outcome = run("predict", checkpoint, photos / "images" / "val", "--out", out, "--batch-size", batch_size)
        assert (outcome.code, outcome.err) == (0, "")
        assert sorted(path.name for path in out.glob("*.png")) == ["a.png", "a_overlay.png", "b.png", "b_overlay.png"]
    for name in ("a.png", "b.png"):
        one, many = (np.asarray(Image.open(tmp_path / size / name)) for size in ("1", "3"))
        assert (one != many).mean() < 0.01  # where two classes are equal to rounding
    outcome = run("predict", checkpoint, photos / "images" / "val", "--batch-size", 0)
    assert_one_line(outcome, "--batch-size", "Must be >= 1", code=2)


def test_pictures_of_one_name_are_refused(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    for name in ("x/a.png", "y/a.jpg", "a.png", "a_overlay.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(PIXELS).save(tmp_path / name)
    outcome = run("predict", checkpoint, tmp_path / "x" / "a.png", tmp_path / "y" / "a.jpg")
    assert_one_line(outcome, "x/a.png and", "y/a.jpg would both be predictions/a.png; predict them separately")
    outcome = run("predict", checkpoint, tmp_path / "a.png", tmp_path / "a_overlay.png")
    assert_one_line(outcome, "a.png and", "would both be predictions/a_overlay.png")


def test_a_picture_is_never_overwritten(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(picture)
    before = picture.read_bytes()
    outcome = run("predict", checkpoint, picture, "--out", tmp_path)
    assert_one_line(outcome, str(picture), "is one of the images and would be overwritten; choose another --out")
    assert picture.read_bytes() == before


def test_an_untrained_head_warns(run: Run, tmp_path: Path, checkpoint: Path) -> None:
    pipeline = clouds.load(checkpoint)
    pipeline.trained = False
    pipeline.save(tmp_path / "raw")
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    with pytest.warns(clouds.UntrainedHeadWarning, match="the head LinearHead has not been trained"):
        outcome = run("predict", tmp_path / "raw", tmp_path / "a.png", "--out", tmp_path / "out")
    assert outcome.out == f"1 images predicted, 0 existed: train-ids, overlay in {tmp_path / 'out'}\n"
