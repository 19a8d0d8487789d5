"""A small hub on this machine, for huggingface_hub's own client: repositories, commits, large files, logins."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote

import pytest
from attrs import define, field

TOKEN = "hf_local"
_LARGE = (".safetensors", ".png")  # endings of files that are uploaded before the commit
_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"


@define
class Hub:
    """What the hub has, and what it was asked.

    Attributes:
        address: URL of the server.
        repos: commits by repository, oldest first; a commit is its hash and its files.
        tags: hash of a commit by (repository, tag).
        gated: repositories whose owner must grant access.
        large: content of large files by sha256.
        stops: after how many bytes of a large file each of the next answers breaks off.
        refused: words of paths that are answered with 500.
        asked: name and range of every file that was sent.
    """

    address: str = ""
    repos: dict[str, list[tuple[str, dict[str, bytes]]]] = field(factory=dict)
    tags: dict[tuple[str, str], str] = field(factory=dict)
    gated: set[str] = field(factory=set)
    large: dict[str, bytes] = field(factory=dict)
    stops: list[int] = field(factory=list)
    refused: set[str] = field(factory=set)
    asked: list[tuple[str, str | None]] = field(factory=list)

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        """Add a commit with these files to a repository, and return its hash."""
        commits = self.repos.setdefault(repo, [])
        text = f"{repo} {len(commits)} {sorted((name, _sha256(content)) for name, content in files.items())}"
        commits.append((hashlib.sha1(text.encode()).hexdigest(), files))
        return commits[-1][0]

    def find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit of a revision: its hash and files."""
        wanted = self.tags.get((repo, revision), revision)
        commits = self.repos[repo]
        return commits[-1] if wanted == "main" else next((one for one in commits if one[0] == wanted), None)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _entry(name: str, content: bytes) -> dict[str, Any]:
    """A file of a tree, as the hub lists it."""
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    lfs = {"oid": _sha256(content), "size": len(content), "pointerSize": 130}
    more = {"lfs": lfs} if name.endswith(_LARGE) else {}
    return {"type": "file", "path": name, "size": len(content), "oid": git, **more}


class Handler(BaseHTTPRequestHandler):
    """Answers what the client asks when it lists, downloads, creates, uploads and commits."""

    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self._answer(
            {
                rf"/api/models/{_REPO}(/revision/(?P<revision>[^/]+))?": self._info,
                rf"/api/models/{_REPO}/tree/(?P<revision>[^/]+)": self._tree,
                rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<name>.+)": self._file,
            }
        )

    def do_POST(self) -> None:
        self._answer(
            {
                "/api/validate-yaml": lambda: self._send({"errors": [], "warnings": []}),
                "/api/repos/create": self._create,
                rf"/api/models/{_REPO}/preupload/main": self._sort,
                rf"/{_REPO}\.git/info/lfs/objects/batch": self._offer,
                rf"/api/models/{_REPO}/commit/main": self._commit,
            }
        )

    def do_PUT(self) -> None:
        content = b"".join(self._chunks())
        self.hub.large[_sha256(content)] = content
        self._send({})

    def _chunks(self) -> Iterator[bytes]:
        """The body of a request, whose length may be said before each chunk alone."""
        if length := self.headers["Content-Length"]:
            yield self.rfile.read(int(length))
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _answer(self, routes: dict[str, Callable[..., None]]) -> None:
        path = self.path.partition("?")[0]
        self.body = self.rfile.read(int(self.headers["Content-Length"] or 0)) if self.command == "POST" else b""
        if any(word in path for word in self.hub.refused):
            return self._send({"error": "out of order"}, 500)
        found = ((re.fullmatch(pattern, path), answer) for pattern, answer in routes.items())
        match, answer = next(((match, answer) for match, answer in found if match), (None, None))
        if match is None or answer is None:
            return self._send({"error": f"{self.command} {path} is not known here"}, 501)
        words = {key: unquote(value) for key, value in match.groupdict().items() if value}
        if self.command == "POST" and self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self._send({"error": "Invalid username or password."}, 401)
        if "repo" in words and words["repo"] not in self.hub.repos:
            return self._send({"error": "Repository not found"}, 401, code="RepoNotFound")
        if words.get("repo") in self.hub.gated:
            return self._send({"error": "Access is restricted"}, 403, code="GatedRepo")
        if "repo" in words and self.hub.find(words["repo"], words.get("revision", "main")) is None:
            return self._send({"error": "Invalid rev id"}, 404, code="RevisionNotFound")
        return answer(**words)

    def _info(self, repo: str, revision: str = "main") -> None:
        commit, files = self.hub.find(repo, revision) or ("", {})
        self._send({"id": repo, "sha": commit, "siblings": [{"rfilename": name} for name in files]})

    def _tree(self, repo: str, revision: str) -> None:
        _, files = self.hub.find(repo, revision) or ("", {})
        self._send([_entry(name, content) for name, content in files.items()])

    def _file(self, repo: str, revision: str, name: str) -> None:
        commit, files = self.hub.find(repo, revision) or ("", {})
        if name not in files:
            return self._send({"error": "Entry not found"}, 404, code="EntryNotFound", commit=commit)
        entry, asked = _entry(name, files[name]), self.headers["Range"]
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        content, whole = files[name][start:], "lfs" not in entry or self.command == "HEAD" or not self.hub.stops
        if self.command == "GET":
            self.hub.asked.append((name, asked))
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{entry.get("lfs", entry)["oid"]}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content if whole else content[: self.hub.stops.pop(0)])
        return None

    def _create(self) -> None:
        asked = json.loads(self.body)
        repo = f"{asked['organization']}/{asked['name']}"
        exists = repo in self.hub.repos
        if not exists:
            self.hub.commit(repo, {".gitattributes": b"*.safetensors filter=lfs\n"})
        self._send({"url": f"{self.hub.address}/{repo}"}, 409 if exists else 200)

    def _sort(self, repo: str) -> None:
        """Say which files are large."""
        paths = [one["path"] for one in json.loads(self.body)["files"]]
        modes = {path: "lfs" if path.endswith(_LARGE) else "regular" for path in paths}
        files = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
        self._send({"files": files})

    def _offer(self, repo: str) -> None:
        places = [
            {**one, "actions": {"upload": {"href": f"{self.hub.address}/upload/{one['oid']}"}}}
            for one in json.loads(self.body)["objects"]
        ]
        self._send({"transfer": "basic", "objects": places})

    def _commit(self, repo: str) -> None:
        files = dict(self.hub.repos[repo][-1][1])
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = self.hub.commit(repo, files)
        self._send({"commitUrl": f"{self.hub.address}/{repo}/commit/{commit}", "commitOid": commit})

    def _send(self, document: Any, status: int = 200, *, code: str = "", commit: str = "") -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if code:
            self.send_header("X-Error-Code", code)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    """Serve a hub, and let this process and those that it starts use it, with their cache in the folder."""
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    hub = Hub()
    disable_progress_bars()
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": hub})) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        hub.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": hub.address,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(folder / "hub"),
            "HF_TOKEN_PATH": str(folder / "token"),
            "HF_HUB_DISABLE_XET": True,  # its servers are not those of the hub
        }.items():
            patch.setattr(constants, name, value)
        for name, value in {
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(folder),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_TOKEN": TOKEN,
        }.items():
            patch.setenv(name, value)
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        patch.delenv("CLOUDS_WEIGHTS", raising=False)
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
            enable_progress_bars()
