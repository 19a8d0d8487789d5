"""Generated datasets on disk: `images/`, perhaps `labels/`, and `manifest.jsonl` with one JSON row per image.

A row is appended after its files are complete, with one write; a line that a killed run left unfinished has no line
end, and is dropped. A later row replaces an earlier one of the same index.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from textwrap import shorten
from typing import Any

from attrs import asdict, field, frozen

from clouds.core.config import structure
from clouds.core.errors import ConfigError, DataError
from clouds.core.files import inside
from clouds.core.plan import Part

FILE_NAME = "manifest.jsonl"
_ROW_START = b'{"index": '


@frozen(kw_only=True)
class StoredFile:
    """A file of the set: its path relative to the folder, its length in bytes, and its SHA-256 in hex."""

    file: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, folder: Path, name: str) -> StoredFile:
        """Describe a file that was just written."""
        with open(folder / name, "rb") as stream:
            digest = file_digest(stream, "sha256").hexdigest()
            return cls(file=name, bytes=stream.tell(), sha256=digest)

    def fault(self, folder: Path) -> str | None:
        """What is wrong with the file, or None. Raises `DataError` when its name leads out of the folder."""
        path = inside(folder, self.file)
        if not path.is_file():
            return f"{path}: is missing, though {FILE_NAME} lists it"
        length = path.stat().st_size
        return None if length == self.bytes else f"{path}: has {length} bytes; {FILE_NAME} says {self.bytes}"


@frozen(kw_only=True)
class MadeBy:
    """The generator as a plan names it. Its version is recorded, but two versions count as one generator."""

    name: str
    options: dict[str, Any]
    distribution: str
    version: str = field(eq=False)
    ready: str = ""

    @classmethod
    def of(cls, part: Part) -> MadeBy:
        """Take over what the plan says."""
        return cls(
            name=part.name,
            options=part.options,
            distribution=part.distribution,
            version=part.version,
            ready=part.ready,
        )


@frozen(kw_only=True)
class Row:
    """One image of a generated dataset, and what it was made from.

    Attributes:
        index: number of the image, from 0.
        file, bytes, sha256: the picture; see `StoredFile`.
        prompt, seed, size, steps, guidance: the request; see `clouds.GenerationRequest`. size is (height, width).
        prompt_index: number of the prompt in its list.
        generator: what drew it.
        libraries: versions by distribution.
        keep_labels: whether exact labels were asked for.
        labels: the label map (train ids), or None when not asked for or not known.
    """

    index: int
    file: str
    bytes: int
    sha256: str
    prompt: str
    prompt_index: int
    seed: int
    size: tuple[int, int]
    steps: int | None
    guidance: float | None
    generator: MadeBy
    libraries: dict[str, str]
    keep_labels: bool
    labels: StoredFile | None

    def faults(self, folder: Path) -> list[str]:
        """What is wrong with the files of this row; empty when all are there and complete."""
        files = [StoredFile(file=self.file, bytes=self.bytes, sha256=self.sha256)]
        files += [self.labels] if self.labels else []
        return [fault for file in files if (fault := file.fault(folder))]


@frozen(kw_only=True)
class _Manifest:
    rows: tuple[Row, ...]


@frozen(kw_only=True)
class GeneratedSet:
    """A generated dataset whose files are all there.

    Attributes:
        folder: where it lies.
        rows: one per image, by index.
        images: their files, in the same order.
        labels: exact label maps in the same order, or None unless every image has one.
    """

    folder: Path
    rows: tuple[Row, ...]
    images: tuple[Path, ...]
    labels: tuple[Path, ...] | None


def open_generated(folder: str | os.PathLike[str]) -> GeneratedSet:
    """Open a generated dataset and check that every listed file is there with its size.

    Raises:
        DataError: no manifest, a foreign one, a name that leads out of the folder, or a file that is missing or of
            another size; the message names it.
    """
    folder = Path(folder)
    rows = read_rows(folder)
    faults = [fault for row in rows for fault in row.faults(folder)]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise DataError(f"{faults[0]}{more}; generate into {folder} again to make what is missing")
    label_files = [row.labels.file for row in rows if row.labels]
    return GeneratedSet(
        folder=folder,
        rows=rows,
        images=tuple(inside(folder, row.file) for row in rows),
        labels=tuple(inside(folder, name) for name in label_files) if len(label_files) == len(rows) else None,
    )


def read_rows(folder: Path) -> tuple[Row, ...]:
    """The rows of a manifest by index, whatever became of the files.

    Raises:
        DataError: there is no manifest, or it holds something else.
    """
    path = folder / FILE_NAME
    try:
        whole, _, torn = path.read_bytes().rpartition(b"\n")
        if not torn.startswith(_ROW_START[: len(torn)]):
            raise ValueError("its last line is no row")
        documents = [json.loads(line) for line in whole.split(b"\n") if line]
        rows = structure({"rows": documents}, _Manifest, source=str(path)).rows
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: no such file; give a folder that `clouds generate` wrote") from None
    except (ValueError, ConfigError) as error:
        reason = shorten(str(error), 300, placeholder=" ...")  # every row may be wrong in every key
        raise DataError(f"{path}: not the manifest of a generated dataset: {reason}") from error
    latest = {row.index: row for row in rows}
    return tuple(latest[index] for index in sorted(latest))


@contextmanager
def appending(folder: Path) -> Generator[Callable[[Row], None]]:
    """Yield a function that appends a row to the manifest and waits until it is on disk.

    The manifest is made if missing, and a line that a killed run left unfinished is cut off.
    """
    path = folder / FILE_NAME
    with open(path, "a+b") as stream:
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)

        def append(row: Row) -> None:
            stream.write(json.dumps(asdict(row), ensure_ascii=False).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

        yield append
