"""Differences of diffusion images and of predictions between batches and between precisions.

`pictures`: a Stable Diffusion pipeline with small random weights and the published settings (50 steps, guidance 7.5),
in levels of 0..255. A row has the mean, or the largest, difference of every image.

`predictions`: the small backbone with random weights, in a batch compared with single images. Rows have the largest
difference of a class score, and the share of pixels with another label, of every image.

    python -m benchmarks precision
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import torch

import clouds
from benchmarks.rows import row
from clouds.core.pipeline.build import pick_device
from clouds.generators.diffusion import DiffusionGenerator
from clouds.generators.diffusion_source import TinySource

DTYPES = ("float32", "bfloat16", "float16")


def run() -> list[dict[str, Any]]:
    """Rows of images and of predictions."""
    return pictures() + predictions()


def pictures(*, size: int = 128, count: int = 8, steps: int = 50) -> list[dict[str, Any]]:
    """Rows per precision: a batch compared with single images, and single images compared with float32."""
    requests = [
        clouds.GenerationRequest(prompt="A photo of a street at night.", seed=index, size=(size, size))
        for index in range(count)
    ]
    rows: list[dict[str, Any]] = []
    exact: np.ndarray | None = None
    for dtype in DTYPES:
        source = TinySource("stable-diffusion-2")
        generator = DiffusionGenerator(source, steps=steps, dtype=getattr(torch, dtype)).to(pick_device("auto"))
        alone = np.stack([next(iter(generator.generate([one]))).image for one in requests]).astype(int)
        batch = np.stack([one.image for one in generator.generate(requests)]).astype(int)
        exact = alone if exact is None else exact
        for peer, other in (("a batch beside alone", batch), (f"{DTYPES[0]}, alone", exact)):
            away = np.abs(alone - other).reshape(count, -1)
            facts = {"dtype": dtype, "peer": peer, "shape": [size, size], "batch": count, "steps": steps}
            rows.append(row("precision", "stable-diffusion-2, tiny", "mean", "levels", list(away.mean(1)), **facts))
            rows.append(row("precision", "stable-diffusion-2, tiny", "largest", "levels", list(away.max(1)), **facts))
    return rows


def predictions(*, size: tuple[int, int] = (128, 256), count: int = 8) -> list[dict[str, Any]]:
    """Rows per head and precision: a batch compared with single images."""
    rows: list[dict[str, Any]] = []
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]
    for head, dtype in product(("linear", "mask2former"), DTYPES[:2]):
        pipeline = clouds.compose(
            backbone="tiny", head=head, pretrained=False, dtype=None if dtype == "float32" else dtype
        )
        pipeline.trained = True  # only rounding matters here
        pairs = list(zip(pipeline.predict_many(images, batch_size=count), map(pipeline.predict, images), strict=True))
        away = [1e6 * float(np.abs(one.scores() - alone.scores()).max()) for one, alone in pairs]
        changed = [100 * float((one.labels != alone.labels).mean()) for one, alone in pairs]
        facts = {"dtype": dtype, "peer": "a batch beside alone", "shape": list(size), "batch": count}
        for metric, unit, values in (("largest difference of a score", "1e-6", away), ("labels", "%", changed)):
            rows.append(row("precision", f"tiny+{head}", metric, unit, values, **facts))
    return rows
