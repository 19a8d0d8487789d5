"""Time and memory of a resumed generation of 100,000 images until it knows which ones are missing.

It runs in its own process. The time ends when the generator is asked for the only missing image. "decision" is the
additional memory of this step, "process" all memory of the process, most of which is torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from attrs import asdict, evolve

import clouds
from benchmarks.memory import ROOT, resident
from benchmarks.rows import row
from clouds.core.contract.component import Kind
from clouds.core.contract.plan import Part
from clouds.synthesis.generate import generate_set
from clouds.synthesis.manifest import FILE_NAME

PROMPTS = [f"A photo of a busy road with cars and pedestrians in the rain, number {number}." for number in range(100)]
PART = Part(kind=Kind.GENERATOR, name="grey", options={"steps": 50}, distribution="benchmarks", version="0")
SIZE = (8, 8)


class Grey(clouds.Generator):
    """Returns grey images, and records time and peak memory of the first request."""

    def __init__(self) -> None:
        self.asked: tuple[float, float] | None = None

    def generate(self, requests: Iterable[clouds.GenerationRequest]) -> Iterator[clouds.GeneratedImage]:
        for request in requests:
            self.asked = self.asked or (time.perf_counter(), resident())
            yield clouds.GeneratedImage(request=request, image=np.full((*request.size, 3), 128, np.uint8))


def fill(folder: Path, n: int) -> None:
    """Write a dataset of n images without the last one, as copies of one generated image."""
    first = generate_set(Grey(), PART, PROMPTS, n=1, out=folder, size=SIZE).rows[0]
    content = (folder / first.file).read_bytes()
    with open(folder / FILE_NAME, "w", encoding="utf-8") as lines:
        for index in range(n - 1):
            which = index % len(PROMPTS)
            file = f"images/im_{index}_p{which}.png"
            (folder / file).write_bytes(content)
            one = evolve(first, index=index, file=file, prompt=PROMPTS[which], prompt_index=which, seed=index)
            lines.write(json.dumps(asdict(one)) + "\n")


def decide(folder: Path, n: int) -> tuple[float, float, float]:
    """Seconds until the missing image is requested, and peak resident gigabytes before and until then."""
    generator, before = Grey(), resident()
    start = time.perf_counter()
    generate_set(generator, PART, PROMPTS, n=n, out=folder, size=SIZE)
    assert generator.asked is not None
    return generator.asked[0] - start, before, generator.asked[1]


def run(n: int = 100_000, *, repeats: int = 5) -> list[dict[str, Any]]:
    """Rows of seconds and of peak memory."""
    times: list[float] = []
    decisions: list[float] = []
    peaks: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        fill(folder, n)
        manifest = (folder / FILE_NAME).read_bytes()
        for _ in range(repeats):
            (folder / FILE_NAME).write_bytes(manifest)  # removes the last image again
            command = [sys.executable, "-m", "benchmarks.manifest", str(folder), str(n)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            seconds, before, peak = map(float, done.stdout.split()[-3:])
            times.append(seconds)
            decisions.append(peak - before)
            peaks.append(peak)
    return [
        row("manifest", "clouds", f"decide what is missing, {n} images", "s", times),
        row("manifest", "clouds", f"peak memory of the decision, {n} images", "GB", decisions),
        row("manifest", "clouds", f"peak memory of the process, {n} images", "GB", peaks),
    ]


if __name__ == "__main__":
    print(*decide(Path(sys.argv[1]), int(sys.argv[2])))
