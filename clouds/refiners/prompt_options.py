"""The single list of options of point-prompted refiners. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from attrs import Attribute, field, frozen

from clouds.core.system.errors import ConfigError


def _at_least(bound: int) -> Callable[[object, Attribute[int], int], None]:
    def check(_: object, option: Attribute[int], value: int) -> None:
        if value < bound:
            raise ConfigError(f"refiner option {option.name}={value}; expected at least {bound}")

    return check


@frozen(kw_only=True)
class PromptOptions:
    """How components of a label map become prompts, and predicted masks become targets.

    The defaults are the published ones (CVPR 2024), except `small_components`, `overlaps` and `empty`, whose published
    values are "drop", "any" and "keep".

    Attributes:
        size_threshold: components with more pixels than this become prompts.
        points: points per prompt.
        selection: where points are drawn: "random": anywhere in the component; "center": near its centroid;
            "largest_component": in the largest part after erosion.
        erosion: side in pixels of the square that erodes components before points are drawn; 0 disables it.
        refinement: segment each prompt a second time, with the first mask as part of the prompt.
        small_components: components that are not prompts "keep" their labels or "drop" out.
        overlaps: pixels claimed twice are cleared "between_classes", between "any" two prompts, or kept in both
            ("keep").
        empty: "drop" classes without remaining pixels, or "keep" them with an empty mask.
        batch_size: prompts per forward pass.
        dtype: autocast type of the network; None is float32.

    Raises:
        ConfigError: a number is out of range.
    """

    size_threshold: int = field(default=5000, validator=_at_least(0))
    points: int = field(default=5, validator=_at_least(1))
    selection: Literal["random", "center", "largest_component"] = "random"
    erosion: int = field(default=0, validator=_at_least(0))
    refinement: bool = False
    small_components: Literal["keep", "drop"] = "keep"
    overlaps: Literal["between_classes", "any", "keep"] = "between_classes"
    empty: Literal["drop", "keep"] = "drop"
    batch_size: int = field(default=8, validator=_at_least(1))
    dtype: Literal["bfloat16", "float16"] | None = None


@frozen(kw_only=True)
class PresetOptions(PromptOptions):
    """Options that `prompt_preset` adds to a preset: those of `PromptOptions`, and the cache of embeddings.

    Attributes:
        cache: folder for image embeddings, so that the encoder runs once per image.
        cache_bytes: maximum size of that folder; least recently used embeddings are evicted first.
    """

    cache: Path | None = None
    cache_bytes: int = 32 * 2**30
