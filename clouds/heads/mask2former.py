"""The Mask2Former heads: pixel decoder, masked transformer decoder, criterion, semantic merge."""

from __future__ import annotations

from typing import final

from torch import nn

from clouds.core.contract.interfaces import TextClassifier
from clouds.core.contract.records import Features, HeadOutput
from clouds.heads.criterion import Criterion
from clouds.heads.ensemble import Ensemble
from clouds.heads.mask_head import MaskHead, Postprocess
from clouds.heads.masked_decoder import MaskedDecoder
from clouds.heads.pixel_decoder import PixelDecoder
from clouds.heads.text_logits import with_void
from clouds.heads.text_queries import TextQueries


@final
class Mask2Former(MaskHead):
    """Mask classification head; parameter names match the published CLOUDS and Mask2Former.

    Args:
        pixel_decoder: computes mask features and the levels that queries attend to.
        predictor: computes mask and class logits of each query.
        criterion: matches predictions with targets and computes the loss.
        void_width: width of the learned "no object" embedding for text classification, else None.
        ensemble: combines class probabilities with the backbone's in evaluation, or None.
        text_queries: makes the initial queries from texts, or None.
        postprocess: see `MaskHead`.
    """

    def __init__(
        self,
        *,
        pixel_decoder: PixelDecoder,
        predictor: MaskedDecoder,
        criterion: Criterion,
        void_width: int | None = None,
        ensemble: Ensemble | None = None,
        text_queries: TextQueries | None = None,
        postprocess: Postprocess = "merge_first",
    ) -> None:
        super().__init__(
            criterion=criterion, predictions=(predictor.queries, predictor.layers), postprocess=postprocess
        )
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor
        self.void_embedding = None if void_width is None else nn.Embedding(1, void_width)
        self.ensemble = ensemble
        self.open_vocabulary = void_width is not None
        self.text_queries = text_queries
        self.queries = (predictor.queries, predictor.width) if text_queries is None else None
        self.instances = text_queries is None  # a query that is bound to a class is all of its instances
        self.uses_text = self.open_vocabulary or ensemble is not None or text_queries is not None

    def forward(self, features: Features, classifier: TextClassifier | None = None) -> HeadOutput:
        words = classifier
        if classifier is not None and self.void_embedding is not None:
            words = with_void(classifier, self.void_embedding.weight)
        queries = features.queries if self.text_queries is None else self.text_queries(classifier)
        output = self.predictor(self.pixel_decoder(features), words, queries)
        if self.ensemble is None or self.training:
            return output
        return self.ensemble(output, features, classifier)
