"""Killed at any operation on files, a call goes on when repeated, and ends with the bits of an undisturbed one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NAMES = [
    *("generate", "shards", "refine", "datasets-convert-link", "datasets-convert-copy", "train", "save", "convert"),
    "weights-fetch",
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def preload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("preload") / "kill_at.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, HERE / "kill_at.c", "-ldl"], check=True)
    return library


@pytest.mark.skipif(sys.platform != "linux", reason="kill_at.c names the functions of Linux's C library")
@pytest.mark.parametrize("name", NAMES)
def test_killed_between_any_two_operations(name: str, preload: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "LD_PRELOAD": str(preload), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(HERE / "drill.py"), name, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["faults"] == []
    assert found["kills"] >= 8, "fewer operations than any of these calls needs: nothing was counted"
