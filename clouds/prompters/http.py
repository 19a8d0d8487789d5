"""One HTTP request and its answer: no redirects, and a bound on time and size."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from threading import Timer
from typing import Any, final
from urllib.error import HTTPError
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

_MOST_SAID = 4096  # bytes that are read of a refusal


class Refusal(Exception):
    """The server answered with another status than success: its code and reason, the beginning of what it said, and
    where it would send the request on to."""

    def __init__(self, code: int, reason: str, said: str, location: str) -> None:
        super().__init__(code, reason, said, location)
        self.code, self.reason, self.said, self.location = code, reason, said, location


def fetch_once(request: Request, *, seconds: float, most_bytes: int) -> bytes:
    """The body of the answer, cut at `most_bytes`.

    Args:
        request: with its body and headers.
        seconds: for the connection, and for the whole answer; one that comes byte by byte has no more.
        most_bytes: read at most.

    Raises:
        TimeoutError: the time is over.
        Refusal: an answer without success; redirects are none.
        OSError, http.client.HTTPException: no answer.
    """
    watch = _Watch()
    timer = Timer(seconds, watch.end)
    timer.daemon = True
    timer.start()
    try:
        opener = build_opener(_NoRedirects, _Http(watch), _Https(watch))
        with opener.open(request, timeout=seconds) as response:
            body = response.read(most_bytes)
    except HTTPError as error:
        with error:
            said = _beginning(error)
        raise Refusal(error.code, str(error.reason), said, error.headers.get("Location", "")) from error
    except Exception as error:  # whatever a connection that was ended raises
        if watch.over:
            raise TimeoutError(f"not whole after {seconds:g} seconds") from error
        raise
    finally:
        timer.cancel()
    if watch.over:
        raise TimeoutError(f"not whole after {seconds:g} seconds")
    return body


def _beginning(error: HTTPError) -> str:
    try:
        return error.read(_MOST_SAID).decode("utf-8", "replace")
    except (OSError, HTTPException) as broken:
        return f"and its text broke off ({type(broken).__name__})"


@final
class _Watch:
    """The sockets of a request, which end with its time."""

    def __init__(self) -> None:
        self.over = False
        self._sockets: list[socket.socket] = []

    def end(self) -> None:
        self.over = True
        for one in self._sockets:
            with suppress(OSError):  # it has ended already
                one.shutdown(socket.SHUT_RDWR)

    def open(self, kind: Callable[..., HTTPConnection], host: str, **options: Any) -> HTTPConnection:
        """A connection whose socket is watched."""
        connection = kind(host, **options)
        connect = connection.connect

        def watched() -> None:
            connect()
            self._sockets.append(connection.sock)
            if self.over:
                self.end()

        connection.connect = watched
        return connection


@final
class _NoRedirects(HTTPRedirectHandler):
    """A question that is sent on becomes another one; its answer is none."""

    def redirect_request(self, *_: object) -> None:
        return None


@final
class _Http(HTTPHandler):
    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._open = partial(watch.open, HTTPConnection)

    def http_open(self, req: Request) -> Any:
        return self.do_open(self._open, req)  # pyright: ignore[reportArgumentType]


@final
class _Https(HTTPSHandler):
    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._open = partial(watch.open, HTTPSConnection)

    def https_open(self, req: Request) -> Any:
        return self.do_open(self._open, req)  # pyright: ignore[reportArgumentType]
