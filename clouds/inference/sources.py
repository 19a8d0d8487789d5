"""Which images are predicted, and the names of their results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from attrs import frozen

from clouds.core.pipeline.many import find_files
from clouds.core.pipeline.prediction import ImageLike
from clouds.core.system.errors import DataError
from clouds.inference.formats import find_formats


@frozen
class Source:
    """An image to predict.

    Attributes:
        name: result files are called NAME and the ending of their format.
        path: the image file.
        image: what is given to the pipeline.
    """

    name: str
    path: Path
    image: ImageLike


def find_sources(places: Sequence[str]) -> list[Source]:
    """The images of files, folders, glob patterns and dataset SPECs, in the order of the places, each once.

    Raises:
        ConfigError: a SPEC is invalid.
        DataError: a place holds no image.
    """
    paths = dict.fromkeys(path for place in places for path in find_files(place))
    return [Source(path.stem, path, path) for path in paths]


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
        for file in (f"{one.name}{ending}" for ending in endings):
            if file in owners:
                raise shared_file(owners[file], one.path, out / file)
            if (out / file).resolve() in inputs:
                raise DataError(f"{out / file} is one of the images and would be overwritten; choose another --out")
            owners[file] = one.path


def shared_file(one: Path, other: Path, file: Path) -> DataError:
    """The error that two images would have one result file."""
    return DataError(f"results of {one} and {other} would both be {file}; predict them separately")
