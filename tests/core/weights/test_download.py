"""Downloads: resumed, whole, or not there."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from threading import Thread
from urllib.error import HTTPError, URLError

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weight_helpers import FileServer, serving

from clouds.core.system.errors import WeightsError
from clouds.core.weights import download as module
from clouds.core.weights.download import download

CONTENT = bytes(range(256)) * 40
HASH = sha256(CONTENT).hexdigest()


@pytest.fixture(scope="module")
def server() -> Iterator[FileServer]:
    with serving(FileServer(CONTENT)) as files, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PAUSE", 0.0)
        yield files


@pytest.fixture(autouse=True)
def _as_new(server: FileServer) -> None:
    server.content, server.stops, server.ranges, server.codes, server.asked = CONTENT, [], True, [], []
    server.page, server.begins = [], None


def get(server: FileServer, folder: Path) -> Path:
    return download(server.url, folder / "new" / "w.pth", sha256=HASH, size=len(CONTENT))


def test_a_whole_download(server: FileServer, tmp_path: Path) -> None:
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None]
    assert not list(tmp_path.rglob("*.part"))


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stops=st.lists(st.integers(1, len(CONTENT) // 8), max_size=6))
def test_broken_connections_are_resumed(
    server: FileServer, tmp_path_factory: pytest.TempPathFactory, stops: list[int]
) -> None:
    server.stops, server.asked = list(stops), []
    assert get(server, tmp_path_factory.mktemp("d")).read_bytes() == CONTENT
    have = [sum(stops[:count]) for count in range(1, len(stops) + 1)]
    assert server.asked == [None, *(f"bytes={start}-" for start in have)]


def test_a_server_without_ranges_sends_all_of_it_again(server: FileServer, tmp_path: Path) -> None:
    server.ranges, server.stops = False, [700, 300]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=700-", "bytes=300-"]


def test_what_a_killed_process_has_got_is_not_asked_for_again(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "w.pth.part").write_bytes(CONTENT[:100])
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=100-"]


def test_a_wrong_content_is_not_kept(server: FileServer, tmp_path: Path) -> None:
    server.content = CONTENT[::-1]
    wrong = sha256(server.content).hexdigest()
    match = rf"w\.pth\.part: sha256 is {wrong}, expected {HASH}; the file is not used: {server.url} was damaged"
    with pytest.raises(WeightsError, match=match):
        get(server, tmp_path)
    assert [path.name for path in (tmp_path / "new").iterdir() if path.suffix != ".lock"] == []
    server.content = CONTENT
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_file_that_became_shorter(server: FileServer, tmp_path: Path) -> None:
    server.content = CONTENT[:50]
    with pytest.raises(WeightsError, match=rf"of 50 bytes in place of the {len(CONTENT)} bytes of the file"):
        get(server, tmp_path)
    (tmp_path / "new" / "w.pth.part").write_bytes(CONTENT[:100])
    with pytest.raises(HTTPError, match="416"):
        get(server, tmp_path)
    server.content = CONTENT
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_server_that_answers_with_an_error(server: FileServer, tmp_path: Path) -> None:
    server.codes = [503, 500]
    assert get(server, tmp_path).read_bytes() == CONTENT
    server.codes = [404]
    with pytest.raises(HTTPError, match="404"):
        get(server, tmp_path / "other")
    server.codes = [503] * 3
    with pytest.raises(HTTPError, match="503"):
        get(server, tmp_path / "other")


def test_a_page_in_place_of_the_file_leaves_what_is_there(server: FileServer, tmp_path: Path) -> None:
    """Like the page of a network that requires a login."""
    part = tmp_path / "new" / "w.pth.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT[:100])
    server.page = [b"<html>please log in</html>"]
    with pytest.raises(WeightsError, match=r"w.*: sends text/html of unknown bytes in place of .* requires a login"):
        get(server, tmp_path)
    assert part.read_bytes() == CONTENT[:100]
    server.begins = 7
    with pytest.raises(WeightsError, match=r"in place of the .* bytes of the file"):
        get(server, tmp_path)
    assert part.read_bytes() == CONTENT[:100]
    server.begins = 100
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_connection_that_always_breaks_ends(server: FileServer, tmp_path: Path) -> None:
    server.stops = [0] * 3
    with pytest.raises(OSError, match=f"the connection ended after 0 of {len(CONTENT)} bytes"):
        get(server, tmp_path)


def test_a_server_without_ranges_that_never_gets_further_ends(server: FileServer, tmp_path: Path) -> None:
    server.ranges, server.stops = False, [700, 300, 500, 600, 650]
    with pytest.raises(OSError, match=f"the connection ended after 600 of {len(CONTENT)} bytes"):
        get(server, tmp_path)
    assert server.stops == [650]


def test_a_file_that_is_there_needs_no_place_to_write(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = get(server, tmp_path)

    def refuse(self: object, *args: object, **options: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    assert get(server, tmp_path) == path


def test_nobody_listens(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(URLError, match="refused"):
        download("http://127.0.0.1:9/w", tmp_path / "w", sha256=HASH, size=1)


def test_one_of_several_gets_it(server: FileServer, tmp_path: Path) -> None:
    threads = [Thread(target=get, args=(server, tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.asked == [None]
    assert (tmp_path / "new" / "w.pth").read_bytes() == CONTENT
