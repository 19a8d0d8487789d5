"""Refinement by SAM: savings of cached embeddings, and of batched prompts over single prompts.

Two images of 768 x 768 with 20 components each, a ViT-B with random weights. "One by one" is segment-anything's own
predictor, which gets each prompt alone and returns three masks at the image's size, the best of which is kept. "dense
layers" are only those of "prompts in batches", a lower bound for any order of work.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from attrs import evolve
from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from benchmarks.dense import DenseLayers
from benchmarks.rows import clock, row, seconds
from clouds.core.pipeline.build import pick_device
from clouds.core.weights.tensor_cache import TensorCache
from clouds.refiners.prompt_points import draw_points, find_regions
from clouds.refiners.prompted import PromptRefiner
from clouds.refiners.sam import SamSegmenter, build_sam

SIZE, ROWS, COLUMNS, IMAGES, POINTS = 768, 4, 5, 2, 5


def run() -> list[dict[str, Any]]:
    """Rows for a SAM of ViT-B's size on the best available device."""
    return measure(build_sam("vit_b", pretrained=False), size=SIZE, repeats=7)


def measure(segmenter: SamSegmenter, *, size: int, repeats: int) -> list[dict[str, Any]]:
    """Seconds of each method for both images together, and their ratios.

    Args:
        segmenter: the segmenter.
        size: side of the images, in pixels.
        repeats: repeats of everything except the first pass, which is measured once after a warm-up on another image.
            Methods alternate, and a ratio is that of one turn.
    """
    device = segmenter.to(pick_device("auto")).sam.device
    images, label_maps = pictures(size, device), [tiles(size)] * IMAGES
    with tempfile.TemporaryDirectory() as folder:
        refiner = PromptRefiner(
            segmenter, size_threshold=0, points=POINTS, cache=TensorCache(folder, max_bytes=2**30), overlaps="keep"
        )

        def refine(prepared: list[Any] | None = None, batch_size: int = refiner.options.batch_size) -> None:
            refiner.options = evolve(refiner.options, batch_size=batch_size)
            rngs = [np.random.default_rng(number) for number in range(IMAGES)]
            refiner.refine(images, label_maps, rngs=rngs, prepared=prepared)

        refiner.prepare([image.flip(1) for image in images[:1]])
        first = clock(refine)
        prepared = refiner.prepare(images)
        ways = {
            "cached embedding": refine,
            "prompts in batches": lambda: refine(prepared),
            "prompts in batches of one": lambda: refine(prepared, 1),
            "prompts one by one, segment-anything": one_by_one(segmenter.sam, images, label_maps),
        }
        found = in_turns(ways, repeats=repeats)
        with DenseLayers() as dense:
            refine(prepared)
        found["prompts in batches, dense layers"] = seconds(dense.run, repeats=repeats)
    found["encoder and decoder"] = [first]
    facts = {"images": IMAGES, "prompts": ROWS * COLUMNS, "size": size}
    rows = [row("sam", name, "time", "s", values, **facts) for name, values in found.items()]
    return rows + [row("sam", name, "ratio", "x", values, **facts) for name, values in ratios(found).items()]


def ratios(found: dict[str, list[float]]) -> dict[str, list[float]]:
    """Speedup of the second of two methods in each turn."""
    pairs = [
        ("encoder and decoder", "cached embedding"),
        ("prompts one by one, segment-anything", "prompts in batches"),
        ("prompts one by one, segment-anything", "prompts in batches, dense layers"),
    ]
    return {f"{slow} / {fast}": (np.array(found[slow]) / found[fast]).tolist() for slow, fast in pairs}


def in_turns(ways: dict[str, Callable[[], object]], *, repeats: int) -> dict[str, list[float]]:
    """Wall-clock seconds of each method, alternating `repeats` times after a warm-up of each."""
    for way in ways.values():
        way()
    rounds = [[clock(way) for way in ways.values()] for _ in range(repeats)]
    return dict(zip(ways, (list(times) for times in zip(*rounds, strict=True)), strict=True))


def pictures(size: int, device: torch.device) -> list[torch.Tensor]:
    """Images of noise."""
    noise = torch.Generator().manual_seed(0)
    return [
        torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=noise).to(device) for _ in range(IMAGES)
    ]


def tiles(size: int) -> torch.Tensor:
    """A label map with as many components as prompts; neighbours have different classes."""
    row_of, column_of = torch.arange(size) * ROWS // size, torch.arange(size) * COLUMNS // size
    return ((row_of[:, None] * COLUMNS + column_of) % 19).to(torch.uint8)


def one_by_one(
    sam: Sam, images: list[torch.Tensor], label_maps: list[torch.Tensor]
) -> Callable[[], list[list[torch.Tensor]]]:
    """A function that segments the same prompts with segment-anything's predictor, after encoding the images."""
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
