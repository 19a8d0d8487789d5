"""A server of files that can break connections and ignore ranges."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from attrs import define, field


@define
class FileServer:
    """Serves one content under every path.

    Attributes:
        content: what it says that it sends.
        stops: after how many bytes each of the next answers breaks off; when it is empty, they are whole.
        ranges: whether it heeds `Range`.
        codes: status of each of the next answers, which are then empty.
        page: what it sends in place of each of the next answers, as HTML.
        begins: byte that `Content-Range` names, when it is another one than was asked for.
        asked: `Range` of each request so far.
    """

    content: bytes
    stops: list[int] = field(factory=list)
    ranges: bool = True
    codes: list[int] = field(factory=list)
    asked: list[str | None] = field(factory=list)
    page: list[bytes] = field(factory=list)
    begins: int | None = None
    url: str = ""


@contextmanager
def serving(files: FileServer) -> Generator[FileServer]:
    """Serve on a free port of this machine within the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers["Range"]
            files.asked.append(asked)
            if files.codes:
                self.send_error(files.codes.pop(0))
                return
            if files.page:
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.end_headers()
                self.wfile.write(files.page.pop(0))
                return
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and files.ranges else 0
            if start >= len(files.content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            body = files.content[start:]
            self.send_header("Content-Length", str(len(body)))
            if files.begins is not None:
                self.send_header("Content-Range", f"bytes {files.begins}-{len(files.content) - 1}/{len(files.content)}")
            self.end_headers()
            self.wfile.write(body[: files.stops.pop(0)] if files.stops else body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        files.url = f"http://127.0.0.1:{server.server_address[1]}/weights.pth"
        try:
            yield files
        finally:
            server.shutdown()
            thread.join()
