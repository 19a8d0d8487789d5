"""A folder of predictions that can be continued.

`predictions.json` says how they are made; `predictions.jsonl` has a row for each image whose files are complete.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from attrs import asdict, field, frozen

from clouds.core.system.config import parse_json, structure
from clouds.core.system.errors import ConfigError, DataError
from clouds.core.system.files import atomic_file, own_folder, target_in
from clouds.core.system.images import MAX_PIXELS
from clouds.core.system.progress import progress_bar
from clouds.inference.encoder import Encoded, Named
from clouds.inference.sources import Source, each_image, shared_file
from clouds.synthesis.manifest import FileLengths, StoredFile, append_line
from clouds.synthesis.provenance import require_provenance

FILE_NAME = "predictions.json"
ROWS = "predictions.jsonl"


@frozen(kw_only=True)
class Row:
    """The result of one image.

    Attributes:
        name: name of the result files.
        image: the image file; for a frame of a video, the video, # and the frame's number.
        image_bytes, image_modified: its size, and the time of its last change in nanoseconds.
        files: the result files.
    """

    name: str
    image: str
    image_bytes: int
    image_modified: int
    files: tuple[StoredFile, ...]

    @classmethod
    def of(cls, source: Source, files: tuple[StoredFile, ...]) -> Row:
        """The row of an image as it is now."""
        found = source.path.stat()
        return cls(
            name=source.name,
            image=source.origin,
            image_bytes=found.st_size,
            image_modified=found.st_mtime_ns,
            files=files,
        )

    def complete(self, lengths: FileLengths) -> bool:
        """Whether the files have their sizes."""
        return all(lengths.length(one.file) == one.bytes for one in self.files)


@frozen(kw_only=True)
class PredictedFolder:
    """What a run did.

    Attributes:
        images: all images, by name of the result files.
        written: names of the images predicted in this run.
        existing: names of the images that were complete before.
        failures: error by name of the image.
    """

    images: dict[str, Path] = field(factory=dict)
    written: list[str] = field(factory=list)
    existing: list[str] = field(factory=list)
    failures: dict[str, str] = field(factory=dict)


def predict_folder(
    encode: Callable[[Iterable[Named]], Iterator[Encoded]],
    sources: Iterable[Source],
    *,
    out: str | os.PathLike[str],
    made_with: Mapping[str, Any],
    max_pixels: int = MAX_PIXELS,
    total: int | None = None,
    report: Callable[[str], object] = lambda _: None,
    progress: bool = False,
) -> PredictedFolder:
    """Predict the images whose results `out` lacks; repeating the call finishes an interrupted run.

    Files are written atomically, the row last. An image that has changed since is predicted again. An image that cannot
    be read is reported, and the rest is done.

    Args:
        encode: predicts images; see `clouds.inference.encoder.Encoder.encode`.
        sources: images and videos with different names; taken as they are needed.
        out: folder of the results; new, or from an earlier run.
        made_with: provenance as plain values, so that `out` never mixes different ones.
        max_pixels: limit for frames of videos.
        total: number of sources for the progress bar, if known.
        report: called with the error of each image that failed.
        progress: show a progress bar on standard error if it is a terminal.

    Raises:
        DataError: `out` holds something else or predictions of another kind, another process is writing to it, or a
            name has results of another image.
    """
    with own_folder(out, marker=FILE_NAME) as folder, progress_bar(shown=progress) as bar:
        require_provenance(folder / FILE_NAME, dict(made_with), verb="predicted")
        run = _Run(folder, read_rows(folder), FileLengths(folder), max_pixels, report)
        bar_task = bar.add_task("predict", total=total)
        with open(target_in(folder, ROWS), "a+b") as stream:
            for one in encode(run.missing(sources)):
                if one.error:
                    run.fail(one)
                else:
                    append_line(stream, asdict(run.store(one)))
                bar.update(bar_task, completed=run.finished)
    return run.result


def read_rows(folder: Path) -> dict[str, Row]:
    """Rows by name; a later row replaces an earlier one, and the partial last line of a killed run is left out.

    Raises:
        DataError: a line is no row.
    """
    path, rows = folder / ROWS, dict[str, Row]()
    if not path.exists():
        return rows
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                row = structure(parse_json(line), Row, source=f"line {number}")
            except (ValueError, TypeError, ConfigError) as error:
                raise DataError(f"{path}: not the rows of predictions: {error}; choose another folder") from error
            rows[row.name] = row
    return rows


def zip_path(folder: Path) -> Path:
    """FOLDER.zip."""
    return folder.with_name(f"{folder.name}.zip")


def write_zip(folder: Path, files: Sequence[Path]) -> None:
    """Write FOLDER.zip atomically with the files at its top level."""
    with atomic_file(zip_path(folder)) as temporary, ZipFile(temporary, "w") as archive:
        for file in files:
            archive.write(file, file.name)


@frozen
class _Run:
    """Predictions under way in a folder."""

    folder: Path
    rows: dict[str, Row]
    lengths: FileLengths
    max_pixels: int
    report: Callable[[str], object]
    result: PredictedFolder = field(factory=PredictedFolder)
    waiting: dict[str, Source] = field(factory=dict)

    @property
    def finished(self) -> int:
        return len(self.result.written) + len(self.result.existing) + len(self.result.failures)

    def missing(self, sources: Iterable[Source]) -> Iterator[Named]:
        """Images without complete results."""
        for source in each_image(sources, max_pixels=self.max_pixels, on_error=self.note):
            self.result.images[source.name] = (
                source.path if source.frame is None else Path(f"{source.path}#{source.frame}")
            )
            row = self.rows.get(source.name)
            if row and row.image != source.origin:
                raise shared_file(Path(row.image), source.path, self.folder / row.files[0].file)
            if row and row.complete(self.lengths) and row == Row.of(source, row.files):
                self.result.existing.append(source.name)
            else:
                self.waiting[source.name] = source
                yield source.name, source.image

    def store(self, found: Encoded) -> Row:
        """Write the files of an image. Returns its row."""
        files: list[StoredFile] = []
        for ending, content in found.files.items():
            name = f"{found.name}{ending}"
            with atomic_file(target_in(self.folder, name)) as temporary:
                temporary.write_bytes(content)
            files.append(StoredFile(file=name, bytes=len(content), sha256=sha256(content).hexdigest()))
        self.result.written.append(found.name)
        return Row.of(self.waiting.pop(found.name), tuple(files))

    def fail(self, found: Encoded) -> None:
        """Note and report the error of an image. Results of what it was before are removed."""
        del self.waiting[found.name]
        for one in self.rows[found.name].files if found.name in self.rows else ():
            target_in(self.folder, one.file).unlink(missing_ok=True)
        self.result.failures[found.name] = found.error
        self.report(found.error)

    def note(self, video: Source, error: DataError) -> None:
        """Note and report the error of a video."""
        self.result.images[video.name] = video.path
        self.result.failures[video.name] = str(error)
        self.report(str(error))
