"""A gate lets the requests of a page pass, and no others."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from clouds.inference.gate import Gate


def ask(folder: Path, method: str, path: str, body: bytes = b"", kind: str = "http") -> tuple[int, bytes]:
    """The status of an answer, 200 if the gate let the request pass, and the body that passed."""
    sent: list[dict[str, Any]] = []
    passed: list[bytes] = []
    pieces = [body[start : start + 1000] for start in range(0, max(1, len(body)), 1000)]
    messages = [{"type": "http.request", "body": one, "more_body": True} for one in pieces]
    messages[-1]["more_body"] = False

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            passed.append(message["body"])
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200})

    asyncio.run(Gate(app, folder)({"type": kind, "method": method, "path": path}, receive, send))
    return sent[0].get("status", 0), b"".join(passed)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("HEAD", "/"),
        ("GET", "/config"),
        ("GET", "/assets/index.js"),
        ("GET", "/static/fonts/a.woff2"),
        ("GET", "/gradio_api/queue/data"),
        ("GET", "/gradio_api/heartbeat/abc123"),
        ("POST", "/gradio_api/upload"),
        ("POST", "/gradio_api/queue/join"),
    ],
)
def test_requests_of_the_page_pass(tmp_path: Path, method: str, path: str) -> None:
    assert ask(tmp_path, method, path)[0] == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/monitoring"),
        ("GET", "/gradio_api/run-history/buckets"),
        ("GET", "/gradio_api/proxy=https://example.com/"),
        ("GET", "/gradio_api/file=https://example.com/a.png"),
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/gradio_api/file=relative.png"),
        ("POST", "/gradio_api/run/predict"),
        ("POST", "/"),
        ("DELETE", "/"),
        ("PUT", "/gradio_api/upload"),
    ],
)
def test_others_do_not(tmp_path: Path, method: str, path: str) -> None:
    assert ask(tmp_path, method, path)[0] == 403


def test_files_of_the_folder_alone_are_served(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("/etc")
    assert ask(tmp_path, "GET", f"/gradio_api/file={tmp_path}/a/b.png")[0] == 200
    assert ask(tmp_path, "GET", f"/gradio_api/file={tmp_path}/../b.png")[0] == 403
    assert ask(tmp_path, "GET", f"/gradio_api/file={tmp_path}/out/passwd")[0] == 403


class TestBodies:
    def join(self, folder: Path, body: bytes | dict[str, Any]) -> tuple[int, bytes]:
        return ask(
            folder, "POST", "/gradio_api/queue/join", body if isinstance(body, bytes) else json.dumps(body).encode()
        )

    def test_an_uploaded_picture_passes_whole(self, tmp_path: Path) -> None:
        body = {"data": [{"path": f"{tmp_path}/a.png", "url": "http://127.0.0.1/x"}, "deer " * 1000]}
        status, passed = self.join(tmp_path, body)
        assert status == 200
        assert json.loads(passed) == body

    @pytest.mark.parametrize("path", ["/etc/passwd", "https://example.com/a.png", "a.png", "/tmp/\0", 3])
    def test_another_path_does_not(self, tmp_path: Path, path: object) -> None:
        assert self.join(tmp_path, {"data": [None, {"deep": [{"path": path, "meta": {}}]}]})[0] == 403

    def test_a_key_that_occurs_twice_is_checked_twice(self, tmp_path: Path) -> None:
        assert self.join(tmp_path, b'{"path": "/etc/passwd", "path": null}')[0] == 403

    def test_no_json_does_not(self, tmp_path: Path) -> None:
        assert self.join(tmp_path, b"{")[0] == 403
        assert self.join(tmp_path, b"[" * 50_000)[0] == 403

    def test_a_long_one_does_not(self, tmp_path: Path) -> None:
        assert self.join(tmp_path, json.dumps("a" * 2**16).encode())[0] == 403


def test_websockets_are_closed(tmp_path: Path) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Gate(pytest.fail, tmp_path)({"type": "websocket", "path": "/"}, pytest.fail, send))
    assert [message["type"] for message in sent] == ["websocket.close"]
