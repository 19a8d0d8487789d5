"""One query per class, made from the text embeddings of its names."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from clouds.core.contract.interfaces import TextClassifier
from clouds.core.system.errors import ConfigError
from clouds.heads.layers import Mlp


@final
class TextQueries(nn.Module):
    """Textual object queries (Pak et al., Textual Query-Driven Mask Transformer, ECCV 2024, section 4.1).

    The content of a query is an MLP of the mean text embedding of its class; its position is learned.

    Args:
        text_width: channels of the text embeddings.
        width: channels c of the queries.
        classes: number of classes k.
    """

    def __init__(self, text_width: int, width: int, classes: int) -> None:
        super().__init__()
        self.content = Mlp(text_width, width, width)
        self.position = nn.Embedding(classes, width)

    def forward(self, classifier: TextClassifier | None) -> Float[Tensor, "2 k c"]:
        """Initial content and position of the queries, in the order of the classes.

        Raises:
            ConfigError: there is no classifier, or it has another number of classes.
        """
        classes = self.position.num_embeddings
        if classifier is None or len(classifier.seen) != classes:
            got = "classifier=None" if classifier is None else f"{len(classifier.seen)} classes"
            raise ConfigError(
                f"text-queries has one query for each of {classes} classes, but forward got {got}; pass the classifier "
                "of the pipeline that the head was built for"
            )
        # Mean of each class's words "k d", a unit vector like the words
        words = classifier.embeddings
        means = words.new_zeros(classes, words.shape[1]).index_add(0, classifier.class_of, words)
        content = self.content(functional.normalize(means, dim=-1).to(self.position.weight.dtype))
        return torch.stack([content, self.position.weight])
