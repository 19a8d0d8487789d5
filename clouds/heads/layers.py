"""Small layers that several heads use."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of "b c h w", pixel by pixel, so that padding changes nothing elsewhere."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Mlp(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        widths: input, hidden and output widths.
    """

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(widths))

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        for layer in self.layers[:-1]:
            x = functional.relu(layer(x))
        return self.layers[-1](x)


class Attention(nn.Module):
    """Multi-head attention, with an optional boolean mask (True: may attend).

    Args:
        width: channels.
        heads: attention heads; they divide `width`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        for linear in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(linear.weight)

    def forward(
        self,
        query: Float[Tensor, "b q c"],
        key: Float[Tensor, "b n c"],
        value: Float[Tensor, "b n c"],
        mask: Tensor | None = None,
    ) -> Float[Tensor, "b q c"]:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, query), (self.key, key), (self.value, value))
        )
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(attended.transpose(1, 2).flatten(-2))


def sine_position(height: int, width: int, channels: int, device: torch.device) -> Float[Tensor, "c h w"]:
    """Sine position encoding of normalised pixel positions; first half of the channels y, second half x.

    Carion et al., DETR, ECCV 2020, with temperature 10000 and scale 2 pi.
    """
    quarter = channels // 4
    frequency = 10000 ** (torch.arange(quarter, device=device) / quarter)

    def encode(length: int) -> Tensor:
        position = torch.arange(1, length + 1, device=device) / (length + 1e-6) * 2 * math.pi
        angle = position[:, None] / frequency
        return torch.stack((angle.sin(), angle.cos()), -1).flatten(1)

    y, x = encode(height), encode(width)
    grid = torch.cat((y[:, None].expand(-1, width, -1), x[None].expand(height, -1, -1)), -1)
    return grid.permute(2, 0, 1)
