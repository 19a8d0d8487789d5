"""Killed at any operation on files, a call goes on when repeated, and ends with the bits of an undisturbed one."""

import sys
from pathlib import Path

import pytest
from kill import NAMES, compile_preload, drill

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="kill_at.c names the functions of Linux's C library"),
]


@pytest.fixture(scope="module")
def preload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_preload(tmp_path_factory.mktemp("preload"))


@pytest.mark.parametrize("name", NAMES)
def test_killed_between_any_two_operations(name: str, preload: Path, tmp_path: Path) -> None:
    found = drill(name, preload, tmp_path)
    assert found["faults"] == []
    assert found["kills"] >= 8, "fewer operations than any of these calls needs: nothing was counted"
