"""Multi-scale deformable attention encoder (Zhu et al., Deformable DETR, ICLR 2021, section 4.1)."""

from __future__ import annotations

import math
from typing import cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from clouds.heads.layers import sine_position, tokenwise
from clouds.kernels.deformable_attention import Shapes, deformable_attention


@final
class DeformableAttention(nn.Module):
    """Each query samples a few points per head and level, at offsets predicted from the query.

    Args:
        width: channels.
        heads: attention heads; must divide `width`.
        levels: number of levels.
        points: points per head and level.
    """

    def __init__(self, *, width: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.shape = (heads, levels, points)
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        self._initialize()

    def _initialize(self) -> None:
        """Initially, point p of head h samples at distance p + 1 in direction h / heads of a full turn."""
        # Unit directions per head "m 2", in the maximum norm
        heads, levels, points = self.shape
        angle = torch.arange(heads) * (2 * math.pi / heads)
        direction = torch.stack((angle.cos(), angle.sin()), -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        # Offsets "m l p 2" as the bias; weights start at 0, so that queries play no part yet
        distance = torch.arange(1, points + 1)
        offsets = (direction[:, None, None] * distance[:, None]).expand(-1, levels, -1, -1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
        for layer in (self.attention_weights, self.value_proj, self.output_proj):
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        query: Float[Tensor, "b q c"],
        reference_points: Float[Tensor, "_ q l r"],
        memory: Float[Tensor, "b s c"],
        spatial_shapes: Shapes,
        padding: Tensor | None = None,
    ) -> Float[Tensor, "b q c"]:
        """Attend from queries to the cells of all levels.

        Args:
            query: queries with position encoding added.
            reference_points: (x, y) in 0..1 per level, or boxes (x, y, width, height) whose size scales the offsets.
            memory: cells of all levels, concatenated.
            spatial_shapes: (height, width) per level.
            padding: bool "b s"; cells where it is True read as 0.
        """
        # Values "b s c", padding zeroed
        heads, levels, points = self.shape
        value = self.value_proj(memory)
        if padding is not None:
            value = value.masked_fill(padding[..., None], 0)
        # Offsets "b q m l p 2" and attention logits "b q m l p", predicted from the query
        offsets = self.sampling_offsets(query).unflatten(-1, (heads, levels, points, 2))
        logits = self.attention_weights(query).unflatten(-1, (heads, levels, points))
        # Weighted sum of the sampled values per head, heads concatenated: "b q c"
        value = value.unflatten(-1, (heads, -1))
        return self.output_proj(deformable_attention(value, spatial_shapes, reference_points, offsets, logits))


@final
class EncoderLayer(nn.Module):
    """Deformable self-attention, then feed-forward, each followed by residual addition and layer norm."""

    def __init__(self, *, width: int, heads: int, levels: int, points: int, feedforward: int) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(width=width, heads=heads, levels=levels, points=points)
        self.norm1 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, feedforward)
        self.linear2 = nn.Linear(feedforward, width)
        self.norm2 = nn.LayerNorm(width)
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)

    def forward(
        self, x: Float[Tensor, "b s c"], position: Tensor, reference_points: Tensor, spatial_shapes: Shapes
    ) -> Float[Tensor, "b s c"]:
        x = self.norm1(x + self.self_attn(x + position, reference_points, x, spatial_shapes))
        return tokenwise(self._feed_forward, x)

    def _feed_forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        return self.norm2(x + self.linear2(functional.relu(self.linear1(x), inplace=True)))


@final
class DeformableEncoder(nn.Module):
    """Encoder layers over all cells of all levels; parameter names match the published module.

    Args:
        width: channels.
        heads: attention heads.
        levels: number of levels.
        points: points per head and level.
        layers: number of layers.
        feedforward: hidden width of the feed-forward blocks.
    """

    def __init__(self, *, width: int, heads: int, levels: int, points: int, layers: int, feedforward: int) -> None:
        super().__init__()
        self.level_embed = nn.Parameter(torch.empty(levels, width))
        stack = (
            EncoderLayer(width=width, heads=heads, levels=levels, points=points, feedforward=feedforward)
            for _ in range(layers)
        )
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(stack)})
        nn.init.normal_(self.level_embed)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Encode maps "b c h w", one per level, to maps of the same shapes."""
        # All cells of all levels as one sequence "b s c"
        spatial_shapes = [(level.shape[2], level.shape[3]) for level in levels]
        x = torch.cat([level.flatten(2) for level in levels], dim=2).transpose(1, 2)
        # Sine encoding plus level embedding "s c"
        position = torch.cat(
            [
                sine_position(height, width, x.shape[-1], x.device).flatten(1).T + self.level_embed[index]
                for index, (height, width) in enumerate(spatial_shapes)
            ]
        )
        # Reference points: each cell's own centre "1 s l 2"
        points = reference_points(spatial_shapes, x.device)
        for layer in cast("nn.ModuleList", self.encoder["layers"]):
            x = layer(x, position, points, spatial_shapes)
        # Back to one map "b c h w" per level
        parts = x.transpose(1, 2).split([height * width for height, width in spatial_shapes], dim=2)
        return [part.unflatten(2, shape) for part, shape in zip(parts, spatial_shapes, strict=True)]


def reference_points(spatial_shapes: Shapes, device: torch.device) -> Float[Tensor, "1 s l 2"]:
    """(x, y) in 0..1 of each cell's centre, repeated for the l levels."""
    centers = []
    for height, width in spatial_shapes:
        y, x = ((torch.arange(length, device=device) + 0.5) / length for length in (height, width))
        centers.append(torch.stack((x.expand(height, -1), y[:, None].expand(-1, width)), -1).flatten(0, 1))
    return torch.cat(centers)[None, :, None].expand(-1, -1, len(spatial_shapes), -1)
