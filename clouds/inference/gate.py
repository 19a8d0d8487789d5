"""What the server of a page answers: the requests of the page itself, and nothing else that its library offers."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from attrs import frozen

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_GET = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json)|/(static|assets)/.+"
    r"|/gradio_api/(info|startup-events|theme\.css|upload_progress|queue/data|heartbeat/\w+|file=(?P<file>.+))"
)
_POST = re.compile(r"/gradio_api/(?P<upload>upload)|/gradio_api/(cancel|reset|queue/join)")
_MOST = 2**16  # bytes of a request that is no upload


@frozen
class Gate:
    """ASGI middleware that answers 403 to all but the requests of a page.

    The page's library also fetches addresses for its visitors, and has pages of statistics and history, which this page
    does not need. It bounds uploads itself; other requests are short.

    Attributes:
        app: what answers the allowed requests.
        folder: the only folder whose files are served and named in requests.
    """

    app: App
    folder: Path

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD"):
            found = _GET.fullmatch(scope["path"])
            if found and (found["file"] is None or self._owns(found["file"])):
                return await self.app(scope, receive, send)
        if scope["type"] == "http" and scope["method"] == "POST" and (found := _POST.fullmatch(scope["path"])):
            if found["upload"]:
                return await self.app(scope, receive, send)
            body = await _read(receive)
            if body is not None and all(map(self._owns, _paths(body))):
                return await self.app(scope, _again(body, receive), send)
        return await _refuse(scope, send)

    def _owns(self, path: object) -> bool:
        if not isinstance(path, str) or "\0" in path or not Path(path).is_absolute():
            return False
        return Path(path).resolve().is_relative_to(self.folder)


async def _read(receive: Receive) -> bytes | None:
    """The body of a request, None if it is too long."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > _MOST:
            return None
        if not message.get("more_body"):
            return body


def _again(body: bytes, receive: Receive) -> Receive:
    """What gives a body that was read, then what follows."""
    parts = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return parts.pop() if parts else await receive()

    return replay


def _paths(body: bytes) -> list[object]:
    """All values called "path" in a JSON document, [None] if it is none."""
    found: list[object] = []

    def note(pairs: list[tuple[str, Any]]) -> None:  # pairs: a key may occur twice
        found.extend(value for key, value in pairs if key == "path" and value is not None)

    try:
        json.loads(body or b"{}", object_pairs_hook=note)
    except (ValueError, RecursionError):
        return [None]
    return found


async def _refuse(scope: Message, send: Send) -> None:
    if scope["type"] == "websocket":
        return await send({"type": "websocket.close", "code": 1008})
    await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
    return await send({"type": "http.response.body", "body": b"not part of this page\n"})
