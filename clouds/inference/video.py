"""Videos: frames as images, and predictions as a video, with PyAV (FFmpeg)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from clouds.core.pipeline.prediction import Prediction
from clouds.core.system.errors import ConfigError, DataError
from clouds.core.system.files import atomic_file
from clouds.core.system.images import MAX_PIXELS

ENDINGS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
_CODEC, _PIXELS = "libx264", "yuv420p"  # what browsers and players show
_QUARTER = 90  # degrees
_SLACK = 2  # frames
_CLOCK = re.compile(r"(\d+):(\d+):(\d+\.\d+)")


def is_video(place: str | os.PathLike[str]) -> bool:
    """Whether a name ends as those of videos."""
    return Path(place).suffix.lower() in ENDINGS


def read_frames(path: Path, *, max_pixels: int = MAX_PIXELS) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """The frames of a video, RGB and upright.

    Raises:
        ConfigError: PyAV is not installed.
        DataError: the file is no video, has no frame, larger frames than `max_pixels`, or is damaged; frames before the
            damage come first.
    """
    with _opened(path) as (av, container):
        stream = _video_stream(container, path)
        if stream.width * stream.height > max_pixels:
            raise DataError(
                f"{path}: has frames of {stream.height} x {stream.width} pixels (height x width), more than "
                f"{max_pixels}; if they are meant, allow for it: --max-pixels"
            )
        stream.thread_type = "AUTO"
        count, end = 0, 0.0
        with _decoding(av, path):
            for frame in container.decode(stream):
                count, end = count + 1, float((frame.time or 0) + (frame.duration or 0) * frame.time_base)
                yield upright(frame)
        if not count:
            raise DataError(f"{path}: is a video without frames; expected at least one")
        _check_whole(stream, path, count, end)


def _check_whole(stream: Any, path: Path, count: int, end: float) -> None:
    """Compare with the number of frames, or the duration, that the file states. Decoders may leave out `_SLACK` frames.

    Args:
        count: decoded frames.
        end: of the last one, in seconds.
    """
    stated = _seconds(stream.metadata.get("DURATION", ""))  # of Matroska and WebM
    if count + _SLACK < stream.frames:
        broken = f"after {count} of {stream.frames} frames"
    elif end + _SLACK / float(stream.average_rate or 25) < stated:
        broken = f"after {end:.2f} of {stated:.2f} seconds"
    else:
        return
    raise DataError(f"{path}: breaks off {broken}; the file may be truncated or damaged")


def _seconds(clock: str) -> float:
    """Seconds of "hours:minutes:seconds", 0 for another text."""
    found = _CLOCK.fullmatch(clock)
    hours, minutes, seconds = map(float, found.groups() if found else (0, 0, 0))
    return 3600 * hours + 60 * minutes + seconds


def frame_rate(path: Path) -> Fraction:
    """Mean number of frames per second. Raises as `read_frames`."""
    with _opened(path) as (_, container):
        return _video_stream(container, path).average_rate or Fraction(25)


def check_video(path: Path, *, max_pixels: int = MAX_PIXELS) -> None:
    """Decode the first frame. Raises as `read_frames`."""
    frames = read_frames(path, max_pixels=max_pixels)
    next(frames)
    frames.close()  # pyright: ignore[reportAttributeAccessIssue]


def upright(frame: Any) -> UInt8[np.ndarray, "h w 3"]:
    """Pixels of a decoded frame, turned by its `rotation`: degrees counterclockwise, in quarters."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / _QUARTER) % 4))


def write_video(
    predictions: Iterable[Prediction], picture: Callable[[Prediction], np.ndarray], *, out: Path, rate: Fraction
) -> int:
    """Write a picture of each prediction to an H.264 video, atomically. Returns the number of frames.

    Args:
        predictions: frames of one size; an odd height or width is extended by its last row or column, because H.264
            stores colours for 2 x 2 pixels.
        picture: draws a prediction, uint8 "h w 3" or "h w".
        out: the file; its ending chooses the container.
        rate: frames per second.

    Raises:
        ConfigError: PyAV is not installed, or the container cannot hold H.264.
    """
    av, count = _av(), 0
    with atomic_file(out) as temporary, av.open(str(temporary), "w") as container:
        stream: Any = None
        for prediction in predictions:
            frame = av.VideoFrame.from_ndarray(_even(picture(prediction)), format="rgb24")
            stream = stream or _add_stream(container, frame, rate, out)
            container.mux(stream.encode(frame))
            count += 1
        container.mux(stream.encode() if stream else [])
    return count


def _add_stream(container: Any, frame: Any, rate: Fraction, out: Path) -> Any:
    try:
        stream = container.add_stream(_CODEC, rate=rate)
    except ValueError as error:
        raise ConfigError(f"{out}: cannot be written as H.264 ({error}); choose .mp4, .mov or .mkv") from error
    stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, _PIXELS
    return stream


def _even(pixels: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    colored = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    height, width = colored.shape[:2]
    return np.pad(colored, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _av() -> Any:
    try:
        import av
    except ModuleNotFoundError:
        raise ConfigError("videos need PyAV, which is not installed: pip install 'clouds-dgss[video]'") from None
    return av


@contextmanager
def _opened(path: Path) -> Generator[tuple[Any, Any]]:
    """PyAV, and the opened file."""
    av = _av()
    with _decoding(av, path):
        container = av.open(str(path))
    with container:
        yield av, container


@contextmanager
def _decoding(av: Any, path: Path) -> Generator[None]:
    try:
        yield
    except av.FFmpegError as error:
        raise DataError(
            f"{path}: cannot be read as a video ({error.strerror}); the file may be truncated or damaged"
        ) from error


def _video_stream(container: Any, path: Path) -> Any:
    if not container.streams.video:
        raise DataError(f"{path}: has no video stream; expected a video with frames")
    return container.streams.video[0]
