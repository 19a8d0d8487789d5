"""`clouds predict` on videos, as a user calls it: frames, a video, damaged files."""

from __future__ import annotations

import json
import subprocess
import sys
import wave
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cli_helpers import Outcome, Run, assert_one_line
from PIL import Image

import clouds
from clouds.core.system.errors import ConfigError, DataError
from clouds.inference.video import read_frames, upright, write_video

av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'clouds-dgss[video]'")
PROGRAM = (sys.executable, "-c", "import sys; from clouds.cli.app import main; sys.exit(main())")
COUNT, SIZE = 5, (48, 64)


def call(*words: object) -> Outcome:
    """Run the command in a process of its own."""
    done = subprocess.run([*PROGRAM, *map(str, words)], capture_output=True, text=True, timeout=300)
    return Outcome(done.returncode, done.stdout, done.stderr)


def write_clip(path: Path, count: int = COUNT) -> None:
    """A video without loss: frames of noise, 10 per second."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "bgr0"
        for _ in range(count):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (*SIZE, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_clip(tmp_path / "clip.mkv")
    return tmp_path / "clip.mkv"


def test_frames_are_the_images(clip: Path) -> None:
    rng = np.random.default_rng(0)
    frames = list(read_frames(clip))
    assert len(frames) == COUNT
    for frame in frames:
        assert np.array_equal(frame, rng.integers(0, 256, (*SIZE, 3), np.uint8))


@pytest.mark.parametrize("name", ["long.mkv", "long.avi"])
def test_a_truncated_video_is_named_after_its_frames(tmp_path: Path, name: str) -> None:
    """The first container states its duration, the second its number of frames."""
    write_clip(tmp_path / name, 20)
    assert len(list(read_frames(tmp_path / name))) == 20
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    found = read_frames(tmp_path / name)
    assert all(next(found).shape == (*SIZE, 3) for _ in range(8))
    with pytest.raises(
        DataError, match=rf"{name}: (breaks off after .* of (20 frames|2.00 seconds)|cannot be read as)"
    ):
        list(found)


def test_a_video_as_frames_that_are_continued(checkpoint: Path, clip: Path, tmp_path: Path) -> None:
    words = ("predict", checkpoint, clip, "--out", tmp_path / "out", "--format", "train-ids")
    assert call(*words) == Outcome(0, f"5 images predicted, 0 existed: train-ids in {tmp_path / 'out'}\n", "")
    names = [path.name for path in sorted((tmp_path / "out").glob("*.png"))]
    assert names == [f"clip_{index:06}.png" for index in range(COUNT)]
    pipeline = clouds.load(checkpoint)
    for name, frame in zip(names, read_frames(clip), strict=True):
        with Image.open(tmp_path / "out" / name) as labels:
            assert np.array_equal(np.asarray(labels), pipeline.predict(frame).labels)
    (tmp_path / "out" / names[2]).unlink()
    outcome = call(*words, "--json")
    assert [Path(row["image"]).name for row in json.loads(outcome.out)] == [f"clip.mkv#{n}" for n in range(COUNT)]
    assert (tmp_path / "out" / names[2]).exists()


def test_a_video_as_a_video(checkpoint: Path, clip: Path, tmp_path: Path) -> None:
    outcome = call("predict", checkpoint, clip, "--out", tmp_path / "new" / "seen.mp4")
    assert outcome == Outcome(0, f"5 frames: overlay in {tmp_path / 'new' / 'seen.mp4'}\n", "")
    with av.open(str(tmp_path / "new" / "seen.mp4")) as container:
        (stream,) = container.streams.video
        assert (stream.height, stream.width, stream.average_rate) == (*SIZE, Fraction(10))
        assert sum(1 for _ in container.decode(stream)) == COUNT
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["seen.mp4"]


@pytest.mark.parametrize(
    "words", [("--format", "scores"), ("--format", "color", "--format", "overlay"), ("--engine", "ray")]
)
def test_what_a_video_file_cannot_be(
    run: Run, checkpoint: Path, clip: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    outcome = run("predict", checkpoint, clip, "--out", tmp_path / "seen.mp4", *words)
    assert_one_line(outcome, "seen.mp4 is a video: give one video, one --format of color, overlay", code=2)
    assert not (tmp_path / "seen.mp4").exists()


def test_a_video_is_no_folder_to_zip(run: Run, checkpoint: Path, clip: Path, tmp_path: Path) -> None:
    outcome = run("predict", checkpoint, clip, "--out", tmp_path / "seen.mp4", "--zip")
    assert_one_line(outcome, "--zip needs a folder of results, but --out", "seen.mp4 is a video", code=2)


def test_a_video_is_never_overwritten(run: Run, checkpoint: Path, clip: Path) -> None:
    outcome = run("predict", checkpoint, clip, "--out", clip)
    assert_one_line(outcome, f"{clip} is the video itself and would be overwritten; choose another --out")


def test_videos_without_frames_are_refused_before_anything_is_written(
    run: Run, checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    sound, empty, text = tmp_path / "sound.avi", tmp_path / "empty.mkv", tmp_path / "text.mp4"
    with wave.open(str(sound), "wb") as stream:
        stream.setparams((1, 2, 8000, 0, "NONE", ""))
        stream.writeframes(bytes(16000))
    text.write_bytes(b"no video" * 100)
    empty.write_bytes(clip.read_bytes()[:600])  # its header
    for path, word in ((sound, "has no video stream"), (text, "cannot be read as a video"), (empty, "empty.mkv: ")):
        outcome = run("predict", checkpoint, path, "--out", tmp_path / "out")
        assert_one_line(outcome, str(path), word)
    outcome = run("predict", checkpoint, tmp_path / "none.mp4", "--out", tmp_path / "out")
    assert_one_line(outcome, "none.mp4: no such video")
    outcome = run("predict", checkpoint, clip, "--max-pixels", 1000, "--out", tmp_path / "out")
    assert_one_line(outcome, "clip.mkv: has frames of 48 x 64 pixels (height x width), more than 1000")
    assert not (tmp_path / "out").exists()


def test_two_videos_of_one_stem(run: Run, checkpoint: Path, clip: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.avi")
    outcome = run("predict", checkpoint, clip, tmp_path / "clip.avi", "--out", tmp_path / "out")
    assert_one_line(outcome, "would both be", "clip_000000.png")


def test_a_video_that_breaks_off_is_named_after_its_frames(
    run: Run, checkpoint: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = list(read_frames(clip))

    def broken(path: Path, *, max_pixels: int) -> object:
        yield from frames[:2]
        raise DataError(f"{path}: cannot be read as a video (damaged)")

    monkeypatch.setattr("clouds.inference.sources.read_frames", broken)
    outcome = run("predict", checkpoint, clip, "--out", tmp_path / "out", "--format", "color")
    assert outcome.code == 1
    assert outcome.out == f"2 images predicted, 0 existed, 1 failed: color in {tmp_path / 'out'}\n"
    assert outcome.err == f"error: {clip}: cannot be read as a video (damaged)\n"


@pytest.mark.parametrize(("degrees", "turns"), [(0, 0), (90, 1), (-90, 3), (180, 2)])
def test_frames_are_turned_upright(degrees: int, turns: int) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    frame = SimpleNamespace(rotation=degrees, to_ndarray=lambda format: pixels)
    assert np.array_equal(upright(frame), np.rot90(pixels, turns))


def test_a_container_that_holds_no_h264(tmp_path: Path, checkpoint: Path) -> None:
    found = clouds.load(checkpoint).predict(np.zeros((9, 11, 3), np.uint8))
    with pytest.raises(ConfigError, match=r"a\.webm: cannot be written as H\.264 .* choose \.mp4"):
        write_video([found], lambda one: one.image, out=tmp_path / "a.webm", rate=Fraction(10))
    assert not list(tmp_path.iterdir())
    assert write_video([found], lambda one: one.labels, out=tmp_path / "a.mp4", rate=Fraction(10)) == 1


def test_without_pyav_the_extra_is_named(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"pip install 'clouds-dgss\[video\]'"):
        list(read_frames(clip))
