"""Geometric ensemble of head and CLIP class probabilities (Yu et al., FC-CLIP, NeurIPS 2023, eq. 3; Kuo et al., F-VLM,
ICLR 2023)."""

from __future__ import annotations

import torch
from attrs import frozen
from torch.nn import functional

from clouds.core.contract.interfaces import TextClassifier
from clouds.core.contract.records import Features, HeadOutput
from clouds.core.system.errors import ConfigError
from clouds.heads.text_logits import text_logits

_EPSILON = 1e-8  # added to probabilities before the logarithm, as published


@frozen(kw_only=True)
class Ensemble:
    """p = p_head^(1 - a) x p_clip^a, renormalised over the classes.

    Attributes:
        alpha: a for classes labelled in training.
        beta: a for the other classes.
        on_valid_mask: ignore CLIP for masks without a pixel at the resolution of the pooled map.
    """

    alpha: float
    beta: float
    on_valid_mask: bool

    def __call__(self, output: HeadOutput, features: Features, classifier: TextClassifier | None) -> HeadOutput:
        """Replace class logits by logarithms of ensembled probabilities; masks and P("no object") stay the same.

        The ensemble is computed in log space, so that an underflowing probability does not give 0 x -inf.

        Raises:
            ConfigError: the classifier or its pooler is missing, or the features have no `dense` map.
        """
        if classifier is None or classifier.pooler is None or features.dense is None:
            raise ConfigError(
                "geometric_ensemble=True needs a backbone that pools masks and embeds texts "
                "(capabilities mask-pooler and text-encoder), and the pipeline's classifier"
            )
        # CLIP's log probabilities from mask-pooled features "b q k"
        masks = functional.interpolate(
            output.mask_logits, size=features.dense.shape[-2:], mode="bilinear", align_corners=False
        )
        pooled = classifier.pooler.pool(features.dense, masks).float()
        clip = text_logits(pooled, classifier, classifier.logit_scale).log_softmax(-1)
        # The head's log probability of "no object" "b q 1"
        logits = output.class_logits.float()
        void = logits.log_softmax(-1)[..., -1:]
        # CLIP's exponent a per class "k", or per query and class "b q k"
        share = torch.where(classifier.seen, self.alpha, self.beta).to(clip)
        if self.on_valid_mask:
            share = share * (masks > 0).flatten(2).any(-1, keepdim=True)
        # Weighted log probabilities "b q k", renormalised and joined with "no object": "b q k1"
        mixed = (1 - share) * logits[..., :-1].log_softmax(-1) + share * clip
        probabilities = torch.cat((mixed.softmax(-1) * (1 - void.exp()), void.exp()), -1)
        return HeadOutput(class_logits=(probabilities + _EPSILON).log(), mask_logits=output.mask_logits)
