"""Targets of mixed images."""

from __future__ import annotations

import torch
from attrs import evolve
from jaxtyping import UInt8
from torch import Tensor

from clouds.core.contract.records import Targets


def pasted_targets(targets: Targets, pasted: UInt8[Tensor, "h w"]) -> Targets:
    """Targets after ClassMix: the classes of `pasted` (255: nothing) over the former targets.

    A pasted class that the targets also hold becomes one mask. Masks that are covered completely are dropped. The
    weight becomes the mean over pixels of 1 where something was pasted, and the former weight elsewhere.
    """
    # Former masks "n h w", without the covered pixels
    over = Targets.from_label_map(pasted)
    masks = targets.masks & ~over.valid
    # One mask per pasted class "m h w", joined with former masks of the class
    same = targets.labels == over.labels[:, None]
    joined = [mask | masks[former].any(0) for mask, former in zip(over.masks, same, strict=True)]
    # Former masks of other classes that still have pixels
    kept = ~same.any(0) & masks.flatten(1).any(1)
    uncovered = 1 - over.valid.double().mean().item()
    return evolve(
        targets,
        labels=torch.cat([targets.labels[kept], over.labels]),
        masks=torch.cat([masks[kept], *(mask[None] for mask in joined)]),
        valid=targets.valid | over.valid,
        weight=1 - uncovered * (1 - targets.weight),
    )
