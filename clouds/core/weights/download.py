"""Downloads large files over HTTP: resumes broken connections and verifies the hash before the file appears."""

from __future__ import annotations

import os
import time
from hashlib import file_digest
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from clouds.core.system.errors import WeightsError
from clouds.core.system.progress import progress_bar
from clouds.core.system.reach import unreachable

_BLOCK = 1 << 20
_ATTEMPTS = 3  # consecutive attempts without progress
_PAUSE = 0.5  # seconds after a broken connection; doubled after each attempt without progress
_TIMEOUT = 60.0  # seconds without a byte


def sha256_of(path: Path) -> str:
    """sha256 of a file in hex."""
    with open(path, "rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def require_sha256(path: Path, *expected: str, remedy: str) -> None:
    """Raise a `WeightsError` that names file and hashes unless the file has an expected hash."""
    found = sha256_of(path)
    if found not in expected:
        wanted = " or ".join(expected)
        raise WeightsError(f"{path}: sha256 is {found}, expected {wanted}; the file is not used: {remedy}")


def download(url: str, path: Path, *, sha256: str, size: int) -> Path:
    """Download a file; the partial file of a broken or killed call, `<path>.part`, is resumed.

    If several processes request the same file, one downloads it and the others wait.

    Args:
        url: source.
        path: target.
        sha256: hash of the whole file, in hex.
        size: size in bytes.

    Raises:
        WeightsError: the hash is wrong (the file is then deleted), or the server sends something else, such as a page.
        OSError: the download failed; also `urllib.error.URLError`, `http.client.HTTPException`.
    """
    from filelock import FileLock

    if path.is_file():  # before locking: the folder may be read-only
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with FileLock(path.with_name(f"{path.name}.lock")):
        if path.is_file():
            return path
        if reason := unreachable(url):
            raise URLError(reason)
        _fill(url, part, size)
        try:
            require_sha256(part, sha256, remedy=f"{url} was damaged on its way, or is another one now; try again")
        except WeightsError:
            part.unlink()
            raise
        with open(part, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(part, path)
    return path


def _fill(url: str, part: Path, size: int) -> None:
    """Append to `part` until it has `size` bytes; only attempts without progress are counted."""
    failures, most = 0, _length(part)
    while (have := _length(part)) < size:
        try:
            _append(url, part, have, size)
            failure: Exception = OSError(f"the connection ended after {_length(part)} of {size} bytes")
        except (OSError, HTTPException) as error:
            if isinstance(error, HTTPError) and error.code < 500:  # a retry would give the same error
                raise
            failure = error
        failures = 0 if _length(part) > most else failures + 1
        most = max(most, _length(part))
        if failures == _ATTEMPTS:
            raise failure
        if _length(part) < size:
            time.sleep(_PAUSE * 2**failures)


def _append(url: str, part: Path, have: int, size: int) -> None:
    """Request the missing bytes. If the server sends the whole file, start again from the beginning."""
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urlopen(request, timeout=_TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # the file on the server has changed
            part.unlink(missing_ok=True)
        raise
    with response:
        _require_the_file(response, url, have, size)
        mode = "ab" if response.status == HTTPStatus.PARTIAL_CONTENT else "wb"
        _receive(response, part, mode, size)


def _require_the_file(response: HTTPResponse, url: str, have: int, size: int) -> None:
    """Keep the partial file if the response is something else, such as a login page or another range."""
    kind, length = response.headers.get_content_type(), response.headers.get("Content-Length", "")
    partial = response.status == HTTPStatus.PARTIAL_CONTENT
    wanted = size - have if partial else size
    begins = response.headers.get("Content-Range", f"bytes {have}-").startswith(f"bytes {have}-")
    if kind in ("text/html", "application/xhtml+xml") or (length.isdecimal() and int(length) != wanted) or not begins:
        raise WeightsError(
            f"{url}: sends {kind} of {length or 'unknown'} bytes in place of the {wanted} bytes of the file; a network "
            "that requires a login does so; the partial file is kept"
        )


def _receive(response: HTTPResponse, part: Path, mode: str, size: int) -> None:
    with open(part, mode) as stream, progress_bar() as bar:
        task = bar.add_task(part.stem, total=size, completed=stream.tell())
        while block := response.read(min(_BLOCK, size - stream.tell())):
            stream.write(block)
            bar.advance(task, len(block))


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
