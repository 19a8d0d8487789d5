"""Small layers that several heads use."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from clouds.kernels.masked_attention import masked_attention

_TOKENS = 1024  # per chunk: 4 MB in float32 with 1,024 hidden channels


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of "b c h w" at each pixel, so that padding does not affect other pixels."""

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


def tokenwise(function: Callable[[Tensor], Tensor], x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
    """Apply a per-token function; on CPU in chunks, so that intermediates stay in cache."""
    if x.device.type != "cpu" or torch.compiler.is_exporting() or x.shape[1] <= _TOKENS:
        return function(x)
    return torch.cat([function(part) for part in x.split(_TOKENS, dim=1)], dim=1)


class Attention(nn.Module):
    """Multi-head attention with a joint projection of queries, keys and values, and an optional mask.

    Args:
        width: channels.
        heads: attention heads; must divide `width`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Float[Tensor, "b q c"],
        key: Float[Tensor, "b n c"],
        value: Float[Tensor, "b n c"],
        mask: tuple[Float[Tensor, "b q cm"], Float[Tensor, "b cm n"]] | None = None,
    ) -> Float[Tensor, "b q c"]:
        """Attend to all keys, or within each query's mask, whose logits are the product of the two parts of `mask`."""
        # Project and split heads: "b m q d" and "b m n d"
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            functional.linear(x, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        if mask is None:
            attended = functional.scaled_dot_product_attention(q, k, v)
        else:
            attended = masked_attention(q, k, v, *mask)
        # Concatenate heads: "b q c"
        return self.out_proj(attended.transpose(1, 2).flatten(-2))


class PointwiseConv(nn.Conv2d):
    """1x1 convolution whose bias is initialised to 0.

    Args:
        inputs, outputs: channels.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)
        nn.init.kaiming_uniform_(self.weight, a=1)
        nn.init.constant_(cast("Tensor", self.bias), 0)


class NormConv(nn.Conv2d):
    """Convolution without bias, then group norm, then optionally ReLU.

    Args:
        inputs, outputs: channels.
        kernel: kernel size; padding keeps the map's size.
        relu: whether a ReLU follows.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, *, relu: bool) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.GroupNorm(32, outputs)
        self.relu = relu
        nn.init.kaiming_uniform_(self.weight, a=1)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x = self.norm(super().forward(x))
        return functional.relu(x, inplace=True) if self.relu else x


def sine_position(height: int, width: int, channels: int, device: torch.device) -> Float[Tensor, "c h w"]:
    """Sine encoding of normalised pixel positions; y fills the first half of the channels, x the second.

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
