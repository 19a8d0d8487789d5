"""Time of `Pipeline.predict` with the small backbone, per head and image size, and of batches beside one by one.

Of one by one and batches of 1, 2, 4 and 8 in turns, a row has seconds per image of a stream of JPEG files, and the most
bytes of tensors at a time. On a GPU `batches` is given the device, and measures recorded CUDA graphs, too.

    python -m benchmarks predict
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

import clouds
from benchmarks.rows import row, seconds
from clouds.kernels.bench.timing import milliseconds, peak_memory

SIZES = ((256, 512), (512, 1024))
HEADS = ("linear", "mask2former")
BACKBONES = ("tiny", "clip-rn50")
BATCHES = (1, 2, 4, 8)
ALONE = "one by one"


def run() -> list[dict[str, Any]]:
    """Rows of a CPU."""
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
        pipeline.trained = True  # only its speed is of interest
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
    images: int = 8,
    repeats: int = 3,
) -> list[dict[str, Any]]:
    """Rows of one by one, of each batch size, and on a GPU of both with CUDA graphs.

    Args:
        backbone, head: what is composed, with random weights.
        size: (height, width) of the images.
        device, dtype: where it runs, and its autocast type.
        images: in the stream.
        repeats: of the stream.
    """
    pipeline = clouds.compose(backbone=backbone, head=head, pretrained=False, device=device, dtype=dtype)
    pipeline.trained = True  # only its speed is of interest
    facts = {"shape": list(size), "images": images, "dtype": dtype or "float32"}
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        runs = _runs(pipeline, _write_images(Path(folder), size, images))
        memory = {way: peak_memory(one, pipeline.device) / 1e6 for way, one in runs.items()}
        times = milliseconds(runs, pipeline.device, repeats=repeats)
    for way in runs:
        per_image = [one / 1000 / images for one in times[way]]
        name, metric = f"{backbone}+{head}", f"per image, {way}"
        rows.append(row("predict", name, metric, "s", per_image, peak_memory_mb=memory[way], **facts))
        faster = [slow / fast for slow, fast in zip(times[ALONE], times[way], strict=True)]
        rows.append(row("predict", name, f"times faster, {way}", "x", faster, peer=ALONE, **facts))
    return rows


def _runs(pipeline: clouds.Pipeline, paths: Sequence[Path]) -> dict[str, Callable[[], object]]:
    def alone() -> None:
        for path in paths:
            assert pipeline.predict(path).labels.size

    def many(batch_size: int) -> Callable[[], object]:
        def work() -> None:
            for prediction in pipeline.predict_many(paths, batch_size=batch_size):
                assert prediction.labels.size

        return work

    def with_graphs(work: Callable[[], object]) -> Callable[[], object]:
        def replay() -> None:
            pipeline._graphs = graphs  # the same recordings in every turn
            work()
            pipeline._graphs = None

        pipeline.use_cuda_graphs(len(BATCHES))
        graphs, pipeline._graphs = pipeline._graphs, None
        return replay

    runs = {ALONE: alone, **{f"batches of {size}": many(size) for size in BATCHES}}
    if pipeline.device.type == "cuda":
        runs |= {f"{way}, CUDA graphs": with_graphs(work) for way, work in list(runs.items())}
    return runs


def _write_images(folder: Path, size: tuple[int, int], count: int) -> list[Path]:
    """Smooth colours, which are decoded about as fast as photographs."""
    paths = [folder / f"{index}.jpg" for index in range(count)]
    for index, path in enumerate(paths):
        coarse = np.random.default_rng(index).integers(0, 256, (size[0] // 16, size[1] // 16, 3), np.uint8)
        Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC).save(path, quality=90)
    return paths
