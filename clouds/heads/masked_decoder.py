"""Transformer decoder with masked attention (Cheng et al., Mask2Former, CVPR 2022, section 3.2)."""

from __future__ import annotations

import math
from typing import final

import torch
from attrs import evolve
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from clouds.core.contract.interfaces import TextClassifier
from clouds.core.contract.records import HeadOutput
from clouds.core.system.errors import ConfigError
from clouds.heads.layers import Attention, Mlp, PointwiseConv, sine_position
from clouds.heads.mask_products import mask_products
from clouds.heads.pixel_decoder import PixelFeatures
from clouds.heads.text_logits import text_logits
from clouds.kernels.mask_pool import mask_pool

_LEVELS = 3


class _CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.multihead_attn = Attention(width, heads)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, x: Tensor, query_position: Tensor, memory: Tensor, placed: Tensor, mask: tuple[Tensor, Tensor]
    ) -> Tensor:
        return self.norm(x + self.multihead_attn(x + query_position, placed, memory, mask))


class _SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, query_position: Tensor) -> Tensor:
        return self.norm(x + self.self_attn(x + query_position, x + query_position, x))


class _FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.linear2(functional.relu(self.linear1(x))))


@final
class MaskedDecoder(nn.Module):
    """Queries attend to the levels in turn, each within its previous mask, and predict masks and classes.

    One module covers the three published decoders, with the parameter names of the published modules:

    - linear classification (`class_embed` is linear, `pooled` False);
    - mask features pooled under each query's mask are added to the query first (`pooled` True);
    - the result is compared with text embeddings (`class_embed` maps to their width, `text` True).

    Args:
        class_embed: maps queries to class logits or to text embeddings.
        queries, width, layers, heads, feedforward: sizes.
        pooled: add pooled mask features to the queries before classification.
        text: classify against text embeddings, with a learned temperature.
        project_inputs: apply a 1x1 convolution to each level.
        own_queries: whether it has initial queries of its own; otherwise `forward` needs them.
    """

    def __init__(
        self,
        *,
        class_embed: nn.Module,
        queries: int,
        width: int,
        layers: int,
        heads: int,
        feedforward: int,
        pooled: bool = False,
        text: bool = False,
        project_inputs: bool = False,
        own_queries: bool = True,
    ) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07))) if text else None
        self.transformer_self_attention_layers = nn.ModuleList(_SelfAttention(width, heads) for _ in range(layers))
        self.transformer_cross_attention_layers = nn.ModuleList(_CrossAttention(width, heads) for _ in range(layers))
        self.transformer_ffn_layers = nn.ModuleList(_FeedForward(width, feedforward) for _ in range(layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.queries, self.width, self.layers = queries, width, layers
        self.query_feat = nn.Embedding(queries, width) if own_queries else None
        self.query_embed = nn.Embedding(queries, width) if own_queries else None
        self.level_embed = nn.Embedding(_LEVELS, width)
        self.input_proj = nn.ModuleList(
            PointwiseConv(width, width) if project_inputs else nn.Identity() for _ in range(_LEVELS)
        )
        self.class_embed = class_embed
        self.mask_embed = Mlp(width, width, width, width)
        self._mask_pooling_proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width)) if pooled else None

    def forward(
        self,
        pixels: PixelFeatures,
        classifier: TextClassifier | None = None,
        queries: Float[Tensor, "2 q c"] | None = None,
    ) -> HeadOutput:
        """Predictions of the last layer; in training also of all earlier layers, starting at the initial queries.

        Attention masks are computed from mask features resized once to each level. Resizing is linear, so this equals
        resizing the masks; in evaluation, earlier layers therefore need no full-size masks.

        Args:
            pixels: output of the pixel decoder.
            classifier: class embeddings, for classification by text.
            queries: initial queries and position embeddings in place of the decoder's own.
        """
        # Initial queries and their position embeddings "b q c"
        batch = pixels.mask_features.shape[0]
        x, query_position = (one.expand(batch, -1, -1) for one in (self._own_queries() if queries is None else queries))
        # Keys and values "b n c", and mask features "b c n" for attention masks, per level
        memories = self._memories(pixels)
        mask_features = pixels.mask_features.detach()
        small = [_resize(mask_features, level.shape[-2:]).flatten(2) for level in pixels.levels]
        layers = zip(
            self.transformer_cross_attention_layers,
            self.transformer_self_attention_layers,
            self.transformer_ffn_layers,
            strict=True,
        )
        # Decoder layers: masked cross-attention, self-attention, feed-forward; states "b q c"
        states, mask_embeds = [self.decoder_norm(x)], [self.mask_embed(self.decoder_norm(x))]
        for index, (cross, mutual, feedforward) in enumerate(layers):
            level = index % _LEVELS
            x = cross(x, query_position, *memories[level], (mask_embeds[-1], small[level]))
            x = feedforward(mutual(x, query_position))
            states.append(self.decoder_norm(x))
            mask_embeds.append(self.mask_embed(states[-1]))
        # Mask logits "b q h w" and class logits "b q k" of the predicted layers
        predicted = slice(0 if self.training else -1, None)
        masks = mask_products(pixels.mask_features, mask_embeds[predicted])
        predictions = [
            HeadOutput(class_logits=self._classify(x, pixels.mask_features, mask, classifier), mask_logits=mask)
            for x, mask in zip(states[predicted], masks, strict=True)
        ]
        return evolve(predictions[-1], auxiliary=tuple(predictions[:-1]))

    def _own_queries(self) -> tuple[Tensor, Tensor]:
        if self.query_feat is None or self.query_embed is None:
            raise ConfigError("this decoder has no queries of its own; pass queries=")
        return self.query_feat.weight, self.query_embed.weight

    def _memories(self, pixels: PixelFeatures) -> list[tuple[Tensor, Tensor]]:
        """Per level: values (cells "b n c" plus level embedding), and keys (values plus position encoding)."""
        memories: list[tuple[Tensor, Tensor]] = []
        for index, (level, project) in enumerate(zip(pixels.levels, self.input_proj, strict=True)):
            cells = project(level).flatten(2).transpose(1, 2) + self.level_embed.weight[index]
            height, width = level.shape[-2:]
            position = sine_position(height, width, cells.shape[-1], cells.device).flatten(1).T
            memories.append((cells, cells + position))
        return memories

    def _classify(
        self,
        x: Float[Tensor, "b q c"],
        mask_features: Float[Tensor, "b c h w"],
        mask_logits: Float[Tensor, "b q h w"],
        classifier: TextClassifier | None,
    ) -> Float[Tensor, "b q k"]:
        # Add mask features pooled under each mask "b q c"
        if self._mask_pooling_proj is not None:
            x = x + self._mask_pooling_proj(mask_pool(mask_features, mask_logits))
        # Class logits "b q k", directly or as similarity with text embeddings
        classes = self.class_embed(x)
        if self.logit_scale is not None:
            if classifier is None:
                raise ConfigError(
                    "this head classifies by text, but forward got classifier=None; pass the pipeline's classifier"
                )
            classes = text_logits(classes, classifier, self.logit_scale.exp().clamp(max=100))
        return classes


def _resize(features: Float[Tensor, "b c h w"], size: torch.Size) -> Tensor:
    """Bilinear resize in two passes: in one, torch converts the whole input to channels last for a small output."""
    rows = functional.interpolate(features, size=(size[0], features.shape[3]), mode="bilinear", align_corners=False)
    return functional.interpolate(rows, size=size, mode="bilinear", align_corners=False)
