"""Time of `Pipeline.predict` with the small backbone, per head and image size, and of batches.

Single images and batches of 1, 2, 4 and 8 alternate, the largest also with two threads that read files. A row has
seconds per image of a stream of JPEG files, and peak bytes of tensors. On a GPU, `batches` also measures CUDA graphs.

    python -m benchmarks predict
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

import clouds
from benchmarks.rows import clock, row, seconds
from clouds.bench.timing import peak_memory

SIZES = ((256, 512), (512, 1024))
HEADS = ("linear", "mask2former")
BACKBONES = ("tiny", "clip-rn50")
BATCHES = (1, 2, 4, 8)
READERS = 2
ALONE = "one by one"


def run() -> list[dict[str, Any]]:
    """Rows for a CPU."""
    rows = singles()
    for backbone in BACKBONES:
        for size in SIZES:
            rows += batches(backbone, size)
    return rows


def singles() -> list[dict[str, Any]]:
    """One row per head and size."""
    rows: list[dict[str, Any]] = []
    rng = np.random.default_rng(0)
    for head in HEADS:
        pipeline = clouds.compose(backbone="tiny", head=head)
        pipeline.trained = True  # only speed matters here
        for height, width in SIZES:
            image = rng.integers(0, 256, (height, width, 3), np.uint8)
            times = seconds(lambda image=image, pipeline=pipeline: pipeline.predict(image).labels, repeats=7)
            rows.append(row("predict", f"tiny+{head}", f"predict {height}x{width}", "s", times, shape=[height, width]))
    return rows


def batches(
    backbone: str,
    size: tuple[int, int],
    *,
    head: str = "mask2former",
    device: str = "cpu",
    dtype: str | None = None,
    sizes: Sequence[int] = BATCHES,
    images: int = 8,
    repeats: int = 3,
) -> list[dict[str, Any]]:
    """Rows of single images, of each batch size, and on a GPU of both with CUDA graphs.

    Args:
        backbone, head: parts of the pipeline, with random weights.
        size: (height, width) of the images.
        device, dtype: device, and autocast dtype.
        sizes: batch sizes.
        images: number of images in the stream.
        repeats: repeats of the stream.
    """
    pipeline = clouds.compose(backbone=backbone, head=head, pretrained=False, device=device, dtype=dtype)
    pipeline.trained = True  # only speed matters here
    facts = {"shape": list(size), "images": images, "dtype": dtype or "float32"}
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        paths = _write_images(Path(folder), size, images)
        runs = _runs(pipeline, paths, sizes)
        memory = {way: peak_memory(partial(work, most), pipeline.device) / 1e6 for way, (work, most) in runs.items()}
        for work, _ in list(runs.values()) * (3 if pipeline.device.type == "cuda" else 0):
            work(images)  # records graphs, tunes launches
        times: dict[str, list[float]] = {way: [] for way in runs}
        for _ in range(repeats):
            for way, (work, _) in runs.items():
                times[way].append(clock(partial(work, images)))
    for way in runs:
        per_image = [one / images for one in times[way]]
        name, metric = f"{backbone}+{head}", f"per image, {way}"
        rows.append(row("predict", name, metric, "s", per_image, peak_memory_mb=memory[way], **facts))
        if way != ALONE:
            faster = [slow / fast for slow, fast in zip(times[ALONE], times[way], strict=True)]
            rows.append(row("predict", name, f"times faster, {way}", "x", faster, peer=ALONE, **facts))
    return rows


def _runs(
    pipeline: clouds.Pipeline, paths: Sequence[Path], sizes: Sequence[int]
) -> dict[str, tuple[Callable[[int], None], int]]:
    """Functions that segment the first n images in each way, and the batch size of each."""

    def alone(count: int) -> None:
        for path in paths[:count]:
            assert pipeline.predict(path).labels.size

    def many(batch_size: int, count: int, readers: int = 1) -> None:
        for prediction in pipeline.predict_many(paths[:count], batch_size=batch_size, workers=readers):
            assert prediction.labels.size

    def replay(graphs: Any, work: Callable[[int], None], count: int) -> None:
        pipeline._graphs = graphs  # the same recordings in every turn
        work(count)
        pipeline._graphs = None

    runs: dict[str, tuple[Callable[[int], None], int]] = {ALONE: (alone, 1)}
    runs |= {f"batches of {size}": (partial(many, size), size) for size in sizes}
    runs[f"batches of {max(sizes)}, {READERS} reading threads"] = (
        partial(many, max(sizes), readers=READERS),
        max(sizes),
    )
    if pipeline.device.type == "cuda":
        pipeline.use_cuda_graphs()
        runs |= {f"{way}, CUDA graphs": (partial(replay, pipeline._graphs, work), n) for way, (work, n) in runs.items()}
        pipeline._graphs = None
    return runs


def _write_images(folder: Path, size: tuple[int, int], count: int) -> list[Path]:
    """Write images of smooth colours, which decode about as fast as photographs."""
    paths = [folder / f"{index}.jpg" for index in range(count)]
    for index, path in enumerate(paths):
        coarse = np.random.default_rng(index).integers(0, 256, (size[0] // 16, size[1] // 16, 3), np.uint8)
        Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC).save(path, quality=90)
    return paths
