"""A small text tower equal to open_clip's, which avoids the seconds that `import open_clip` takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@final
class TextTransformer(nn.Module):
    """CLIP's causal transformer over tokens (Radford et al., ICML 2021); the end token's state is the embedding.

    For a given seed, names and values of its weights equal those of `open_clip.transformer.TextTransformer`.

    Args:
        context: tokens per text.
        vocabulary: number of token ids; the largest id of a text marks its end.
        width: channels per token.
        heads: attention heads per layer.
        layers: number of layers.
        outputs: dimensions of an embedding.
    """

    def __init__(self, *, context: int, vocabulary: int, width: int, heads: int, layers: int, outputs: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.empty(context, width))
        blocks = [_Block(width, heads) for _ in range(layers)]
        self.transformer = nn.ModuleDict({"resblocks": nn.Sequential(*blocks)})
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, outputs))
        self._draw(blocks, width)

    def forward(self, tokens: Int[Tensor, "n {self.positional_embedding.shape[0]}"]) -> Float[Tensor, "n e"]:
        """Un-normalised text embeddings."""
        x = self.token_embedding(tokens) + self.positional_embedding
        x = self.ln_final(self.transformer["resblocks"](x))
        ends = x[torch.arange(len(x), device=x.device), tokens.argmax(-1)]
        return ends @ self.text_projection

    def _draw(self, blocks: Sequence[_Block], width: int) -> None:
        """Initialise weights as published, in open_clip's order."""
        projected = width**-0.5 * (2 * len(blocks)) ** -0.5  # standard deviation of residual branch outputs
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        for block in blocks:
            nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=projected)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=projected)
        nn.init.normal_(self.text_projection, std=width**-0.5)


class _Block(nn.Module):
    """Causal self-attention and an MLP, both with pre-norm and residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp: Any = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        # Causal mask "t t": 0 up to each token, -inf after it
        later = x.new_full((x.shape[1], x.shape[1]), -torch.inf).triu(1)
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=later)[0]
        return x + self.mlp(self.ln_2(x))
