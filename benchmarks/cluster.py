"""A folder of small pictures on a Ray cluster of two workers, one of which is killed, gives the files of one process.

    python -m benchmarks cluster

A row has the number of files that differ, with the time of both runs. Ray starts and restarts its workers within it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

import clouds
from benchmarks.rows import row
from clouds.inference.folder import FILE_NAME, ROWS

COUNT, SIZE = 10_000, (48, 64)
TINY = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
COMMAND = "import sys; from clouds.cli.app import main; sys.exit(main())"


def run(count: int = COUNT) -> list[dict[str, Any]]:
    """One row: the files that differ. It kills a worker after a tenth of the pictures."""
    with TemporaryDirectory() as base:
        folder = Path(base)
        words = ["predict", str(_model(folder)), str(_pictures(folder, count)), "--batch-size", "8", "--device", "cpu"]
        before = time.perf_counter()
        subprocess.run([sys.executable, "-c", COMMAND, *words, "--out", str(folder / "alone")], check=True)
        alone = time.perf_counter() - before
        _run_and_kill([*words, "--engine", "ray", "--workers", "2", "--out", str(folder / "cluster")], folder, count)
        cluster = time.perf_counter() - before - alone
        one, two = (_files(folder / name) for name in ("alone", "cluster"))
    differing = len({name for name in {*one, *two} if one.get(name) != two.get(name)})
    facts = {"images": count, "files": len(one), "killed": 1, "shape": list(SIZE)}
    facts |= {"alone_seconds": round(alone, 1), "cluster_seconds": round(cluster, 1)}
    metric = "files that differ after a worker was killed"
    return [row("cluster", "tiny+linear", metric, "files", [float(differing)], **facts)]


def _run_and_kill(words: list[str], folder: Path, count: int) -> None:
    """Run the command on Ray; kill a worker once a tenth of the pictures has files."""
    process = subprocess.Popen([sys.executable, "-c", COMMAND, *words])
    while len(list((folder / "cluster").glob("*_overlay.png"))) < count // 10:
        if process.poll() is not None:
            raise RuntimeError("the run ended before a worker was killed")
        time.sleep(0.1)
    os.kill(_workers(process.pid)[0], signal.SIGKILL)
    if process.wait():
        raise RuntimeError(f"the run on Ray ended with {process.returncode}")


def _workers(pid: int) -> list[int]:
    """The processes below this one that are Ray's actors, by the name that Ray gives them."""
    found: list[int] = []
    for child in [int(word) for file in Path(f"/proc/{pid}/task").glob("*/children") for word in _text(file).split()]:
        found += [child] * _text(Path(f"/proc/{child}/cmdline")).startswith("ray::_Worker") + _workers(child)
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return ""


def _files(folder: Path) -> dict[str, bytes]:
    """Content of the result files."""
    kept = (FILE_NAME, ROWS, ".lock")
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name not in kept}


def _model(folder: Path) -> Path:
    pipeline = clouds.compose(backbone=TINY, head={"name": "linear", "width": 16}, device="cpu")
    pipeline.trained = True  # only its files matter here
    pipeline.save(folder / "model")
    return folder / "model"


def _pictures(folder: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for index in range(count):
        Image.fromarray(rng.integers(0, 256, (*SIZE, 3), np.uint8)).save(folder / "pictures" / f"{index}.png")
    return folder / "pictures"
