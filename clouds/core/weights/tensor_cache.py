"""Tensors that can be computed again, kept on disk: of bounded size, for several processes at once."""

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

_OURS = re.compile(r".+\.cached(\.[0-9a-f]{8}\.tmp)?\.safetensors")  # and what is unfinished
_UNFINISHED = 3600 * 10**9  # nanoseconds; the process of a file that takes longer was killed


class CacheWarning(UserWarning):
    """What was computed could not be kept, so that it is computed again the next time."""


class DamagedCacheWarning(UserWarning):
    """An entry of a cache is not what was put there, so that it is computed again."""


class TensorCache:
    """A folder with one file, KEY.cached.safetensors, for each key; other files in it are left alone.

    A file appears whole or not at all, whatever happens to the process that writes it. It holds its key and a digest of
    its content; a file that does not agree with them is never believed. What was not used for longest makes room. Any
    number of processes may share the folder; one that lacks the right to write can read.

    Args:
        folder: made when first written to.
        max_bytes: bound on the size of all cached files together.

    Raises:
        ConfigError: the bound is less than 1 byte.
    """

    def __init__(self, folder: str | os.PathLike[str], *, max_bytes: int) -> None:
        if max_bytes < 1:
            raise ConfigError(f"cache {os.fspath(folder)}: bound of {max_bytes} bytes; expected at least 1")
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self._said = False

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors of a key, on the CPU; None when there are none, or their file is damaged or cannot be read.

        Warns `DamagedCacheWarning` at the first file that is there and is not what was put there.
        """
        path = self._path(key)
        try:
            if path.stat().st_size > self.max_bytes:
                raise ValueError("larger than the whole cache")
            found = _read(path.read_bytes(), key)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, SafetensorError, ValueError) as error:
            self._say(path, error)
            return None
        with suppress(OSError):  # a folder that may only be read
            os.utime(path, follow_symlinks=False)
        return found

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep the tensors of a key; others make room.

        Raises:
            DataError: the folder cannot be written, or the tensors alone exceed the bound.
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

    def _say(self, path: Path, error: Exception) -> None:
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
        """Remove the files that were not used for longest, among them what killed processes left unfinished.

        What another process is about to finish counts, and is never removed.
        """
        files: list[tuple[int, int, str]] = []
        for entry in os.scandir(self.folder):
            if not _OURS.fullmatch(entry.name):
                continue
            with suppress(FileNotFoundError):  # another process was faster
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
    """The tensors of a file. Raises `ValueError` when they are not those that were put under the key."""
    found = load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])  # whole, as `load` has read it
    noted = header.get("__metadata__", {})
    if noted.get("key") != key or noted.get("sha256") != digest(found):
        raise ValueError("its key or its digest is another one")
    return found
