"""Getting a large file over HTTP: broken connections are resumed, and nothing appears before its hash is right."""

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
_ATTEMPTS = 3  # in a row that bring no more than there was before
_PAUSE = 0.5  # seconds after a broken connection; doubled after each attempt that brings no more
_TIMEOUT = 60.0  # seconds without a byte


def sha256_of(path: Path) -> str:
    """sha256 of a file's content, in hex."""
    with open(path, "rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def require_sha256(path: Path, *expected: str, remedy: str) -> None:
    """Raises `WeightsError`, which names the file and the hashes, when it has none of the expected ones."""
    found = sha256_of(path)
    if found not in expected:
        wanted = " or ".join(expected)
        raise WeightsError(f"{path}: sha256 is {found}, expected {wanted}; the file is not used: {remedy}")


def download(url: str, path: Path, *, sha256: str, size: int) -> Path:
    """Get a file; what a broken or killed call has got already, in `<path>.part`, is not fetched again.

    Several processes may ask for the same file: one gets it, the others wait.

    Args:
        url: where it is.
        path: where it goes.
        sha256: of the whole file, in hex.
        size: in bytes.

    Raises:
        WeightsError: it has another hash, nothing of it is kept; or the server sends something else, such as a page.
        OSError: it could not be had; also `urllib.error.URLError`, `http.client.HTTPException`.
    """
    from filelock import FileLock

    if path.is_file():  # the folder may be one that nothing can be written to
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
    """Append to `part` until it has `size` bytes; only attempts that do not get further than any before are counted."""
    failures, most = 0, _length(part)
    while (have := _length(part)) < size:
        try:
            _append(url, part, have, size)
            failure: Exception = OSError(f"the connection ended after {_length(part)} of {size} bytes")
        except (OSError, HTTPException) as error:
            if isinstance(error, HTTPError) and error.code < 500:  # asking again would bring the same answer
                raise
            failure = error
        failures = 0 if _length(part) > most else failures + 1
        most = max(most, _length(part))
        if failures == _ATTEMPTS:
            raise failure
        if _length(part) < size:
            time.sleep(_PAUSE * 2**failures)


def _append(url: str, part: Path, have: int, size: int) -> None:
    """One request for what is missing. A server that sends all of it again begins the file anew."""
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urlopen(request, timeout=_TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # the part is no part of what is there now
            part.unlink(missing_ok=True)
        raise
    with response:
        _require_the_file(response, url, have, size)
        mode = "ab" if response.status == HTTPStatus.PARTIAL_CONTENT else "wb"
        _receive(response, part, mode, size)


def _require_the_file(response: HTTPResponse, url: str, have: int, size: int) -> None:
    """Leave what is there already alone when something else comes: a page that asks for a login, another part."""
    kind, length = response.headers.get_content_type(), response.headers.get("Content-Length", "")
    partial = response.status == HTTPStatus.PARTIAL_CONTENT
    wanted = size - have if partial else size
    begins = response.headers.get("Content-Range", f"bytes {have}-").startswith(f"bytes {have}-")
    if kind in ("text/html", "application/xhtml+xml") or (length.isdecimal() and int(length) != wanted) or not begins:
        raise WeightsError(
            f"{url}: sends {kind} of {length or 'unknown'} bytes in place of the {wanted} bytes of the file; a network "
            "that wants a login first does so; what was there already is kept"
        )


def _receive(response: HTTPResponse, part: Path, mode: str, size: int) -> None:
    with open(part, mode) as stream, progress_bar() as bar:
        task = bar.add_task(part.stem, total=size, completed=stream.tell())
        while block := response.read(min(_BLOCK, size - stream.tell())):
            stream.write(block)
            bar.advance(task, len(block))


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
