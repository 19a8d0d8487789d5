"""Refinement by SAM: what a cached embedding saves, and what prompts in batches save over prompts one by one.

Two images of 768 x 768 with 20 components each, a ViT-B of random weights. "One by one" is segment-anything's own
predictor, which is given each prompt alone and answers with three masks at the image's size, of which the best is kept.
"dense layers" are those of "prompts in batches" alone: no order of work that keeps them is faster.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from benchmarks.dense import DenseLayers
from benchmarks.rows import row, seconds
from clouds.core.composer import pick_device
from clouds.core.tensor_cache import TensorCache
from clouds.refiners.prompt_points import draw_points, find_regions
from clouds.refiners.prompted import PromptRefiner
from clouds.refiners.sam import SamSegmenter, build_sam

SIZE, ROWS, COLUMNS, IMAGES, POINTS = 768, 4, 5, 2, 5


def run() -> list[dict[str, Any]]:
    """Rows for a SAM of ViT-B's size on the best device there is."""
    return measure(build_sam("vit_b", pretrained=False), size=SIZE, repeats=5)


def measure(segmenter: SamSegmenter, *, size: int, repeats: int) -> list[dict[str, Any]]:
    """Seconds of each way for both images together, and their ratios.

    Args:
        segmenter: what is timed.
        size: side of the images, in pixels.
        repeats: of everything but the first pass, which is timed once after a warm-up on another picture.
    """
    device = segmenter.to(pick_device("auto")).sam.device
    images, label_maps = pictures(size, device), [tiles(size)] * IMAGES
    with tempfile.TemporaryDirectory() as folder:
        refiner = PromptRefiner(
            segmenter, size_threshold=0, points=POINTS, cache=TensorCache(folder, max_bytes=2**30), overlaps="keep"
        )

        def refine(prepared: list[Any] | None = None, batch_size: int = refiner.batch_size) -> None:
            refiner.batch_size = batch_size
            rngs = [np.random.default_rng(number) for number in range(IMAGES)]
            refiner.refine(images, label_maps, rngs=rngs, prepared=prepared)

        refiner.prepare([image.flip(1) for image in images[:1]])
        first = timed(refine)
        second = seconds(refine, repeats=repeats)
        prepared = refiner.prepare(images)
        with DenseLayers() as dense:
            refine(prepared)
        floor = seconds(dense.run, repeats=repeats)
        batched = seconds(lambda: refine(prepared), repeats=repeats)
        alone = seconds(lambda: refine(prepared, 1), repeats=repeats)
    loop = seconds(one_by_one(segmenter.sam, images, label_maps), repeats=repeats)
    found = {
        "encoder and decoder": [first],
        "cached embedding": second,
        "prompts in batches": batched,
        "prompts in batches, dense layers": floor,
        "prompts in batches of one": alone,
        "prompts one by one, segment-anything": loop,
    }
    facts = {"images": IMAGES, "prompts": ROWS * COLUMNS, "size": size}
    rows = [row("sam", name, "time", "s", values, **facts) for name, values in found.items()]
    ratios = {"encoder and decoder / cached embedding": first / np.median(second)}
    ratios["prompts one by one / in batches"] = np.median(loop) / np.median(batched)
    ratios["prompts one by one / dense layers of batches"] = np.median(loop) / np.median(floor)
    return rows + [row("sam", name, "ratio", "x", [float(value)], **facts) for name, value in ratios.items()]


def pictures(size: int, device: torch.device) -> list[torch.Tensor]:
    """Pictures of noise."""
    noise = torch.Generator().manual_seed(0)
    return [
        torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=noise).to(device) for _ in range(IMAGES)
    ]


def tiles(size: int) -> torch.Tensor:
    """A label map of as many components as there are prompts; no two neighbours are of one class."""
    row_of, column_of = torch.arange(size) * ROWS // size, torch.arange(size) * COLUMNS // size
    return ((row_of[:, None] * COLUMNS + column_of) % 19).to(torch.uint8)


def one_by_one(
    sam: Sam, images: list[torch.Tensor], label_maps: list[torch.Tensor]
) -> Callable[[], list[list[torch.Tensor]]]:
    """A function that answers the same prompts with segment-anything's predictor; images are encoded before."""
    predictors: list[SamPredictor] = []
    for image in images:
        predictors.append(SamPredictor(sam))
        predictors[-1].set_image(image.permute(1, 2, 0).cpu().numpy())

    def answer() -> list[list[torch.Tensor]]:
        found: list[list[torch.Tensor]] = []
        for number, (predictor, label_map) in enumerate(zip(predictors, label_maps, strict=True)):
            rng = np.random.default_rng(number)
            prompts = [draw_points(region, rng, points=POINTS) for region in find_regions(label_map.numpy())]
            answers = [predictor.predict(prompt, np.ones(POINTS)) for prompt in prompts]
            found.append([torch.from_numpy(masks[quality.argmax()]) for masks, quality, _ in answers])
        return found

    return answer


def timed(call: Callable[[], None]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
