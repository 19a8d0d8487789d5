"""Effect of a refiner on boundaries: pixel accuracy near true boundaries before and after, and its time.

Label maps are coarse versions of the exact labels of drawn scenes: each block of pixels has one label, like predictions
at a quarter or an eighth of the image's size. The metric is the accuracy within a band around true boundaries (trimap
accuracy, Kohli et al., IJCV 2009).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import ndimage

import clouds
from benchmarks.rows import row, seconds
from clouds.core.contract.tensors import image_tensor
from clouds.core.pipeline.build import build_part

SIZE, SCENES, BAND = (192, 384), 24, 4


def scenes(count: int, size: tuple[int, int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images and exact labels of drawn street scenes."""
    prompts = build_part("prompter", "grammar").prompts(count, seed=0)
    generator = build_part("generator", "procedural")
    requests = [clouds.GenerationRequest(prompt=prompt, seed=i, size=size) for i, prompt in enumerate(prompts)]
    return [(made.image, made.labels) for made in generator.generate(requests)]


def coarse(labels: np.ndarray, block: int) -> np.ndarray:
    """Give each block of pixels the label of its middle."""
    small = labels[block // 2 :: block, block // 2 :: block]
    grown = small.repeat(block, 0).repeat(block, 1)
    height, width = labels.shape
    return np.pad(grown, ((0, max(0, height - len(grown))), (0, max(0, width - grown.shape[1]))), mode="edge")[
        :height, :width
    ]


def band_accuracy(labels: np.ndarray, truth: np.ndarray, band: int) -> float:
    """Accuracy of labelled pixels within `band` pixels of a true boundary, in percent."""
    edge = ndimage.maximum_filter(truth, 3) != ndimage.minimum_filter(truth, 3)
    near = ndimage.binary_dilation(edge, iterations=band) & (truth != 255)
    return float((labels == truth)[near].mean() * 100)


def run() -> list[dict[str, Any]]:
    """Rows for every built-in refiner: accuracy near boundaries for two block sizes, and time per image."""
    made = scenes(SCENES, SIZE)
    images = [image_tensor(image) for image, _ in made]
    rngs = [np.random.default_rng(0) for _ in images]
    rows: list[dict[str, Any]] = []
    for name in ("identity", "regions", "guided"):
        refiner = build_part("refiner", name)
        maps: list[torch.Tensor] = []
        for block in (4, 8):
            maps = [torch.from_numpy(coarse(truth, block)) for _, truth in made]
            refined = refiner.refine(images, maps, rngs=rngs)
            values = [
                band_accuracy(target.to_label_map().numpy(), truth, BAND)
                for target, (_, truth) in zip(refined, made, strict=True)
            ]
            rows.append(
                row("refiners", name, f"accuracy near edges, 1/{block}", "%", values, shape=list(SIZE), band=BAND)
            )
        first = (images[:1], maps[:1])
        times = seconds(lambda refiner=refiner, first=first: refiner.refine(*first, rngs=rngs[:1]), repeats=9)
        rows.append(row("refiners", name, "time per image", "s", times, shape=list(SIZE)))
    return rows
