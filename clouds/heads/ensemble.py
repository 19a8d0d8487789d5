"""Geometric ensemble of what a head learned and what its CLIP backbone knows (Yu et al., FC-CLIP, NeurIPS 2023, eq. 3;
Kuo et al., F-VLM, ICLR 2023)."""

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
    """How the two are weighed: p = p_head^(1 - a) x p_clip^a, renormalised over the classes.

    Attributes:
        alpha: a for classes that were labelled in training.
        beta: a for the others.
        on_valid_mask: leave out CLIP's opinion where a mask has no pixel at the size of the pooled map.
    """

    alpha: float
    beta: float
    on_valid_mask: bool

    def __call__(self, output: HeadOutput, features: Features, classifier: TextClassifier | None) -> HeadOutput:
        """The same masks with ensembled classes: logarithms of probabilities, "no object" as before.

        In log space, so that a probability that underflows does not make 0 x -inf.

        Raises:
            ConfigError: no classifier, or one without a pooler, or features without a map to pool.
        """
        if classifier is None or classifier.pooler is None or features.dense is None:
            raise ConfigError(
                "geometric_ensemble=True needs a backbone that pools masks and embeds texts "
                "(capabilities mask-pooler and text-encoder), and the pipeline's classifier"
            )
        masks = functional.interpolate(
            output.mask_logits, size=features.dense.shape[-2:], mode="bilinear", align_corners=False
        )
        pooled = classifier.pooler.pool(features.dense, masks).float()
        clip = text_logits(pooled, classifier, classifier.logit_scale).log_softmax(-1)
        logits = output.class_logits.float()
        void = logits.log_softmax(-1)[..., -1:]
        share = torch.where(classifier.seen, self.alpha, self.beta).to(clip)
        if self.on_valid_mask:
            share = share * (masks > 0).flatten(2).any(-1, keepdim=True)
        mixed = (1 - share) * logits[..., :-1].log_softmax(-1) + share * clip
        probabilities = torch.cat((mixed.softmax(-1) * (1 - void.exp()), void.exp()), -1)
        return HeadOutput(class_logits=(probabilities + _EPSILON).log(), mask_logits=output.mask_logits)
