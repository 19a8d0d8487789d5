"""`clouds predict --engine ray`: two workers write the files of one process, also when one is killed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from test_ray import DEADLINE, RAY, _ray, files, finish, start, workers_of  # noqa: F401 - _ray skips without Ray

import clouds
from clouds.core.system.images import write_png
from clouds.inference.folder import FILE_NAME, ROWS

pytestmark = pytest.mark.slow  # a cluster takes ten seconds to start, and a busy machine more
COUNT = 300


def results(folder: Path) -> dict[str, bytes]:
    """Content of the result files."""
    return {name: content for name, content in files(folder).items() if name not in (FILE_NAME, ROWS, ".lock")}


def test_a_killed_worker_changes_no_file(tmp_path: Path) -> None:
    tiny = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    pipeline = clouds.compose(backbone=tiny, head={"name": "linear", "width": 16}, device="cpu")
    pipeline.trained = True
    pipeline.save(tmp_path / "model")
    rng = np.random.default_rng(0)
    for index in range(COUNT):
        write_png(tmp_path / "pictures" / f"{index}.png", rng.integers(0, 256, (48, 64, 3), np.uint8))
    (tmp_path / "pictures" / "broken.png").write_bytes(b"no picture")
    words = ("predict", tmp_path / "model", tmp_path / "pictures", "--batch-size", 4)
    alone = start(*words, "--device", "cpu", "--out", tmp_path / "alone")
    alone.communicate(timeout=DEADLINE)
    run = start(*words, *RAY, "--out", tmp_path / "cluster")
    deadline = time.monotonic() + DEADLINE
    while len(results(tmp_path / "cluster") if (tmp_path / "cluster").exists() else {}) < 20:
        assert run.poll() is None, "it ended before a worker was killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(workers_of(run.pid)[0], signal.SIGKILL)
    out, _ = run.communicate(timeout=DEADLINE)
    assert (alone.returncode, run.returncode) == (1, 1)  # one picture is broken
    assert out.startswith(f"{COUNT} images predicted, 0 existed, 1 failed")
    assert results(tmp_path / "cluster") == results(tmp_path / "alone")
    (tmp_path / "pictures" / "broken.png").unlink()
    assert finish(start(*words, *RAY, "--out", tmp_path / "cluster")).startswith(f"0 images predicted, {COUNT} existed")
