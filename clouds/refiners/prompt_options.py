"""Options of the refiners that prompt a network with points: the only list of them. Nothing here imports torch."""

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
    """How components of a label map become prompts, and how the answers become targets.

    The numbers are the published ones (CVPR 2024); `small_components`, `overlaps` and `empty` are as published with
    "drop", "any" and "keep".

    Attributes:
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
    """The options that `prompt_preset` adds to a preset: those of `PromptOptions`, and where embeddings are kept.

    Attributes:
        cache: folder for image embeddings, so that the encoder runs once for each.
        cache_bytes: bound on the size of that folder; embeddings not used for longest make room.
    """

    cache: Path | None = None
    cache_bytes: int = 32 * 2**30
