"""Which images are predicted, and the names of their results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path

from attrs import frozen

from clouds.core.pipeline.many import find_files
from clouds.core.pipeline.prediction import ImageLike
from clouds.core.system.errors import DataError
from clouds.core.system.images import MAX_PIXELS
from clouds.inference.formats import find_formats
from clouds.inference.video import check_video, is_video, read_frames


@frozen
class Source:
    """An image to predict.

    Attributes:
        name: result files are called NAME and the ending of their format.
        path: the image file, or the video.
        image: what is given to the pipeline; the path of a video stands for its frames.
        frame: number of the frame of a video, from 0.
    """

    name: str
    path: Path
    image: ImageLike
    frame: int | None = None

    @property
    def origin(self) -> str:
        """The absolute path, and for a frame its number."""
        return str(self.path.absolute()) + ("" if self.frame is None else f"#{self.frame}")


def find_sources(places: Sequence[str], *, max_pixels: int = MAX_PIXELS) -> list[Source]:
    """The images of files, folders, glob patterns and dataset SPECs, and videos, in order, each once.

    Raises:
        ConfigError: a SPEC is invalid, or PyAV is needed and not installed.
        DataError: a place holds no image, or a video has no frame that can be decoded; see `read_frames`.
    """
    paths = dict.fromkeys(path for place in places for path in _find(place))
    for path in filter(is_video, paths):
        check_video(path, max_pixels=max_pixels)
    return [Source(path.stem, path, path) for path in paths]


def _find(place: str) -> list[Path]:
    if not is_video(place):
        return find_files(place)
    found = sorted(map(Path, glob(place, recursive=True))) if has_magic(place) else [Path(place)]
    missing = [path for path in found if not path.is_file()]
    if missing or not found:
        raise DataError(f"{missing[0] if missing else place}: no such video")
    return found


def each_image(
    sources: Iterable[Source], *, max_pixels: int, on_error: Callable[[Source, DataError], object]
) -> Iterator[Source]:
    """The sources, with the frames NAME_000000, NAME_000001, ... of each video in its place.

    Args:
        sources: images and videos.
        max_pixels: see `read_frames`.
        on_error: called with a video that is damaged, and its error; frames before the damage come first.
    """
    for source in sources:
        if not is_video(source.path):
            yield source
            continue
        try:
            for index, frame in enumerate(read_frames(source.path, max_pixels=max_pixels)):
                yield Source(_frame_name(source.name, index), source.path, frame, index)
        except DataError as error:
            on_error(source, error)


def _frame_name(name: str, index: int) -> str:
    return f"{name}_{index:06}"


def check_names(sources: Iterable[Source], formats: Sequence[str], out: Path) -> None:
    """Refuse images whose results would share a file or overwrite an image.

    Raises:
        DataError: names the images and the file.
    """
    endings = [ending for one in find_formats(formats) for ending in one.files.values()]
    listed = list(sources)
    inputs = {one.path.resolve() for one in listed}
    owners: dict[str, Path] = {}
    for one in listed:
        name = _frame_name(one.name, 0) if is_video(one.path) else one.name
        for file in (f"{name}{ending}" for ending in endings):
            if file in owners:
                raise shared_file(owners[file], one.path, out / file)
            if (out / file).resolve() in inputs:
                raise DataError(f"{out / file} is one of the images and would be overwritten; choose another --out")
            owners[file] = one.path


def shared_file(one: Path, other: Path, file: Path) -> DataError:
    """The error that two images would have one result file."""
    return DataError(f"results of {one} and {other} would both be {file}; predict them separately")
