"""How far pictures of a diffusion model differ between batches and between precisions, in levels of 0..255.

A Stable Diffusion pipeline with small random weights, as published otherwise (50 steps, guidance 7.5). A row is of all
pictures: what each of them has as mean, or as largest, difference.

    python -m benchmarks precision
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import clouds
from benchmarks.rows import row
from clouds.core.composer import pick_device
from clouds.generators.diffusion import DiffusionGenerator
from clouds.generators.diffusion_source import TinySource

DTYPES = ("float32", "bfloat16", "float16")


def run(*, size: int = 128, pictures: int = 8, steps: int = 50) -> list[dict[str, Any]]:
    """Rows for each precision: a batch beside its pictures drawn alone, and alone beside float32 alone."""
    requests = [
        clouds.GenerationRequest(prompt="A photo of a street at night.", seed=index, size=(size, size))
        for index in range(pictures)
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
            away = np.abs(alone - other).reshape(pictures, -1)
            facts = {"dtype": dtype, "peer": peer, "shape": [size, size], "batch": pictures, "steps": steps}
            rows.append(row("precision", "stable-diffusion-2, tiny", "mean", "levels", list(away.mean(1)), **facts))
            rows.append(row("precision", "stable-diffusion-2, tiny", "largest", "levels", list(away.max(1)), **facts))
    return rows
