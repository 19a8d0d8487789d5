"""Base class of the CLIP backbones: an open_clip model with a frozen text side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import nn

from clouds.backbones.clip_text import ClipTextEncoder
from clouds.backbones.levels import specs_of
from clouds.backbones.tokenizers import Tokenizer
from clouds.core.contract.interfaces import Backbone, MaskPooler

MEAN = tuple(255 * value for value in OPENAI_DATASET_MEAN)  # the published PIXEL_MEAN and PIXEL_STD
STD = tuple(255 * value for value in OPENAI_DATASET_STD)


class ClipBackbone(ClipTextEncoder, Backbone, MaskPooler):
    """Holds the whole open_clip model in `clip_model`, so that its keys match the published checkpoints.

    The text tower and the pooling modules are never trained, because training them would misalign images and texts.
    `freeze()` freezes the image trunk, too.

    Args:
        clip_model: an open_clip model.
        tokenizer: maps texts to token ids "n l".
        channels: channels of res2..res5.
        pooling: modules of the image tower that pool `Features.dense` into the text space.
        mean, std: per channel, 0..255.
    """

    def __init__(
        self,
        clip_model: nn.Module,
        tokenizer: Tokenizer,
        *,
        channels: Sequence[int],
        pooling: Sequence[nn.Module],
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        super().__init__(features=specs_of(channels), mean=mean, std=std)
        self.clip_model = clip_model
        self.tokenizer = tokenizer
        texts = [child for name, child in clip_model.named_children() if name != "visual"]
        self._never_trained = [*texts, *pooling]
        for name, parameter in clip_model.named_parameters():
            parameter.requires_grad_(name.startswith("visual."))
        for part in self._never_trained:
            part.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for part in self._never_trained:
            part.eval()
        return self
