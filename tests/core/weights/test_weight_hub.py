"""The hub's own client against a small hub on this machine: fetched, kept, verified, resumed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from attrs import define, field
from huggingface_hub import constants

from clouds.core.contract.weight_records import HubWeights
from clouds.core.system.errors import WeightsError
from clouds.core.weights.store import fetch, hub_file, hub_folder, judge, locate

COMMIT = "c" * 40
WEIGHTS = HubWeights(name="two", licence="MIT", repo="owner/name", files=("model.safetensors", "sub/*.json"))
LARGE = bytes(range(256)) * 400


@define
class Hub:
    """What the hub has; `stops`: after how many bytes of a large file each of the next answers breaks off."""

    files: dict[str, bytes] = field(
        factory=lambda: {"model.safetensors": LARGE, "sub/a.json": b"{}", "README.md": b"not needed"}
    )
    stops: list[int] = field(factory=list)
    asked: list[tuple[str, str | None]] = field(factory=list)

    def entry(self, name: str) -> dict[str, Any]:
        content = self.files[name]
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        large = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        more = {"lfs": large} if name.endswith(".safetensors") else {}
        return {"type": "file", "path": name, "size": len(content), "oid": git, **more}


class Handler(BaseHTTPRequestHandler):
    """Answers the three sorts of requests that the client makes."""

    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        found = re.fullmatch(rf"/owner/name/resolve/(?:{COMMIT}|main)/(.+)", self.path.partition("?")[0])
        if found:
            self._send_file(found[1])
        elif "/tree/" in self.path:
            self._send(json.dumps([self.hub.entry(name) for name in self.hub.files]).encode())
        else:
            siblings = [{"rfilename": name} for name in self.hub.files]
            self._send(json.dumps({"id": "owner/name", "sha": COMMIT, "siblings": siblings}).encode())

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_file(self, name: str) -> None:
        entry, asked = self.hub.entry(name), self.headers["Range"]
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        body = self.hub.files[name][start:]
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{entry.get("lfs", entry)["oid"]}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.hub.asked.append((name, asked))
            self.wfile.write(body[: self.hub.stops.pop(0)] if self.hub.stops and "lfs" in entry else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    state = Hub()
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": state})) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.delenv("CLOUDS_WEIGHTS", raising=False)
        yield state
        server.shutdown()
        thread.join()


def test_a_folder_is_made_for_another_machine(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "carried" / "owner" / "name"
    assert fetch(WEIGHTS, tmp_path / "carried") == [root / "model.safetensors", root / "sub" / "a.json"]
    assert not (root / "README.md").exists()
    monkeypatch.setenv("CLOUDS_WEIGHTS", str(tmp_path / "carried"))
    assert hub_file("owner/name", "model.safetensors") == root / "model.safetensors"
    assert all(judge(WEIGHTS, path).expected for path in locate(WEIGHTS))
    (root / "model.safetensors").write_bytes(LARGE[:-1] + b"x")
    with pytest.raises(WeightsError, match=r"model\.safetensors: hash is .*the file is not used"):
        hub_file("owner/name", "model.safetensors")
    with pytest.raises(WeightsError, match=r"model\.safetensors: hash is .*the file is not used"):
        hub_folder("owner/name")


def test_the_hubs_cache_serves_as_well(hub: Hub, tmp_path: Path) -> None:
    assert locate(WEIGHTS) == []
    paths = fetch(WEIGHTS)
    assert [path.name for path in paths] == ["model.safetensors", "a.json"]
    assert locate(WEIGHTS) == paths
    verdicts = [judge(WEIGHTS, path) for path in paths]
    assert all(verdict.expected and not verdict.damaged for verdict in verdicts)
    paths[0].resolve().write_bytes(LARGE[::-1])
    assert [judge(WEIGHTS, path).damaged for path in paths] == [True, False]
    with pytest.raises(
        WeightsError, match=r"model\.safetensors: hash is \w{64}, expected \w{64}; the file is not used"
    ):
        fetch(WEIGHTS)


def test_a_broken_connection_is_resumed(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client keeps whole blocks, of 10 MB by default."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 400)
    hub.stops = [1000]
    fetch(WEIGHTS, tmp_path / "carried")
    assert (tmp_path / "carried" / "owner" / "name" / "model.safetensors").read_bytes() == LARGE
    ranges = [asked for name, asked in hub.asked if name == "model.safetensors"]
    assert ranges[0] is None
    assert ranges[1] in ("bytes=800-", "bytes=1000-")
