"""A small backbone with every capability: pyramid, mask pooling, text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, final

from jaxtyping import Float
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from clouds.backbones.levels import sized
from clouds.backbones.timm_pyramid import build_trunk
from clouds.backbones.tokenizers import clip_tokenizer
from clouds.core.interfaces import Backbone, Features, MaskPooler, TextEncoder
from clouds.kernels.mask_pool import mask_pool

# CLIP's published mean and deviation, in 0..255, so that pictures padded for one backbone look alike to all.
MEAN, STD = (122.7709, 116.7460, 104.0937), (68.5005, 66.6322, 70.3232)
CONTEXT, TEXT_WIDTH, TEXT_LAYERS, TEXT_HEADS, EMBEDDING = 32, 32, 2, 2, 128


@final
class TinyBackbone(Backbone, TextEncoder, MaskPooler):
    """ConvNeXt (timm) for images, a causal transformer (open_clip) for texts, one embedding space of 128 dimensions.

    Args:
        dims: channels of res2..res5.
        depths: blocks of the four stages.
    """

    def __init__(self, *, dims: tuple[int, ...], depths: tuple[int, ...]) -> None:
        trunk, specs = build_trunk("convnext_atto", pretrained=False, dims=dims, depths=depths)
        super().__init__(features=specs, mean=MEAN, std=STD)
        self.trunk = trunk
        self.projection = nn.Linear(dims[-1], EMBEDDING)
        self.tokenizer = clip_tokenizer(CONTEXT)
        self.text = TextTransformer(
            context_length=CONTEXT,
            vocab_size=self.tokenizer.vocab_size,
            width=TEXT_WIDTH,
            heads=TEXT_HEADS,
            layers=TEXT_LAYERS,
            output_dim=EMBEDDING,
        )
        # No loss of a segmentation reaches these two, so they are never trained.
        self.text.requires_grad_(False).eval()
        self.projection.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.text.eval()
        return self

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Features:
        res2, res3, res4, res5 = self.trunk(self.normalize(sized(images)))
        return Features(res2=res2, res3=res3, res4=res4, res5=res5, dense=res5)

    def pool(self, dense: Float[Tensor, "b d h w"], masks: Float[Tensor, "b q hm wm"]) -> Float[Tensor, "b q e"]:
        return self.projection(mask_pool(dense, masks))

    def embed_text(self, texts: Sequence[str]) -> Float[Tensor, "n e"]:
        if not texts:
            return self.projection.weight.new_zeros(0, EMBEDDING)
        return self.text(self.tokenizer(list(texts)).to(self.projection.weight.device))

    def text_weights(self) -> dict[str, Tensor]:
        return {f"text.{key}": value for key, value in self.text.state_dict().items()}
