"""One function per built-in refiner: the numbers, and the built object. Imports nothing heavy by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clouds.core.interfaces import Refiner


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


def identity() -> Refiner:
    """Keeps the teacher's label map."""
    from clouds.refiners.identity import IdentityRefiner

    return IdentityRefiner()
