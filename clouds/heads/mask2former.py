"""The Mask2Former heads: pixel decoder, masked transformer decoder, criterion, semantic merge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clouds.core.contract.interfaces import Head, TextClassifier
from clouds.core.contract.records import Features, HeadOutput, Targets
from clouds.heads.criterion import Criterion
from clouds.heads.ensemble import Ensemble
from clouds.heads.masked_decoder import MaskedDecoder
from clouds.heads.pixel_decoder import PixelDecoder
from clouds.heads.points import PointSource
from clouds.heads.text_logits import with_void
from clouds.kernels.semantic_inference import semantic_inference

_STRIDE = 4


@final
class Mask2Former(Head):
    """Mask classification head; parameter names match the published CLOUDS and Mask2Former.

    Args:
        pixel_decoder: computes mask features and the levels that queries attend to.
        predictor: computes mask and class logits of each query.
        criterion: matches predictions with targets and computes the loss.
        void_width: width of the learned "no object" embedding for text classification, else None.
        ensemble: combines class probabilities with the backbone's in evaluation, or None.
        postprocess: which tensor is resized to the output size: merged class scores ("merge_first", as published) or
            mask logits ("masks_first").
    """

    def __init__(
        self,
        *,
        pixel_decoder: PixelDecoder,
        predictor: MaskedDecoder,
        criterion: Criterion,
        void_width: int | None = None,
        ensemble: Ensemble | None = None,
        postprocess: Literal["merge_first", "masks_first"] = "merge_first",
    ) -> None:
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor
        self.criterion = criterion
        self.void_embedding = None if void_width is None else nn.Embedding(1, void_width)
        self.ensemble = ensemble
        self.postprocess: Literal["merge_first", "masks_first"] = postprocess
        self.open_vocabulary = void_width is not None
        self.queries = (predictor.queries, predictor.width)
        self.instances = True
        self.uses_text = self.open_vocabulary or ensemble is not None

    def forward(self, features: Features, classifier: TextClassifier | None = None) -> HeadOutput:
        words = classifier
        if classifier is not None and self.void_embedding is not None:
            words = with_void(classifier, self.void_embedding.weight)
        output = self.predictor(self.pixel_decoder(features), words, features.queries)
        if self.ensemble is None or self.training:
            return output
        return self.ensemble(output, features, classifier)

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
        return self.criterion.counts(targets, queries=self.predictor.queries, layers=self.predictor.layers)

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
