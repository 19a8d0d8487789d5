"""Classification by similarity with text embeddings."""

from __future__ import annotations

import torch
from attrs import evolve
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from clouds.core.contract.interfaces import TextClassifier


def text_logits(
    x: Float[Tensor, "*b d"], classifier: TextClassifier, scale: Float[Tensor, ""] | float
) -> Float[Tensor, "*b k"]:
    """Similarity with the best word of each class, times `scale`; `x` is normalised here, the words are not.

    Args:
        x: embeddings to classify.
        classifier: word embeddings of k classes.
        scale: inverse temperature.
    """
    # Similarity with every word "*b n", then the maximum over each class's words "*b k"
    similarity = scale * functional.normalize(x, dim=-1) @ classifier.embeddings.to(x.dtype).T
    best = similarity.new_full((*x.shape[:-1], len(classifier.seen)), -torch.inf)
    return best.scatter_reduce(-1, classifier.class_of.expand_as(similarity), similarity, "amax")


def with_void(classifier: TextClassifier, void: Float[Tensor, "1 d"]) -> TextClassifier:
    """Append "no object" as last class, with a learned embedding instead of words."""
    count = len(classifier.seen)
    return evolve(
        classifier,
        embeddings=torch.cat((classifier.embeddings, functional.normalize(void, dim=-1))),
        class_of=functional.pad(classifier.class_of, (0, 1), value=count),
        seen=functional.pad(classifier.seen, (0, 1), value=True),
    )
