"""The manifest of a generated dataset: `manifest.jsonl` with one JSON row per image.

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
from typing import Any, BinaryIO

from attrs import asdict, field, fields, frozen

from clouds.core.contract.plan import Part
from clouds.core.system.config import structure, to_json
from clouds.core.system.errors import ConfigError, DataError
from clouds.core.system.files import inside, naming, only_writer

FILE_NAME = "manifest.jsonl"
_ROW_START = b'{"index": '
_SHARED_START = b', "generator": '  # a quote inside a JSON text has a backslash, so this is never part of a prompt


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


class FileLengths:
    """Lengths of the files in a folder. Each folder below it is listed once, which is faster than to ask for each
    of 100,000 files; what is written later is not seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._lengths: dict[str, dict[str, int]] = {}

    def length(self, name: str) -> int | None:
        """Bytes of a file, or None when there is none.

        Raises:
            DataError: the name leads out of the folder.
        """
        parent, _, file = name.rpartition("/")
        if parent not in self._lengths:
            self._lengths[parent] = self._list(parent, "/" * name.startswith("/"))
        return self._lengths[parent].get(file)

    def _list(self, parent: str, root: str) -> dict[str, int]:
        path = inside(self.folder, parent or root, links=True)
        if not path.is_dir():
            return {}
        with os.scandir(path) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}


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
        prompt, seed: of the request; see `clouds.GenerationRequest`.
        prompt_index: number of the prompt in its list.
        fingerprint: perceptual hash of the picture, 16 hexadecimal digits; see `clouds.synthesis.filters`.
        scores: what each filter measured, by its name.
        labels: the label map (train ids), or None when not asked for or not known.
        generator: what drew it.
        model: what the generator says about itself: hub id or folder, revision, weights, scheduler, dtype, ...
        size: (height, width).
        steps, guidance: of the request, or what the generator took in its place; None when it has no such thing.
        batch_size: number of images that were drawn together.
        filters: the least score that each filter let pass, by its name.
        libraries: versions by distribution.
        keep_labels: whether exact labels were asked for.
    """

    index: int
    file: str
    bytes: int
    sha256: str
    prompt: str
    prompt_index: int
    seed: int
    fingerprint: str
    scores: dict[str, float]
    labels: StoredFile | None
    # From here on rows of one run are alike, and share their values when they are read.
    generator: MadeBy
    model: dict[str, Any]
    size: tuple[int, int]
    steps: int | None
    guidance: float | None
    batch_size: int
    filters: dict[str, float]
    libraries: dict[str, str]
    keep_labels: bool

    def faults(self, files: FileLengths, *, verify: bool = False) -> list[str]:
        """What is wrong with the files of this row; empty when all are there and complete."""
        stored = (self, self.labels) if self.labels else (self,)
        return [fault for one in stored if (fault := _fault(one, files, verify=verify))]


def _fault(stored: Row | StoredFile, files: FileLengths, *, verify: bool) -> str | None:
    """What is wrong with a file, or None. Raises `DataError` when its name leads out of the folder."""
    length = files.length(stored.file)
    if length is None:
        return f"{files.folder / stored.file}: is missing, though {FILE_NAME} lists it"
    if length != stored.bytes:
        return f"{files.folder / stored.file}: has {length} bytes; {FILE_NAME} says {stored.bytes}"
    if verify and stored.sha256 != StoredFile.of(files.folder, stored.file).sha256:
        return f"{files.folder / stored.file}: its SHA-256 is not the one in {FILE_NAME}"
    return None


_NAMES = [one.name for one in fields(Row)]
_SHARED = _NAMES[_NAMES.index("generator") :]


class _RowReader:
    """Reads rows. Types are checked once for each form of row, and what rows share is parsed once."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._shared: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._prompts: dict[str, str] = {}

    def read(self, line: bytes) -> Row:
        """Raises `ConfigError` or `ValueError` when the line is no row."""
        own, comma, shared = line.partition(_SHARED_START)
        if not comma:
            return structure(json.loads(line), Row, source=self._source)  # which names the missing keys
        values = json.loads(own.decode() + "}")
        form = (shared, *_form(values))
        if form not in self._shared:
            row = structure(json.loads(line), Row, source=self._source)
            self._shared[form] = {name: getattr(row, name) for name in _SHARED}
        values["prompt"] = self._prompts.setdefault(values["prompt"], values["prompt"])
        if values["labels"]:
            values["labels"] = StoredFile(**values["labels"])
        return Row(**values, **self._shared[form])


def _form(values: dict[str, Any]) -> tuple[Any, ...]:
    """Names and types, so that two documents of one form are both right or both wrong."""
    types = (*map(type, values.values()),)
    inner = [_form(value) for value in values.values() if type(value) is dict] if dict in types else ()
    return (*values, *types, *inner)


def read_rows(folder: Path) -> tuple[Row, ...]:
    """The rows of a manifest by index, whatever became of the files.

    Raises:
        DataError: there is no manifest, or it holds something else.
    """
    path = folder / FILE_NAME
    latest: dict[int, Row] = {}
    reader = _RowReader(str(path))
    try:
        with open(path, "rb") as stream:
            for line in stream:
                if not line.endswith(b"\n"):
                    _check_torn(line)
                elif line != b"\n":
                    row = reader.read(line)
                    latest[row.index] = row
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: no such file; give a folder that `clouds generate` wrote") from None
    except (ValueError, TypeError, RecursionError, ConfigError) as error:
        reason = shorten(str(error), 300, placeholder=" ...")
        raise DataError(f"{path}: not the manifest of a generated dataset: {reason}") from error
    return tuple(latest[index] for index in sorted(latest))


def _check_torn(line: bytes) -> None:
    if not line.startswith(_ROW_START[: len(line)]):
        raise ValueError("its last line is no row")


@contextmanager
def appending(folder: Path) -> Generator[Callable[[Row], None]]:
    """Yield a function that appends a row to the manifest and waits until it is on disk.

    The manifest is made if missing. Until the block ends nobody else can append to it; a process that is killed
    gives it free. A line that a killed run left unfinished is cut off with the first row.

    Raises:
        DataError: another run appends to it.
    """
    with only_writer(folder / FILE_NAME) as stream:
        yield lambda row: append_line(stream, asdict(row))


def append_line(stream: BinaryIO, document: dict[str, Any]) -> None:
    """Add a document to a file of JSON lines, opened with "a+b", and wait until it is on disk. A last line without
    end, which a killed run left, is cut off."""
    with naming(stream.name):
        if stream.seek(0, os.SEEK_END):
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                stream.seek(0)
                stream.truncate(sum(len(line) for line in stream if line.endswith(b"\n")))
        stream.write(to_json(document).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
