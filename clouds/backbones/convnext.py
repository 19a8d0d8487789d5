"""A small ConvNeXt equal to timm's, which avoids the seconds that `import timm` takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

_CLASSES = 1000


@final
class ConvNeXt(nn.ModuleDict):
    """ConvNeXt (Liu et al., A ConvNet for the 2020s, CVPR 2022) that returns the maps of its four stages.

    For a given seed, names and values of its weights equal those of timm's `convnext_atto(features_only=True)`.

    Args:
        dims: channels of the four stages.
        depths: blocks of the four stages.
    """

    def __init__(self, dims: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        self["stem_0"] = nn.Conv2d(3, dims[0], 4, stride=4)
        self["stem_1"] = _LayerNorm2d(dims[0])
        for number, depth in enumerate(depths):
            self[f"stages_{number}"] = _Stage(dims[number - 1] if number else None, dims[number], depth)
        # timm also initialises a classifier, then drops it; doing the same keeps the random state equal.
        classifier = nn.Linear(dims[-1], _CLASSES)
        for module in (*self.modules(), classifier):
            if isinstance(module, nn.Conv2d | nn.Linear):
                _draw(module)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Maps at strides 4, 8, 16 and 32 of normalised images."""
        x, maps = images, []
        for name, module in self.items():
            x = module(x)
            if name.startswith("stages"):
                maps.append(x)
        return maps


class _Stage(nn.Module):
    """Downsampling, then blocks at one resolution; the first stage (`inputs` is None) follows the stem directly."""

    def __init__(self, inputs: int | None, outputs: int, depth: int) -> None:
        super().__init__()
        self.downsample = nn.Identity()
        if inputs is not None:
            self.downsample = nn.Sequential(_LayerNorm2d(inputs), nn.Conv2d(inputs, outputs, 2, stride=2))
        self.blocks = nn.Sequential(*(_Block(outputs) for _ in range(depth)))

    def forward(self, x: Float[Tensor, "b _ _ _"]) -> Float[Tensor, "b _ _ _"]:
        return self.blocks(self.downsample(x))


class _Block(nn.Module):
    """x + gamma MLP(norm(7x7 depthwise convolution(x)))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = _LayerNorm2d(channels)
        self.mlp = nn.Sequential()
        self.mlp.add_module("fc1", nn.Conv2d(channels, 4 * channels, 1))
        self.mlp.add_module("act", nn.GELU())
        self.mlp.add_module("fc2", nn.Conv2d(4 * channels, channels, 1))
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.mlp(self.norm(self.conv_dw(x))) * self.gamma[:, None, None] + x


class _LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of a map."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        rows = input.permute(0, 2, 3, 1)
        return functional.layer_norm(rows, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


@torch.no_grad()
def _draw(module: nn.Conv2d | nn.Linear) -> None:
    """Normal weights with standard deviation 0.02, drawn by inverse transform and clipped to +-2; zero biases."""
    module.weight.uniform_(-1, 1).erfinv_().mul_(0.02 * math.sqrt(2)).clamp_(-2, 2)
    if module.bias is not None:
        module.bias.zero_()
