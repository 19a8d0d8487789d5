"""A single HTTP request without redirects, with limits on time and size."""

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

_MOST_ERROR_BYTES = 4096


class Refusal(Exception):
    """An answer with an error status: its code, reason, the start of its body, and its redirect location."""

    def __init__(self, code: int, reason: str, body: str, location: str) -> None:
        super().__init__(code, reason, body, location)
        self.code, self.reason, self.body, self.location = code, reason, body, location


def fetch_once(request: Request, *, seconds: float, most_bytes: int) -> bytes:
    """Send a request and return the body of the answer, truncated at `most_bytes`.

    Args:
        request: request with body and headers.
        seconds: time limit of the connection, and of the whole answer, even if it trickles in.
        most_bytes: size limit of the body.

    Raises:
        TimeoutError: the time is over.
        Refusal: the status is an error or a redirect.
        OSError, http.client.HTTPException: there is no answer.
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
            start = _start_of_body(error)
        raise Refusal(error.code, str(error.reason), start, error.headers.get("Location", "")) from error
    except Exception as error:  # a closed connection may raise anything
        if watch.over:
            raise TimeoutError(f"incomplete after {seconds:g} seconds") from error
        raise
    finally:
        timer.cancel()
    if watch.over:
        raise TimeoutError(f"incomplete after {seconds:g} seconds")
    return body


def _start_of_body(error: HTTPError) -> str:
    try:
        return error.read(_MOST_ERROR_BYTES).decode("utf-8", "replace")
    except (OSError, HTTPException) as broken:
        return f"its text is incomplete ({type(broken).__name__})"


@final
class _Watch:
    """The sockets of a request, which are closed when the time is over."""

    def __init__(self) -> None:
        self.over = False
        self._sockets: list[socket.socket] = []

    def end(self) -> None:
        self.over = True
        for one in self._sockets:
            with suppress(OSError):  # already closed
                one.shutdown(socket.SHUT_RDWR)

    def open(self, kind: Callable[..., HTTPConnection], host: str, **options: Any) -> HTTPConnection:
        """Create a connection that registers its socket here."""
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
    """Refuses redirects, which would send the request and its key elsewhere."""

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
