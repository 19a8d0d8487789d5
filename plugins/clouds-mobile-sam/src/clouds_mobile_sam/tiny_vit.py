"""TinyViT-5M (Wu et al., "TinyViT", ECCV 2022) as the image encoder of SAM.

Modified as in Zhang et al., "Faster Segment Anything: Towards Lightweight SAM for Mobile Applications" (2023): the last
stage keeps the third's stride 16, and SAM's neck replaces the classifier. For inference only, so there is no stochastic
depth. Module names match the published weights.
"""

from __future__ import annotations

import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (64, 128, 160, 320)
DEPTHS = (2, 2, 6, 2)
HEAD_WIDTH = 32
WINDOWS = (None, 7, 14, 7)  # the first stage is convolutional
STRIDES = (2, 2, 1)  # of the reductions between stages; the last one is 2 in TinyViT, 1 in MobileSAM


class ConvNorm(nn.Sequential):
    """A size-preserving convolution (at stride 1) with batch normalisation."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.add_module("c", nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False))
        self.add_module("bn", nn.BatchNorm2d(outputs))


class PatchEmbed(nn.Module):
    """Two convolutions of stride 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first, second = ConvNorm(3, width // 2, 3, stride=2), ConvNorm(width // 2, width, 3, stride=2)
        self.seq = nn.Sequential(first, nn.GELU(), second)

    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x)


class MBConv(nn.Module):
    """Inverted bottleneck with a residual: expand by 4, depthwise convolution, reduce."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = 4 * width
        self.conv1 = ConvNorm(width, hidden)
        self.conv2 = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvNorm(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.gelu(self.conv2(functional.gelu(self.conv1(x))))
        return functional.gelu(x + self.conv3(inner))


class Merging(nn.Module):
    """Reduction to the width and stride of the next stage."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, outputs)
        self.conv2 = ConvNorm(outputs, outputs, 3, stride=stride, groups=outputs)
        self.conv3 = ConvNorm(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(functional.gelu(self.conv2(functional.gelu(self.conv1(x)))))


class Attention(nn.Module):
    """Self-attention within a window, with a learned bias per head and distance (|rows|, |columns|)."""

    def __init__(self, width: int, window: int) -> None:
        super().__init__()
        self.heads = width // HEAD_WIDTH
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(self.heads, window * window))
        self.register_buffer("distances", _distances(window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Windows "n p c" of p pixels, row by row."""
        # "n p heads 3 d" to three of "n heads p d"
        qkv = self.qkv(self.norm(x)).unflatten(-1, (self.heads, 3, HEAD_WIDTH))
        query, key, value = qkv.permute(3, 0, 2, 1, 4)
        # scores "n heads p p" with distance bias "heads p p"
        bias = self.attention_biases[:, self.get_buffer("distances")].to(query.dtype)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(self.norm(x))))


class Block(nn.Module):
    """Window attention, a depthwise convolution, and an MLP."""

    def __init__(self, width: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = Attention(width, window)
        self.local_conv = ConvNorm(width, width, 3, groups=width)
        self.mlp = MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.local_conv(x + self._attend(x)).permute(0, 2, 3, 1)
        return (x + self.mlp(x)).permute(0, 3, 1, 2)

    def _attend(self, x: Tensor) -> Tensor:
        """Attention in windows. Zero padding at the right and the bottom takes part in it, as published."""
        height, width = x.shape[2:]
        side = self.window
        # Split into windows: "b c h w" to "b rows columns y x c"
        x = functional.pad(x, (0, -width % side, 0, -height % side))
        cells = x.unflatten(3, (-1, side)).unflatten(2, (-1, side))  # b, c, rows, y, columns, x
        windows = cells.permute(0, 2, 4, 3, 5, 1)
        # Attend in each window of y * x pixels
        mixed = self.attn(windows.flatten(3, 4).flatten(0, 2)).view(windows.shape)
        # Join the windows to "b c h w", without the padding
        return mixed.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)[..., :height, :width]


class Stage(nn.Module):
    """Blocks, and the reduction to the next stage if there is one."""

    def __init__(self, index: int) -> None:
        super().__init__()
        width, window = WIDTHS[index], WINDOWS[index]
        blocks = [MBConv(width) if window is None else Block(width, window) for _ in range(DEPTHS[index])]
        self.blocks = nn.Sequential(*blocks)
        if index < len(STRIDES):
            self.downsample = Merging(width, WIDTHS[index + 1], STRIDES[index])
        else:
            self.downsample = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.blocks(x))


class TinyViT(nn.Module):
    """Encodes normalised images "b 3 s s" to embeddings "b 256 s/16 s/16".

    Args:
        img_size: side s of the square images in pixels, a multiple of 16. segment-anything requires this name.
    """

    def __init__(self, img_size: int = 1024) -> None:
        super().__init__()
        self.img_size = img_size
        self.patch_embed = PatchEmbed(WIDTHS[0])
        self.layers = nn.Sequential(*(Stage(index) for index in range(len(WIDTHS))))
        # The embedding does not use the classifier, but the published file has its weights.
        self.norm_head = nn.LayerNorm(WIDTHS[-1])
        self.head = nn.Linear(WIDTHS[-1], 1000)
        self.neck = nn.Sequential(
            nn.Conv2d(WIDTHS[-1], 256, 1, bias=False),
            LayerNorm2d(256),
            nn.Conv2d(256, 256, 3, padding=1, bias=False),
            LayerNorm2d(256),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.neck(self.layers(self.patch_embed(images)))


def _distances(side: int) -> Tensor:
    """Index |rows| * side + |columns| of the distance between all pairs of pixels of a window, "p p"."""
    rows, columns = torch.arange(side * side) // side, torch.arange(side * side) % side
    return (rows[:, None] - rows).abs() * side + (columns[:, None] - columns).abs()
