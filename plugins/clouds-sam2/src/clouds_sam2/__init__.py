"""SAM 2 as a refiner: `sam2`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from clouds import Component, hookimpl


@hookimpl
def clouds_refiners() -> list[Component]:
    return [
        Component(
            name="sam2",
            kind="refiner",
            factory="clouds_sam2:sam2",
            summary="SAM 2 answers point prompts drawn from the label map's components",
            source=(
                "Ravi et al., SAM 2: Segment Anything in Images and Videos, ICLR 2025; "
                "Benigmim et al., CLOUDS, CVPR 2024"
            ),
            licence="Apache-2.0",
        )
    ]


def sam2(
    *,
    model: str = "facebook/sam2.1-hiera-large",
    pretrained: bool = True,
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
):
    """SAM 2 answers point prompts drawn from the components of the label map, as `clouds.PromptRefiner` says.

    Args:
        model: a repository of the Hugging Face hub in transformers' format, or a local folder of one.
        pretrained: load its weights; False reads nothing: random weights of the smallest published size.
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
        cache: folder for image embeddings (8 MiB for each image), so that the encoder runs once for each.
        cache_bytes: bound on the size of that folder; embeddings not used for longest make room.
    """
    from clouds import PromptRefiner, TensorCache  # torch is imported when something is built, not before

    from clouds_sam2.segmenter import build_segmenter

    return PromptRefiner(
        build_segmenter(model, pretrained=pretrained),
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
