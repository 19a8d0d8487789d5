"""One function per built-in refiner: the numbers, and the built object. Imports nothing heavy by itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clouds.refiners.prompt_preset import prompt_preset

if TYPE_CHECKING:
    from clouds.core.contract.interfaces import Refiner
    from clouds.refiners.sam import SamSegmenter


def regions(*, cell: int = 8, compactness: float = 0.1, rounds: int = 5, agreement: float = 0.6) -> Refiner:
    """Colour regions of the image vote over the label map.

    Args:
        cell: side of the grid cells that regions start from, in pixels.
        compactness: weight of position against colour; larger gives rounder regions.
        rounds: rounds of the clustering.
        agreement: share of a region (0..1) that its winning class must have; below it the region keeps its labels.
    """
    from clouds.refiners.regions import RegionRefiner

    return RegionRefiner(cell=cell, compactness=compactness, rounds=rounds, agreement=agreement)


@prompt_preset
def sam(*, model: Literal["vit_b", "vit_l", "vit_h"], pretrained: bool | Path = True) -> SamSegmenter:
    """SAM answers point prompts drawn from the components of the label map.

    The numbers are the published ones (CVPR 2024); `small_components`, `overlaps` and `empty` are as published with
    "drop", "any" and "keep". A cached embedding takes 2 MiB for an image, and as much for its mirror image.

    Args:
        model: segment-anything's name of the image encoder.
        pretrained: load the published weights; False initialises randomly; a path reads a local file (.pth,
            .safetensors).
    """
    from clouds.refiners.sam import build_sam

    return build_sam(model, pretrained=pretrained)


def identity() -> Refiner:
    """Keeps the teacher's label map."""
    from clouds.refiners.identity import IdentityRefiner

    return IdentityRefiner()
