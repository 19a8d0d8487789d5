"""Texts for backbones that have no text tower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from jaxtyping import Float
from torch import Tensor

from clouds.backbones.clip_text import ClipText
from clouds.core.contract.interfaces import Backbone, TextEncoder
from clouds.core.contract.records import Features


@final
class WithText(Backbone, TextEncoder):
    """Features of one backbone, texts of another model.

    Both spaces have nothing to do with each other, so nothing can be pooled for texts: heads learn the way between.

    Args:
        images: makes the features.
        texts: embeds the texts; stays frozen.
    """

    def __init__(self, images: Backbone, texts: ClipText) -> None:
        super().__init__(features=images.features, mean=(0, 0, 0), std=(1, 1, 1))
        self.images = images
        self.texts = texts
        self.mean, self.std = images.mean, images.std

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Features:
        return self.images(images)

    def embed_text(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        return self.texts.embed_text(texts)

    @property
    def logit_scale(self) -> float:
        return self.texts.logit_scale

    def text_weights(self) -> dict[str, Tensor]:
        return self.texts.text_weights()
