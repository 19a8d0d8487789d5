"""Adds a text tower to backbones without one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from clouds.backbones.clip_text import ClipText
from clouds.core.contract.adaptation import Block, Blocks
from clouds.core.contract.interfaces import Backbone, TextEncoder
from clouds.core.contract.records import Features


@final
class WithText(Backbone, TextEncoder, Blocks):
    """Image features of one backbone, text embeddings of another model.

    The two embedding spaces are unrelated, so there is no mask pooling; heads learn the mapping between them.

    Args:
        images: computes the features.
        texts: embeds the texts; always frozen.
    """

    def __init__(self, images: Backbone, texts: ClipText) -> None:
        super().__init__(features=images.features, mean=(0, 0, 0), std=(1, 1, 1))
        self.images = images
        self.texts = texts
        self.mean, self.std = images.mean, images.std

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Features:
        return self.images(images)

    @property
    def blocks(self) -> tuple[Block, ...]:
        return self.images.blocks if isinstance(self.images, Blocks) else ()

    @property
    def norm(self) -> nn.Module | None:
        return self.images.norm if isinstance(self.images, Blocks) else None

    def embed_text(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        return self.texts.embed_text(texts)

    @property
    def logit_scale(self) -> float:
        return self.texts.logit_scale

    def text_weights(self) -> dict[str, Tensor]:
        return self.texts.text_weights()
