"""Writing files so that a killed run never leaves one that a later run takes for complete."""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from clouds.core.errors import DataError


@contextmanager
def naming(path: str | os.PathLike[str]) -> Generator[None]:
    """Give an error of the system the name of the file that is written within the block; a full disk names none."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Generator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on an error it is removed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_file(Path(folder) / "a.txt") as temporary:
    ...         _ = temporary.write_text("whole")
    ...     (Path(folder) / "a.txt").read_text()
    'whole'
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:8]}.tmp{target.suffix}")
    try:
        with naming(target):
            yield temporary
            with open(temporary, "rb+") as stream:
                os.fsync(stream.fileno())
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def only_writer(path: str | os.PathLike[str]) -> Generator[BinaryIO]:
    """Yield a file, opened with "a+b", that nobody else can open in this way until the block ends. It is made if
    missing; a process that is killed gives it free.

    Raises:
        DataError: another process, or another part of this one, has it.
    """
    with open(path, "a+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"{path}: another run is writing to this folder; wait until it has ended, or choose another folder"
            ) from None
        yield stream


@contextmanager
def atomic_folder(path: str | os.PathLike[str], *, marker: str) -> Generator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`.

    An existing folder is replaced only when it is empty or holds `marker`, the file that shows that it is of the same
    sort. Without that it is left alone.

    Raises:
        DataError: `path` exists and is something else.
    """
    target = Path(path)
    if target.exists() and not (target.is_dir() and ((target / marker).is_file() or not any(target.iterdir()))):
        raise DataError(f"{target} exists and has no {marker}; choose another folder, or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex[:8]
    temporary, old = target.with_name(f".{target.name}.{token}.tmp"), target.with_name(f".{target.name}.{token}.old")
    temporary.mkdir()
    try:
        yield temporary
        if target.exists():
            os.replace(target, old)
        os.replace(temporary, target)
        shutil.rmtree(old, ignore_errors=True)  # only now: an interrupt before this line must not lose both
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file (UTF-8) in one piece. Bytes of a file name that are no text are written as in "\\udcff"."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def cache_folder(name: str) -> Path:
    """Where what can be computed again is kept: `name` in `CLOUDS_CACHE`, or in `clouds` of the user's cache."""
    base = os.environ.get("CLOUDS_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clouds"
    return (Path(base) if base else home) / name


def inside(root: str | os.PathLike[str], name: str, *, links: bool = False) -> Path:
    """Return `root / name`, refusing names that lead out of `root`.

    Args:
        root: the folder.
        name: below it.
        links: whether links below the folder may lead anywhere, as they may where files are only read.

    Raises:
        DataError: the name is absolute or climbs out of the folder.
    """
    base = Path(root).resolve()
    if "\0" in name:
        raise DataError(f"{name!r} has a null character; names in {base} must not")
    path = Path(os.path.normpath(base / name)) if links else (base / name).resolve()
    if not path.is_relative_to(base):
        raise DataError(f"{name!r} leads out of {base}; names must stay inside their folder")
    return path
