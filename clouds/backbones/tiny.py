"""A small backbone with every capability: pyramid, mask pooling, text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, final

from jaxtyping import Float
from torch import Tensor, nn

from clouds.backbones.blocks import convnext_blocks
from clouds.backbones.convnext import ConvNeXt
from clouds.backbones.levels import sized, specs_of
from clouds.backbones.text_transformer import TextTransformer
from clouds.core.contract.adaptation import Block, Blocks
from clouds.core.contract.interfaces import Backbone, MaskPooler, TextEncoder
from clouds.core.contract.records import Features
from clouds.kernels.mask_pool import mask_pool

# CLIP's published mean and standard deviation, 0..255, so that images padded for CLIP suit this backbone, too.
MEAN, STD = (122.7709, 116.7460, 104.0937), (68.5005, 66.6322, 70.3232)
CONTEXT, VOCABULARY = 32, 49408  # the vocabulary of CLIP's tokenizer
TEXT_WIDTH, TEXT_LAYERS, TEXT_HEADS, EMBEDDING = 32, 2, 2, 128


@final
class TinyBackbone(Backbone, TextEncoder, MaskPooler, Blocks):
    """ConvNeXt for images, causal transformer for texts, shared embedding space of 128 dimensions.

    Args:
        dims: channels of res2..res5.
        depths: blocks of the four stages.
    """

    def __init__(self, *, dims: tuple[int, ...], depths: tuple[int, ...]) -> None:
        super().__init__(features=specs_of(dims), mean=MEAN, std=STD)
        self.trunk = ConvNeXt(dims, depths)
        self.projection = nn.Linear(dims[-1], EMBEDDING)
        self.text = TextTransformer(
            context=CONTEXT,
            vocabulary=VOCABULARY,
            width=TEXT_WIDTH,
            heads=TEXT_HEADS,
            layers=TEXT_LAYERS,
            outputs=EMBEDDING,
        )
        # Segmentation losses give these no gradient, so they stay frozen.
        self.text.requires_grad_(False).eval()
        self.projection.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.text.eval()
        return self

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Features:
        res2, res3, res4, res5 = self.trunk(self.normalize(sized(images)))
        return Features(res2=res2, res3=res3, res4=res4, res5=res5, dense=res5)

    @property
    def blocks(self) -> tuple[Block, ...]:
        return convnext_blocks(stage for name, stage in self.trunk.items() if name.startswith("stages"))

    def pool(self, dense: Float[Tensor, "b d h w"], masks: Float[Tensor, "b q hm wm"]) -> Float[Tensor, "b q e"]:
        return self.projection(mask_pool(dense, masks))

    def embed_text(self, texts: Sequence[str]) -> Float[Tensor, "n e"]:
        if not texts:
            return self.projection.weight.new_zeros(0, EMBEDDING)
        from clouds.backbones.tokenizers import clip_tokenizer  # imports open_clip, which takes seconds

        return self.text(clip_tokenizer(CONTEXT)(list(texts)).to(self.projection.weight.device))

    def text_weights(self) -> dict[str, Tensor]:
        return {f"text.{key}": value for key, value in self.text.state_dict().items()}
