"""Merges predicted masks to targets: selects the best candidates, resolves overlaps, unites masks by class."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Overlaps = Literal["between_classes", "any", "keep"]


def best_of(masks: Float[Tensor, "n k h w"], quality: Float[Tensor, "n k"]) -> Float[Tensor, "n 1 h w"]:
    """Select the mask with the highest predicted IoU of each prompt; the first if equal."""
    rows = torch.arange(len(masks), device=masks.device)
    return masks[rows, quality.argmax(1)][:, None]


def clear_overlaps(masks: Bool[Tensor, "n h w"]) -> Bool[Tensor, "n h w"]:
    """Remove pixels that more than one mask claims from all masks."""
    return masks & (masks.sum(0, dtype=torch.int32) <= 1)


def unite_classes(
    masks: Bool[Tensor, "n h w"], classes: Int[Tensor, " n"]
) -> tuple[Int[Tensor, " c"], Bool[Tensor, "c h w"]]:
    """The occurring classes in ascending order, and the union of each class's masks."""
    present = cast("Tensor", classes.unique())
    united = [masks[classes == one].any(0) for one in present]
    return present, torch.stack(united) if united else masks


def merge_masks(
    batches: Iterable[tuple[Bool[Tensor, "n h w"], Int[Tensor, " n"]]], *, overlaps: Overlaps
) -> tuple[Int[Tensor, " c"], Bool[Tensor, "c h w"]]:
    """Merge masks to one per class, in ascending order.

    Args:
        batches: masks with their classes, at least one batch. Memory holds one batch and one mask per class.
        overlaps: pixels claimed twice are cleared "between_classes", between "any" two prompts (as published, also of
            one class), or kept in both ("keep").
    """
    # Union per class "h w", and the number of masks that claim each pixel "h w"
    united: dict[int, Tensor] = {}
    claims: Tensor | int = 0
    for masks, labels in batches:
        claims = masks.sum(0, dtype=torch.int32) + claims
        classes, together = unite_classes(masks, labels)
        for label, mask in zip(classes.tolist(), together, strict=True):
            united[label] = united[label] | mask if label in united else mask
    # Classes ascending "c h w", overlaps removed
    found = sorted(united)
    merged = torch.stack([united[label] for label in found]) if found else masks
    if overlaps != "keep":
        merged = merged & (claims <= 1) if overlaps == "any" else clear_overlaps(merged)
    return torch.tensor(found, dtype=labels.dtype, device=labels.device), merged
