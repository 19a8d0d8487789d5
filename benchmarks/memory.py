"""Peak memory of segmenting one image with a ResNet-50, each provider in its own process.

The peer always merges masks at 384 x 384 pixels, ours at the image's size.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import clouds
from benchmarks.rows import row
from clouds.core.system.memory import peak_memory

ROOT = Path(__file__).parents[1]
OURS, PEER = "clouds", "transformers"
CLASSES = 19


def peak(provider: str, backbone: str, height: int, width: int) -> tuple[float, float]:
    """Peak resident gigabytes of this process before and after one image."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    if provider == OURS:
        pipeline = clouds.compose(backbone=backbone, head="mask2former", pretrained=False, device="cpu")
        pipeline.trained = True  # only memory matters here
        before = resident()
        labels = pipeline.predict(image).labels
    else:
        model, processor = _peer()
        before = resident()
        with torch.inference_mode():
            output = model(pixel_values=torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)
            (labels,) = processor.post_process_semantic_segmentation(output, target_sizes=[(height, width)])
    assert labels.shape == (height, width)
    return before, resident()


def resident() -> float:
    """Peak resident memory of this process so far, in gigabytes (10^9 bytes)."""
    return peak_memory() / 1e9


def _peer() -> tuple[Any, Any]:
    from transformers import (
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        Mask2FormerImageProcessor,
        ResNetConfig,
    )

    backbone: Any = ResNetConfig()  # its defaults are a ResNet-50
    backbone.out_features = ["stage1", "stage2", "stage3", "stage4"]
    config = Mask2FormerConfig(backbone_config=backbone)
    config.num_labels = CLASSES
    return Mask2FormerForUniversalSegmentation(config).eval(), Mask2FormerImageProcessor()


def measure(provider: str, size: tuple[int, int], *, backbone: str) -> tuple[float, float]:
    """Run `peak` in its own process."""
    command = [sys.executable, "-m", "benchmarks.memory", provider, backbone, *map(str, size)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split()[-2:])
    return before, after


def run(size: tuple[int, int] = (1024, 2048), *, backbone: str = "clip-rn50") -> list[dict[str, Any]]:
    """Two rows per provider: after building the model, and after segmenting the image."""
    rows: list[dict[str, Any]] = []
    for provider in (OURS, PEER):
        before, after = measure(provider, size, backbone=backbone)
        for metric, value in (("built", before), (f"predicted {size[0]}x{size[1]}", after)):
            rows.append(row("memory", provider, f"peak, {metric}", "GB", [value], shape=list(size)))
    return rows


if __name__ == "__main__":
    print(*peak(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
