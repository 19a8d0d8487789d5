"""Atomic writing of files and folders: a killed run never leaves an incomplete file under its final name."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import os
import re
import shutil
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from clouds.core.system.errors import ConfigError, DataError

_LOCK = ".lock"
_UNFINISHED = re.compile(r"\.(.*)\.[0-9a-f]{8}\.(tmp|old)(\..*)?", re.DOTALL)  # names of unfinished files and folders
_AT_FDCWD, _EXCHANGE = -100, 2  # of <fcntl.h> and <linux/fs.h>


@contextmanager
def naming(path: str | os.PathLike[str]) -> Generator[None]:
    """Add the file name to an OSError that lacks one, such as "disk full"."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Generator[Path]:
    """Yield a temporary path beside `path`; it replaces `path` on success and is removed on an error.

    Raises:
        DataError: `path` is a folder, a device, or anything else that is no regular file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_file(Path(folder) / "a.txt") as temporary:
    ...         _ = temporary.write_text("whole")
    ...     (Path(folder) / "a.txt").read_text()
    'whole'
    """
    target = Path(path)
    if target.exists() and not target.is_file():
        raise DataError(f"{target} is not a regular file, and cannot be replaced by one; choose another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:8]}.tmp{target.suffix}")
    try:
        with naming(target):
            yield temporary
            _sync(temporary)
            os.replace(temporary, target)
            _sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def only_writer(path: str | os.PathLike[str]) -> Generator[BinaryIO]:
    """Open a file with "a+b" and lock it until the block ends. It is created if missing; a killed process releases it.

    Raises:
        DataError: another process, or another part of this one, holds the lock.
    """
    with open(target_in(Path(path).parent, Path(path).name), "a+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"{path}: another run is writing to this folder; wait until it has ended, or choose another folder"
            ) from None
        yield stream


@contextmanager
def own_folder(path: str | os.PathLike[str], *, marker: str) -> Generator[Path]:
    """Create or take a folder and lock it until the block ends.

    An existing folder must be empty or hold `marker`, the file that identifies folders of this type. Unfinished files
    of killed processes are ignored and removed. The owner writes `marker` first, atomically. A refused folder is not
    changed.

    Raises:
        DataError: the folder has other content, or another process, or another part of this one, owns it.
    """
    folder = Path(path)
    _require(folder, marker)
    folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder / _LOCK):
        _require(folder, marker)  # again, now that the folder is locked
        for parent, folders, names in os.walk(folder):
            for left in [Path(parent, name) for name in (*folders, *names) if name[0] == "."]:
                if _is_unfinished(left):
                    _clear_leftover(left)
        yield folder


def _require(folder: Path, marker: str) -> None:
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is not a folder; choose another one")
    if not _may_take(folder, marker, passing=lambda path: path.name == _LOCK or _is_unfinished(path)):
        raise DataError(f"{folder} is not empty and has no {marker}; choose another folder")


def _may_take(folder: Path, marker: str, *, passing: Callable[[Path], bool] = lambda _: False) -> bool:
    """Whether the folder is missing, holds `marker`, or holds only `passing` files."""
    if not folder.exists():
        return True
    return folder.is_dir() and ((folder / marker).is_file() or all(map(passing, folder.iterdir())))


def _is_unfinished(path: Path) -> bool:
    return _UNFINISHED.fullmatch(path.name) is not None


