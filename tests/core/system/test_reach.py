"""Servers that cannot be reached are given up early; what the hub's cache has is used all the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any
from urllib.error import URLError

import pytest
from huggingface_hub import constants, hf_hub_download

from clouds.core.system import reach
from clouds.core.system.reach import hub_access, unreachable
from clouds.core.weights.download import download

Connect = Callable[[Callable[[], Any]], list[tuple[str, int]]]
COMMIT = "c" * 40


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Connect:
    """Replaces connections by a function; gives the places that were connected to. Nobody may wait."""
    for scheme in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{scheme}_proxy", raising=False)
        monkeypatch.delenv(f"{scheme}_proxy".upper(), raising=False)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"waits {seconds} s"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def replace(answer: Callable[[], Any]) -> list[tuple[str, int]]:
        places: list[tuple[str, int]] = []

        def create_connection(place: tuple[str, int], timeout: float) -> Any:
            places.append(place)
            return answer()

        monkeypatch.setattr(reach.socket, "create_connection", create_connection)
        return places

    return replace


class Open:
    """A connection."""

    def close(self) -> None:
        pass


def refuse() -> None:
    raise ConnectionRefusedError(111, "refused")


def wanted(cache: str) -> str:
    return hf_hub_download("owner/name", "a.json", cache_dir=cache)


def test_a_reason_names_the_host(connect: Connect) -> None:
    places = connect(refuse)
    assert unreachable("https://w.example/x.pth") == "w.example cannot be reached: [Errno 111] refused"
    assert places == [("w.example", 443)]
    places = connect(Open)
    assert unreachable("http://w.example:81/x.pth") is None
    assert places == [("w.example", 81)]


def test_a_look_up_that_hangs_is_left_alone(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    never = Event()
    monkeypatch.setattr(reach, "_DEADLINE", 0.01)
    connect(lambda: never.wait() and Open())
    assert unreachable("https://w.example/x") == "w.example cannot be reached: no answer within 0.01 seconds"
    never.set()


def test_the_connection_is_to_the_proxy(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    places = connect(Open)
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "w.example")
    assert unreachable("https://other.example/x") is None
    assert unreachable("https://w.example/x") is None
    monkeypatch.setenv("https_proxy", "bare.example:3129")
    assert unreachable("https://other.example/x") is None
    assert places == [("proxy.example", 3128), ("w.example", 443), ("bare.example", 3129)]


def test_a_download_is_not_tried_again_and_again(connect: Connect, tmp_path: Path) -> None:
    places = connect(refuse)
    with pytest.raises(URLError, match=r"w\.example cannot be reached: .*refused"):
        download("https://w.example/w", tmp_path / "w", sha256="0" * 64, size=1)
    assert len(places) == 1


def test_the_hub_is_not_tried_again_and_again(connect: Connect, tmp_path: Path) -> None:
    connect(refuse)
    match = r"huggingface\.co cannot be reached: .*refused, and the hub's cache"
    with pytest.raises(ConnectionError, match=match), hub_access():
        wanted(str(tmp_path))
    assert constants.HF_HUB_OFFLINE is False


def test_what_the_cache_has_serves_without_a_network(connect: Connect, tmp_path: Path) -> None:
    connect(refuse)
    root = tmp_path / "models--owner--name"
    (root / "snapshots" / COMMIT).mkdir(parents=True)
    (root / "snapshots" / COMMIT / "a.json").write_text("{}", encoding="utf-8")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    with hub_access():
        assert Path(wanted(str(tmp_path))).read_text(encoding="utf-8") == "{}"


def test_a_user_who_is_offline_is_not_connected(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = connect(refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    match = r"offline mode is on \(HF_HUB_OFFLINE\), and the hub's cache"
    with pytest.raises(ConnectionError, match=match), hub_access():
        wanted(str(tmp_path))
    assert places == []


def test_a_hub_that_must_not_be_asked_is_not(connect: Connect, tmp_path: Path) -> None:
    places = connect(Open)
    with (
        pytest.raises(ConnectionError, match="not today, and the hub's cache does not have it"),
        hub_access("not today"),
    ):
        wanted(str(tmp_path))
    assert places == []


def test_other_errors_are_what_they_were(connect: Connect) -> None:
    connect(refuse)
    with pytest.raises(KeyError, match="mine"), hub_access():
        raise KeyError("mine")


def test_a_hub_that_answers_is_asked(connect: Connect) -> None:
    connect(Open)
    with hub_access():
        assert constants.HF_HUB_OFFLINE is False
