"""Time of `Pipeline.predict` with the small backbone, per head and image size; ratios within one run are comparable."""

from __future__ import annotations

from typing import Any

import numpy as np

import clouds
from benchmarks.rows import row, seconds

SIZES = ((256, 512), (512, 1024))
HEADS = ("linear", "mask2former")


def run() -> list[dict[str, Any]]:
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
