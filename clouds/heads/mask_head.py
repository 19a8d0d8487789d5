"""What heads with mask classification share: Mask2Former's loss, and its merge into a semantic segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from clouds.core.contract.interfaces import Head
from clouds.core.contract.records import HeadOutput, Targets
from clouds.heads.criterion import Criterion
from clouds.heads.points import PointSource
from clouds.kernels.semantic_inference import reference, semantic_inference

_STRIDE = 4
Postprocess = Literal["merge_first", "masks_first"]


class MaskHead(Head):
    """Base class of heads that predict masks with one class each.

    Args:
        criterion: matches predictions with targets and computes the loss.
        predictions: number of queries, and of earlier layers with a loss of their own.
        postprocess: which tensor is resized to the output size: merged class scores ("merge_first", as published) or
            mask logits ("masks_first").
    """

    def __init__(self, *, criterion: Criterion, predictions: tuple[int, int], postprocess: Postprocess) -> None:
        super().__init__()
        self.criterion = criterion
        self.predictions = predictions
        self.postprocess: Postprocess = postprocess

    def loss(
        self,
        output: HeadOutput,
        targets: Sequence[Targets],
        *,
        points: Float[Tensor, "b p 2"] | PointSource | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        return self.criterion(output, targets, points=points, rng=generator)

    def loss_counts(self, targets: Sequence[Targets]) -> dict[str, float]:
        queries, layers = self.predictions
        return self.criterion.counts(targets, queries=queries, layers=layers)

    def segment(
        self, output: HeadOutput, valid_size: tuple[int, int], size: tuple[int, int], *, scores: bool = False
    ) -> Tensor:
        height, width = output.mask_logits.shape[-2:]
        return semantic_inference(
            output.class_logits[0].float().softmax(-1)[:, :-1],
            output.mask_logits[0],
            (height * _STRIDE, width * _STRIDE),
            valid_size,
            size,
            self.postprocess,
            scores=scores,
        )

    def segment_all(
        self, output: HeadOutput, valid_size: tuple[int, int], size: tuple[int, int], *, scores: bool = False
    ) -> Tensor:
        height, width = output.mask_logits.shape[-2:]
        return reference(
            output.class_logits.float().softmax(-1)[..., :-1],
            output.mask_logits.float(),
            (height * _STRIDE, width * _STRIDE),
            valid_size,
            size,
            self.postprocess,
            scores=scores,
        )
