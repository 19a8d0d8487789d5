"""`clouds serve`: what is refused, and what its server answers. Its page is tested in `tests/browser`."""

from __future__ import annotations

import json
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import pytest
from cli_helpers import Run, assert_one_line
from PIL import Image
from served import served

OPENER = build_opener(ProxyHandler({}))


def test_a_missing_library_is_named_before_the_model_is_loaded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    outcome = run("serve", "no-model")
    assert_one_line(outcome, "clouds serve needs gradio, which is not installed: pip install 'clouds-dgss[serve]'")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--port", 70_000), "--port"),
        (("--side", 31), "--side"),
        (("--seconds", 0), "--seconds"),
        (("more.txt", "than", "two"), "than"),
    ],
)
def test_options_are_checked(run: Run, options: tuple[object, ...], words: str) -> None:
    outcome = run("serve", "model", *options)
    assert outcome.code == 2
    assert words in outcome.err


@pytest.fixture(scope="module")
def gradio() -> None:
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'clouds-dgss[serve]'")


@pytest.mark.usefixtures("gradio")
class TestPorts:
    def test_a_taken_port_is_named(self, run: Run, checkpoint: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            outcome = run("serve", checkpoint, "--port", port, "--device", "cpu")
        assert_one_line(outcome, f"--host 127.0.0.1 --port {port}: cannot be used", "0 takes a free port")

    def test_an_unknown_host_is_named(self, run: Run, checkpoint: Path) -> None:
        outcome = run("serve", checkpoint, "--host", "not a host", "--port", 0, "--device", "cpu")
        assert_one_line(outcome, "--host not a host --port 0: cannot be used")


@pytest.fixture(scope="module")
def server(gradio: None, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running page, whose environment asks for a public link, all files, and a proxy."""
    asked = {"GRADIO_SHARE": "true", "GRADIO_ALLOWED_PATHS": "/", "HTTP_PROXY": "http://127.0.0.1:9"}
    with served(str(checkpoint), folder=tmp_path_factory.mktemp("serve"), **asked) as address:
        yield address


def ask(address: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
    """Status and text of an answer."""
    try:
        with OPENER.open(Request(address, body, headers), timeout=60) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except HTTPError as error:
        with error:
            return error.code, error.read().decode(errors="replace")


def upload(address: str, content: bytes, name: str = "a.png") -> tuple[int, str]:
    edge = "edge"
    head = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{edge}--\r\n".encode()
    return ask(f"{address}gradio_api/upload", body, **{"Content-Type": f"multipart/form-data; boundary={edge}"})


def submit(address: str, path: str, words: str = "") -> tuple[int, str]:
    """Ask for the segmentation of an uploaded file; the status, and what the server tells of it."""
    config = json.loads(ask(f"{address}config")[1])
    picture = {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "a.png"}
    document = {"data": [picture, words], "fn_index": config["dependencies"][0]["id"], "session_hash": "test"}
    joined, text = ask(
        f"{address}gradio_api/queue/join", json.dumps(document).encode(), **{"Content-Type": "application/json"}
    )
    return (joined, text) if joined != 200 else ask(f"{address}gradio_api/queue/data?session_hash=test")


@pytest.mark.slow
class TestServer:
    def test_a_picture_is_segmented(self, server: str, tmp_path: Path) -> None:
        Image.new("RGB", (48, 40), "white").save(tmp_path / "a.png")
        status, text = upload(server, (tmp_path / "a.png").read_bytes())
        assert status == 200
        status, told = submit(server, json.loads(text)[0])
        assert status == 200
        assert "48 x 40 pixels" in told
        files = re.findall(r'"path": ?"([^"]+)"', told)
        assert len(files) >= 2
        assert ask(f"{server}gradio_api/file={files[0]}")[0] == 200

    def test_what_is_no_picture_is_named_in_one_line(self, server: str) -> None:
        _, text = upload(server, b"no picture", "notes.png")
        assert "notes.png: not a picture that can be read" in submit(server, json.loads(text)[0])[1]

    def test_a_class_named_twice_is_told(self, server: str) -> None:
        _, text = upload(server, b"any")
        assert "classes named twice: deer" in submit(server, json.loads(text)[0], "deer, road, deer")[1]

    def test_large_uploads_are_refused(self, server: str) -> None:
        status, told = upload(server, bytes(65 * 2**20))
        assert (status, "maximum allowed size" in told) == (413, True)

    @pytest.mark.parametrize("path", ["/etc/passwd", "https://example.com/a.png", str(Path(__file__))])
    def test_other_files_are_not_read(self, server: str, path: str) -> None:
        assert submit(server, path)[0] == 403
        assert ask(f"{server}gradio_api/file={path}")[0] == 403

    def test_names_of_other_sites_do_not_lead_here(self, server: str) -> None:
        assert ask(server)[0] == 200
        assert ask(server, Host="evil.example")[0] == 400

    def test_nothing_is_told_to_others(self, server: str) -> None:
        config = json.loads(ask(f"{server}config")[1])
        assert config["analytics_enabled"] is False
        assert ask(f"{server}monitoring")[0] == 403
        page = ask(server)[1]
        assert re.findall(r'<(?:script|link)[^>]+(?:src|href)="https?://', page) == []
