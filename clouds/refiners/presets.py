"""One function per built-in refiner: the numbers, and the built object. Imports nothing heavy by itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from clouds.core.contract.interfaces import Refiner


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


def sam(
    *,
    model: Literal["vit_b", "vit_l", "vit_h"],
    pretrained: bool | Path = True,
    size_threshold: int = 5000,
    points: int = 5,
    selection: Literal["random", "center", "largest_component"] = "random",
    erosion: int = 0,
    refinement: bool = False,
    small_components: Literal["keep", "drop"] = "keep",
    overlaps: Literal["between_classes", "any", "keep"] = "between_classes",
    empty: Literal["drop", "keep"] = "drop",
    batch_size: int = 8,
    dtype: Literal["bfloat16", "float16"] | None = None,
    cache: Path | None = None,
    cache_bytes: int = 32 * 2**30,
) -> Refiner:
    """SAM answers point prompts drawn from the components of the label map.

    The numbers are the published ones (CVPR 2024); `small_components`, `overlaps` and `empty` are as published with
    "drop", "any" and "keep".

    Args:
        model: segment-anything's name of the image encoder.
        pretrained: load the published weights; False initialises randomly; a path reads a local file (.pth,
            .safetensors).
        size_threshold: components of more than so many pixels are prompts.
        points: points of each prompt.
        selection: "random": anywhere in the component; "center": near its centroid; "largest_component": in the
            largest part that the erosion leaves.
        erosion: side of the square that erodes components before points are drawn, in pixels; 0 does not.
        refinement: answer each prompt a second time, with the first mask as a part of the prompt.
        small_components: components that are no prompt "keep" their labels, or "drop" out.
        overlaps: pixels claimed twice are cleared "between_classes", between "any" two prompts, or kept in both
            ("keep").
        empty: "drop" classes that lose all of their pixels, or "keep" them with an empty mask.
        batch_size: prompts that the network answers together.
        dtype: autocast type of the network; None is float32.
        cache: folder for image embeddings (2 MiB for an image, and as much for its mirror image), so that the encoder
            runs once for each.
        cache_bytes: bound on the size of that folder; embeddings not used for longest make room.
    """
    from clouds.core.weights.tensor_cache import TensorCache
    from clouds.refiners.prompted import PromptRefiner
    from clouds.refiners.sam import build_sam

    return PromptRefiner(
        build_sam(model, pretrained=pretrained),
        size_threshold=size_threshold,
        points=points,
        selection=selection,
        erosion=erosion,
        refinement=refinement,
        small_components=small_components,
        overlaps=overlaps,
        empty=empty,
        batch_size=batch_size,
        dtype=dtype,
        cache=None if cache is None else TensorCache(cache, max_bytes=cache_bytes),
    )


def identity() -> Refiner:
    """Keeps the teacher's label map."""
    from clouds.refiners.identity import IdentityRefiner

    return IdentityRefiner()
