"""The manifest of a generated dataset: `manifest.jsonl` with one JSON row per image.

A row is appended in one write after its files are complete. A killed run may leave a partial line without line end,
which is dropped. A later row replaces an earlier one with the same index.
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

from attrs import Factory, asdict, field, fields, frozen

from clouds.core.contract.labels import LabelKind
from clouds.core.contract.plan import Part
from clouds.core.system.config import structure, to_json
from clouds.core.system.errors import ConfigError, DataError
from clouds.core.system.files import inside, naming, only_writer

FILE_NAME = "manifest.jsonl"
_ROW_START = b'{"index": '
_SHARED_START = b', "generator": '  # JSON escapes quotes in texts, so a prompt never contains this


@frozen(kw_only=True)
class StoredFile:
    """A file of the dataset: its path relative to the folder, its size in bytes, and its SHA-256 in hex."""

    file: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, folder: Path, name: str) -> StoredFile:
        """Hash and measure a file."""
        with open(folder / name, "rb") as stream:
            digest = file_digest(stream, "sha256").hexdigest()
            return cls(file=name, bytes=stream.tell(), sha256=digest)


class FileLengths:
    """Sizes of the files in a folder. Each subfolder is listed once, which is faster than querying 100,000 files one by
    one; files written later are not seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._lengths: dict[str, dict[str, int]] = {}

    def length(self, name: str) -> int | None:
        """Size of a file in bytes, or None if it does not exist.

        Raises:
            DataError: the name points outside the folder.
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
    """The generator as in a plan. The version is recorded, but ignored in comparisons."""

    name: str
    options: dict[str, Any]
    distribution: str
    version: str = field(eq=False)
    ready: str = ""

    @classmethod
    def of(cls, part: Part) -> MadeBy:
        """Copy the fields of a plan's part."""
        return cls(
            name=part.name,
            options=part.options,
            distribution=part.distribution,
            version=part.version,
            ready=part.ready,
        )


@frozen(kw_only=True)
class Row:
    """One image of a generated dataset, and its provenance.

    Attributes:
        index: number of the image, from 0.
        file, bytes, sha256: the image file; see `StoredFile`.
        prompt, seed: prompt and seed of the request; see `clouds.GenerationRequest`.
        prompt_index: index of the prompt in the list of prompts.
        fingerprint: perceptual hash of the image, 16 hexadecimal digits; see `clouds.synthesis.filters`.
        scores: score by filter name.
        labels: the label map (train ids); None if not requested or unknown.
        label_kind: "exact" if the generator made the labels with the image, "inherited" if they are those of the
            labelled image that it was made from, "pseudo" if there are none, so that a teacher has to make them.
        regions: "labelled" and "dropped" number of connected regions of an inherited label map, if a filter compared
            them with the image; dropped ones are 255 (ignore).
        origin: what the image was made from besides the prompt, such as file, hash and crop of a photograph; or None.
        prompt_origin: who wrote the prompt; see `clouds.Prompt`.
        generator: the generator.
        model: the generator's `describe`: hub id or folder, revision, weights, scheduler, dtype, ...
        source: the labelled dataset that the images were made from, with the classes of its labels; or None.
        size: (height, width).
        steps, guidance: values of the request, or the generator's defaults; None if it has no such setting.
        batch_size: number of images generated together.
        filters: minimum score by filter name.
        libraries: version by distribution.
        keep_labels: whether labels were requested.
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
    label_kind: LabelKind = Factory(lambda row: "exact" if row.labels else "pseudo", takes_self=True)
    regions: dict[str, int] | None = None
    origin: dict[str, Any] | None = None
    prompt_origin: dict[str, Any] | None = None
    # The rows of one run share the following values, which are parsed once.
    generator: MadeBy
    model: dict[str, Any]
    source: dict[str, Any] | None = None
    size: tuple[int, int]
    steps: int | None
    guidance: float | None
    batch_size: int
    filters: dict[str, float]
    libraries: dict[str, str]
    keep_labels: bool

    def faults(self, files: FileLengths, *, verify: bool = False) -> list[str]:
        """Faults of this row's files; empty if all are complete."""
        stored = (self, self.labels) if self.labels else (self,)
        return [fault for one in stored if (fault := _fault(one, files, verify=verify))]


def _fault(stored: Row | StoredFile, files: FileLengths, *, verify: bool) -> str | None:
    """The fault of a file, or None. Raises `DataError` if its name points outside the folder."""
    length = files.length(stored.file)
    if length is None:
        return f"{files.folder / stored.file}: is missing, but listed in {FILE_NAME}"
    if length != stored.bytes:
        return f"{files.folder / stored.file}: has {length} bytes; {FILE_NAME} says {stored.bytes}"
    if verify and stored.sha256 != StoredFile.of(files.folder, stored.file).sha256:
        return f"{files.folder / stored.file}: its SHA-256 differs from {FILE_NAME}"
    return None


_NAMES = [one.name for one in fields(Row)]
_SHARED = _NAMES[_NAMES.index("generator") :]


class _RowReader:
    """Parses rows. Types are checked once per form of row, and shared values are parsed once."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._shared: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._prompts: dict[str, str] = {}

    def read(self, line: bytes) -> Row:
        """Raises `ConfigError` or `ValueError` if the line is not a row."""
        own, comma, shared = line.partition(_SHARED_START)
        if not comma:
            return structure(json.loads(line), Row, source=self._source)  # raises an error that names the missing keys
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
    """Names and types of the values; documents of equal form are either all valid or all invalid."""
    types = (*map(type, values.values()),)
    inner = [_form(value) for value in values.values() if type(value) is dict] if dict in types else ()
    return (*values, *types, *inner)


def read_rows(folder: Path) -> tuple[Row, ...]:
    """The rows of a manifest by index; the files are not checked.

    Raises:
        DataError: there is no manifest, or it is invalid.
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
        raise ValueError("its last line is not a row")


@contextmanager
def appending(folder: Path) -> Generator[Callable[[Row], None]]:
    """Yield a function that appends a row to the manifest and waits until it is on disk.

    The manifest is created if missing, and locked until the block ends or the process dies. The first row replaces a
    partial line of a killed run.

    Raises:
        DataError: another process is appending to it.
    """
    with only_writer(folder / FILE_NAME) as stream:
        yield lambda row: append_line(stream, asdict(row))


def append_line(stream: BinaryIO, document: dict[str, Any]) -> None:
    """Append a document to a file of JSON lines, opened with "a+b", and wait until it is on disk.

    A partial last line of a killed run is removed.
    """
    with naming(stream.name):
        if stream.seek(0, os.SEEK_END):
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                stream.seek(0)
                stream.truncate(sum(len(line) for line in stream if line.endswith(b"\n")))
        stream.write(to_json(document).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
