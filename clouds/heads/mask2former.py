"""The Mask2Former head: pixel decoder, masked transformer decoder, criterion, semantic merge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from clouds.core.interfaces import Features, Head, HeadOutput, Targets, TextClassifier
from clouds.heads.criterion import Criterion
from clouds.heads.masked_decoder import MaskedDecoder
from clouds.heads.pixel_decoder import LateralPixelDecoder
from clouds.heads.semantic import segment

_STRIDE = 4


@final
class Mask2Former(Head):
    """Mask classification with a linear classifier over classes and "no object".

    Args:
        pixel_decoder: makes mask features and the levels that queries attend to.
        decoder: makes queries, masks and class logits.
        criterion: matches predictions with targets and compares them.
    """

    def __init__(self, *, pixel_decoder: LateralPixelDecoder, decoder: MaskedDecoder, criterion: Criterion) -> None:
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.decoder = decoder
        self.criterion = criterion

    def forward(self, features: Features, classifier: TextClassifier | None = None) -> HeadOutput:
        return self.decoder(self.pixel_decoder(features))

    def loss(
        self,
        output: HeadOutput,
        targets: Sequence[Targets],
        *,
        points: Float[Tensor, "b p 2"] | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        return self.criterion(output, targets, points=points, generator=generator)

    def segment(
        self, output: HeadOutput, valid_size: tuple[int, int], size: tuple[int, int], *, scores: bool = False
    ) -> Tensor:
        probabilities = output.class_logits[0].softmax(-1)[:, :-1]
        return segment(
            output.mask_logits[0],
            lambda logits: torch.einsum("qk,qyx->kyx", probabilities, logits.sigmoid()),
            stride=_STRIDE,
            valid_size=valid_size,
            size=size,
            scores=scores,
        )
