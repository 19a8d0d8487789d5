"""One builder per built-in refiner, with the published numbers as defaults. Heavy imports stay inside the functions."""

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
        cell: side of the initial grid cells in pixels.
        compactness: weight of position against colour; larger values give rounder regions.
        rounds: clustering iterations.
        agreement: minimum share (0..1) of the winning class in a region; below it the region keeps its labels.
    """
    from clouds.refiners.regions import RegionRefiner

    return RegionRefiner(cell=cell, compactness=compactness, rounds=rounds, agreement=agreement)


def guided(*, radius: int = 16, epsilon: float = 0.01, balance: float = 0.3, subsample: int = 2) -> Refiner:
    """A guided filter of each class's mask votes over the label map, rare classes with more weight.

    Args:
        radius: of the filter's square window, in pixels; the nearest multiple of `subsample` is taken.
        epsilon: variance of colour (0..1) in a window above which it has an edge.
        balance: 0..1: a class's support is divided by its share of the image to this power, because teachers miss rare
            classes more often than they invent them.
        subsample: 1, or 2 to compute the filter's coefficients from every second pixel of each row and column, which
            moves edges without contrast by up to a pixel.
    """
    from clouds.refiners.guided import GuidedRefiner

    return GuidedRefiner(radius=radius, epsilon=epsilon, balance=balance, subsample=subsample)


@prompt_preset
def sam(*, model: Literal["vit_b", "vit_l", "vit_h"], pretrained: bool | Path = True) -> SamSegmenter:
    """SAM segments point prompts drawn from the components of the label map.

    The defaults are the published ones (CVPR 2024), except `small_components`, `overlaps` and `empty`, whose published
    values are "drop", "any" and "keep". A cached embedding takes 2 MiB per image, and as much for its mirror image.

    Args:
        model: segment-anything's name of the image encoder.
        pretrained: load the published weights; False initialises randomly; a path loads a local file (.pth,
            .safetensors).
    """
    from clouds.refiners.sam import build_sam

    return build_sam(model, pretrained=pretrained)


def identity() -> Refiner:
    """Keep the teacher's label map."""
    from clouds.refiners.identity import IdentityRefiner

    return IdentityRefiner()