def _clear_leftover(left: Path) -> None:
    """Remove a leftover of a killed process; a folder that it was about to replace gets its name back."""
    found = _UNFINISHED.fullmatch(left.name)
    if found and found[2] == "old" and not left.with_name(found[1]).exists():
        os.replace(left, left.with_name(found[1]))
    elif left.is_dir() and not left.is_symlink():
        shutil.rmtree(left, ignore_errors=True)
    else:
        left.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str], *, marker: str) -> Generator[Path]:
    """Yield a temporary folder beside `path`; on success it replaces `path`.

    An existing folder is replaced only if it is empty or holds `marker`, the file that identifies folders of this type.
    If the file system can exchange names, `path` is at every moment the old or the new folder. Leftovers of killed
    calls are removed.

    Raises:
        DataError: `path` exists and is something else.
    """
    target = Path(path)
    if not _may_take(target, marker):
        raise DataError(f"{target} exists and has no {marker}; choose another folder, or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    _clear_abandoned(target)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir()
    try:
        with _in_use(temporary):
            yield temporary
            for part in (*temporary.rglob("*"), temporary):
                _sync(part)
            _move_into_place(temporary, target)
            _sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # the new folder after an error, else the old one


@contextmanager
def _in_use(folder: Path) -> Generator[None]:
    """Mark a folder as in use until the block or the process ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _clear_abandoned(target: Path) -> None:
    """Settle temporary folders beside `target` that are no longer in use."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.*"):
        if _is_unfinished(left) and left.is_dir():
            with suppress(BlockingIOError, FileNotFoundError), _in_use(left):
                _clear_leftover(left)


def _move_into_place(temporary: Path, target: Path) -> None:
    """Rename `temporary` to `target`; an existing `target` is renamed to `temporary`."""
    if not target.exists():
        os.replace(temporary, target)
        return
    if _exchange(temporary, target):
        return
    old = temporary.with_suffix(".old")  # without exchange, `target` is missing between two renames
    os.replace(target, old)
    os.replace(temporary, target)
    os.replace(old, temporary)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names atomically; False if the file system does not support it."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # Linux only
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(other))


def _sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    if path.is_symlink():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file atomically. Undecodable bytes of file names are escaped, as in "\\udcff"."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def link_file(source: Path, target: Path) -> None:
    """Link `target` to `source` unless it exists; a broken link is replaced."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.symlink_to(source.resolve())


def printable(text: str) -> str:
    """Escape control characters and undecodable bytes for a terminal; line ends and tabs stay.

    >>> printable("a\\x1b[2J.png")
    'a\\\\x1b[2J.png'
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in "\n\t" else _escape(letter) for letter in text)


def _escape(letter: str) -> str:
    code = ord(letter)
    byte = 0xDC80 <= code <= 0xDCFF  # surrogate of an undecodable byte
    return f"\\x{code - 0xDC00:02x}" if byte else letter.encode("unicode_escape").decode()


def cache_folder(name: str) -> Path:
    """Cache folder `name` in `CLOUDS_CACHE`, or else in `clouds` of the user's cache."""
    base = os.environ.get("CLOUDS_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clouds"
    return (Path(base) if base else home) / name


def without_tilde(path: str | os.PathLike[str]) -> Path:
    """Replace a leading `~` or `~user` by the home folder.

    Raises:
        ConfigError: the user does not exist.
    """
    try:
        return Path(path).expanduser()
    except (RuntimeError, ValueError) as error:  # ValueError: a name with a null byte
        raise ConfigError(f"{path}: no home folder of that user; give the path itself") from error


def inside(root: str | os.PathLike[str], name: str, *, links: bool = False) -> Path:
    """Return `root / name`; names that lead out of `root` are refused.

    Args:
        root: the folder.
        name: path relative to it.
        links: allow links to other places, for files that are only read.

    Raises:
        DataError: the name is absolute or leads out of the folder.
    """
    base = Path(root).resolve()
    if "\0" in name:
        raise DataError(f"{name!r} has a null character; names in {base} must not")
    path = Path(os.path.normpath(base / name)) if links else (base / name).resolve()
    if not path.is_relative_to(base):
        raise DataError(f"{name!r} leads out of {base}; names must stay inside their folder")
    return path


def target_in(root: str | os.PathLike[str], name: str) -> Path:
    """Return `root / name` for writing; neither the file nor a folder below `root` may link out of `root`.

    Raises:
        DataError: a link or the name itself leads out of `root`.
    """
    try:
        inside(root, name)
    except DataError as error:
        if ".." in Path(name).parts or Path(name).is_absolute() or "\0" in name:
            raise
        raise DataError(
            f"{Path(root) / name} is, or lies behind, a link out of {root}; nothing is written there: remove the link, "
            "or choose another folder"
        ) from error
    return Path(root) / name
