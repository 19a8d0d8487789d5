"""A disk cache of tensors with bounded size, shared by several processes."""

from __future__ import annotations

import json
import os
import re
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from clouds.core.system.errors import ConfigError, DataError
from clouds.core.system.files import atomic_file
from clouds.core.weights.loading import digest

_OURS = re.compile(r".+\.cached(\.[0-9a-f]{8}\.tmp)?\.safetensors")  # including unfinished files
_UNFINISHED = 3600 * 10**9  # nanoseconds; older unfinished files belong to killed processes


class CacheWarning(UserWarning):
    """A result could not be cached and will be computed again next time."""


class DamagedCacheWarning(UserWarning):
    """A cache entry is damaged and will be computed again."""


class TensorCache:
    """A folder with one file, KEY.cached.safetensors, per key; other files in it are ignored.

    Files are written atomically. Each holds its key and a digest of its content, which are verified on reading. Least
    recently used entries are evicted first. Several processes may share the folder; without write access it can still
    be read.

    Args:
        folder: created on first write.
        max_bytes: maximum total size of the cached files.

    Raises:
        ConfigError: `max_bytes` is less than 1.
    """

    def __init__(self, folder: str | os.PathLike[str], *, max_bytes: int) -> None:
        if max_bytes < 1:
            raise ConfigError(f"cache {os.fspath(folder)}: bound of {max_bytes} bytes; expected at least 1")
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self._said = False

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors of a key, on the CPU; None if there are none, or the file is damaged or unreadable.

        Warns `DamagedCacheWarning` for the first damaged file.
        """
        path = self._path(key)
        try:
            if path.stat().st_size > self.max_bytes:
                raise ValueError("larger than the whole cache")
            found = _read(path.read_bytes(), key)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, SafetensorError, ValueError) as error:
            self._warn_damaged(path, error)
            return None
        with suppress(OSError):  # a read-only folder
            os.utime(path, follow_symlinks=False)
        return found

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Store the tensors of a key and evict others if needed.

        Raises:
            DataError: the folder cannot be written, or the tensors alone exceed `max_bytes`.
        """
        plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
        content = save(plain, metadata={"key": key, "sha256": digest(plain)})
        if len(content) > self.max_bytes:
            raise DataError(
                f"cache {self.folder}: one entry takes {len(content)} bytes, the bound on all is {self.max_bytes}; "
                "raise the bound"
            )
        try:
            with atomic_file(self._path(key)) as temporary:
                temporary.write_bytes(content)
            self._make_room()
        except OSError as error:
            raise DataError(
                f"cache {self.folder} cannot be written ({error}); make room there or choose another folder"
            ) from error

    def _warn_damaged(self, path: Path, error: Exception) -> None:
        if not self._said:
            self._said = True
            warnings.warn(
                f"{path}: not as it was put into the cache ({error}); what is damaged there is computed again",
                DamagedCacheWarning,
                stacklevel=3,
            )

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.cached.safetensors"

    def _make_room(self) -> None:
        """Remove least recently used files and the leftovers of killed processes.

        Files that another process is writing count towards the size, but are never removed.
        """
        files: list[tuple[int, int, str]] = []
        for entry in os.scandir(self.folder):
            if not _OURS.fullmatch(entry.name):
                continue
            with suppress(FileNotFoundError):  # removed by another process
                facts = entry.stat()
                files.append((facts.st_mtime_ns, facts.st_size, entry.path))
        surplus = sum(size for _, size, _ in files) - self.max_bytes
        for used, size, path in sorted(files):
            if surplus <= 0:
                break
            if path.endswith(".tmp.safetensors") and time.time_ns() - used < _UNFINISHED:
                continue
            Path(path).unlink(missing_ok=True)
            surplus -= size


def _read(content: bytes, key: str) -> dict[str, Tensor]:
    """Parse a cache file. Raises `ValueError` if its content does not match key and digest."""
    found = load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])  # complete, since `load` has read it
    noted = header.get("__metadata__", {})
    if noted.get("key") != key or noted.get("sha256") != digest(found):
        raise ValueError("its key or its digest is another one")
    return found
