"""Writing files so that a killed run never leaves one that a later run takes for complete."""

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
_UNFINISHED = re.compile(r"\.(.*)\.[0-9a-f]{8}\.(tmp|old)(\..*)?", re.DOTALL)  # names of what is being written
_AT_FDCWD, _EXCHANGE = -100, 2  # of <fcntl.h> and <linux/fs.h>


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
            _sync(temporary)
            os.replace(temporary, target)
            _sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def only_writer(path: str | os.PathLike[str]) -> Generator[BinaryIO]:
    """Yield a file, opened with "a+b", that nobody else can open in this way until the block ends. It is made if
    missing; a process that is killed gives it free.

    Raises:
        DataError: another process, or another part of this one, has it.
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
    """Yield a folder that nobody else can own until the block ends.

    It is made if missing. One that exists must be empty or hold `marker`, the file that shows that it is of the same
    sort; what a killed process left unfinished in it counts for nothing, and is removed. Whoever owns a folder writes
    `marker` first, in one piece. A folder that is refused is left alone.

    Raises:
        DataError: it holds something else, or another process, or another part of this one, owns it.
    """
    folder = Path(path)
    _require(folder, marker)
    folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder / _LOCK):
        _require(folder, marker)  # once more, now that nobody else can change it
        for parent, folders, names in os.walk(folder):
            for left in [Path(parent, name) for name in (*folders, *names) if name[0] == "."]:
                if _is_unfinished(left):
                    _settle(left)
        yield folder


def _require(folder: Path, marker: str) -> None:
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is not a folder; choose another one")
    if not _may_take(folder, marker, passing=lambda path: path.name == _LOCK or _is_unfinished(path)):
        raise DataError(f"{folder} is not empty and has no {marker}; choose another folder")


def _may_take(folder: Path, marker: str, *, passing: Callable[[Path], bool] = lambda _: False) -> bool:
    """Whether there is no such folder, or it holds `marker`, or it holds nothing but `passing` files."""
    if not folder.exists():
        return True
    return folder.is_dir() and ((folder / marker).is_file() or all(map(passing, folder.iterdir())))


def _is_unfinished(path: Path) -> bool:
    return _UNFINISHED.fullmatch(path.name) is not None


def _settle(left: Path) -> None:
    """Remove what a killed process left unfinished. A folder that it was about to replace gets its name back."""
    found = _UNFINISHED.fullmatch(left.name)
    if found and found[2] == "old" and not left.with_name(found[1]).exists():
        os.replace(left, left.with_name(found[1]))
    elif left.is_dir() and not left.is_symlink():
        shutil.rmtree(left, ignore_errors=True)
    else:
        left.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str], *, marker: str) -> Generator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`.

    An existing folder is replaced only when it is empty or holds `marker`, the file that shows that it is of the same
    sort. Without that it is left alone. At every moment there is the old folder or the new one at `path`, where the
    file system can exchange two names. What killed calls left beside it is removed.

    Raises:
        DataError: `path` exists and is something else.
    """
    target = Path(path)
    if not _may_take(target, marker):
        raise DataError(f"{target} exists and has no {marker}; choose another folder, or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    _settle_abandoned(target)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir()
    try:
        with _in_use(temporary):
            yield temporary
            for part in (*temporary.rglob("*"), temporary):
                _sync(part)
            _put(temporary, target)
            _sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # the new folder after a fault, otherwise the old one


@contextmanager
def _in_use(folder: Path) -> Generator[None]:
    """Mark a folder as one that a process works on, until the block or the process ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _settle_abandoned(target: Path) -> None:
    """Settle the temporary folders beside `target` that no process works on any more."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.*"):
        if _is_unfinished(left) and left.is_dir():
            with suppress(BlockingIOError, FileNotFoundError), _in_use(left):
                _settle(left)


def _put(temporary: Path, target: Path) -> None:
    """Give `temporary` the name `target`; a folder that has it already gets that of `temporary`."""
    if not target.exists():
        os.replace(temporary, target)
        return
    if _exchange(temporary, target):
        return
    old = temporary.with_suffix(".old")  # this file system cannot exchange: between two renames there is no folder
    os.replace(target, old)
    os.replace(temporary, target)
    os.replace(old, temporary)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system or the file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # Linux alone has it
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(other))


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    if path.is_symlink():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file (UTF-8) in one piece. Bytes of a file name that are no text are written as in "\\udcff"."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def link_file(source: Path, target: Path) -> None:
    """Make `target` a link to `source` unless there is a file; a link to what is no longer there is replaced."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.symlink_to(source.resolve())


def printable(text: str) -> str:
    """Text for a terminal: control characters and bytes that are no text are escaped; line ends and tabs stay.

    >>> printable("a\\x1b[2J.png")
    'a\\\\x1b[2J.png'
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in "\n\t" else _escape(letter) for letter in text)


def _escape(letter: str) -> str:
    code = ord(letter)
    byte = 0xDC80 <= code <= 0xDCFF  # how Python keeps a byte of a file name that is no text
    return f"\\x{code - 0xDC00:02x}" if byte else letter.encode("unicode_escape").decode()


def cache_folder(name: str) -> Path:
    """Where what can be computed again is kept: `name` in `CLOUDS_CACHE`, or in `clouds` of the user's cache."""
    base = os.environ.get("CLOUDS_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clouds"
    return (Path(base) if base else home) / name


def without_tilde(path: str | os.PathLike[str]) -> Path:
    """The path with `~` and `~user` in front replaced by the home folder.

    Raises:
        ConfigError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except (RuntimeError, ValueError) as error:  # ValueError: a name with a null byte
        raise ConfigError(f"{path}: no home folder of that user; give the path itself") from error


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


def target_in(root: str | os.PathLike[str], name: str) -> Path:
    """`root / name`, to be written there: neither the file nor a folder below `root` is a link that leads elsewhere.

    Raises:
        DataError: it is, or the name leads out by itself.
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
