"""A run that is killed at any moment can be finished, and ends with the files of an uninterrupted one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clouds.core.contract.component import Kind
from clouds.core.contract.plan import Part
from clouds.core.system.images import read_image
from clouds.synthesis.generate import generate_set
from clouds.synthesis.generated_set import open_generated
from clouds.synthesis.manifest import FILE_NAME, FileLengths, read_rows

N, SIZE, PROMPTS = 10, (32, 48), ["A photo of a street in daylight.", "A photo of a road at night."]
PART = Part(kind="generator", name="procedural", distribution="clouds-dgss", version="0")

# The same call as `finish` below, slowed down so that it is killed in the middle.
SCRIPT = f"""
import sys, time
from clouds.core.pipeline.build import build_part
from clouds.core.contract.interfaces import Generator
from clouds.core.contract.plan import Part
from clouds.synthesis.generate import generate_set

class Slow(Generator):
    def generate(self, requests):
        for image in build_part("generator", "procedural").generate(requests):
            time.sleep(0.03)
            yield image

part = Part(kind="generator", name="procedural", distribution="clouds-dgss", version="0")
generate_set(Slow(), part, {PROMPTS!r}, n={N}, out=sys.argv[1], size={SIZE}, batch_size=1, keep_labels=True)
"""


def finish(folder: Path) -> None:
    from clouds.core.pipeline.build import build_part

    generator = build_part(Kind.GENERATOR, "procedural")
    generate_set(generator, PART, PROMPTS, n=N, out=folder, size=SIZE, batch_size=1, keep_labels=True)


def kill_after(folder: Path, rows: int) -> None:
    """Start a run, and kill it once the manifest has so many rows."""
    run = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], env={**os.environ, "OMP_NUM_THREADS": "1"})
    manifest = folder / FILE_NAME
    deadline = time.monotonic() + 300  # a busy machine takes long to import torch
    try:
        while not manifest.exists() or manifest.read_bytes().count(b"\n") < rows:
            if run.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the run ended before it had {rows} rows")
            time.sleep(0.001)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()


def files(folder: Path) -> dict[str, bytes]:
    """Finished files; a killed run may leave a hidden temporary one."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.mark.parametrize("kills", [(4,), pytest.param((1, 2, 3, 5, 7, 8), marks=pytest.mark.slow)])
def test_a_killed_run_is_finished_by_the_same_call(tmp_path: Path, kills: tuple[int, ...]) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for rows in kills:
        kill_after(killed, rows)
        listed = read_rows(killed)
        assert rows <= len(listed) < N
        assert [fault for row in listed for fault in row.faults(FileLengths(killed))] == []
        for path in open_generated(killed).images:
            assert read_image(path).shape == (*SIZE, 3)
    finish(killed)
    finish(whole)
    assert len(open_generated(killed).images) == N
    assert files(killed) == files(whole)
