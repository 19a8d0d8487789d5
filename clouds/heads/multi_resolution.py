"""HRDA: a coarse view of the whole image and fine views of its parts, fused by learnt attention.

Hoyer, Dai, Van Gool: "HRDA: Context-Aware High-Resolution Domain-Adaptive Semantic Segmentation", ECCV 2022, arXiv
2204.13132. Published values: context of 1024 x 1024 pixels seen at half resolution, detail crops of 512 x 512 pixels,
detail weight 0.1. Published mIoU on Cityscapes, for domain adaptation with MiT-B5: 73.8 from GTA5, 65.8 from SYNTHIA.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from clouds.core.contract.interfaces import SIZE_DIVISOR, Backbone, ImageGenerators, TextClassifier
from clouds.core.contract.records import Features, HeadOutput, ImageWindow, Targets
from clouds.core.system.errors import ConfigError
from clouds.core.system.images import window_starts
from clouds.heads.pixel import PixelHead, cross_entropy, label_maps, to_output

_SCALE = 2  # the context is seen at half resolution
_STRIDE = 4  # of the logits
_GRID = _SCALE * _STRIDE  # pixels per cell of the context's logits; detail windows start at its multiples


@final
class MultiResolutionHead(PixelHead):
    """Classifies pixels at half resolution in the whole image, and at full resolution in detail windows.

    `forward_images` with random generators, as in training, sees one random detail window per image; outside of it the
    context alone counts. Without generators it slides detail windows over the image with half a window's overlap, and
    averages their logits. `forward` on given features sees one resolution.

    Args:
        head: classifies pixels of both resolutions.
        attention: its logits for the context give the share of the detail per class and pixel, by a sigmoid.
        detail: side of detail windows in pixels; a multiple of 32. Smaller images are one window.
        detail_weight: weight of the detail window's own loss, 0..1; the fused prediction has the rest.

    Raises:
        ConfigError: `detail` or `detail_weight` is out of range.
    """

    def __init__(self, head: PixelHead, attention: PixelHead, *, detail: int, detail_weight: float) -> None:
        super().__init__()
        if detail < 1 or detail % SIZE_DIVISOR:
            raise ConfigError(f"head: detail is {detail}; expected a multiple of {SIZE_DIVISOR} pixels, at least one")
        if not 0 <= detail_weight <= 1:
            raise ConfigError(f"head: detail_weight is {detail_weight}; expected 0..1")
        self.head = head
        self.attention = attention
        self.detail = detail
        self.detail_weight = detail_weight

    def logits(self, features: Features) -> Float[Tensor, "b k h4 w4"]:
        return self.head.logits(features)

    def forward_images(
        self,
        images: Float[Tensor, "b 3 h w"],
        backbone: Backbone,
        features_of: Callable[[Tensor], Features],
        classifier: TextClassifier | None = None,
        *,
        rngs: ImageGenerators | None = None,
    ) -> HeadOutput:
        size = (images.shape[2], images.shape[3])
        # Context: logits and attention "b k h/8 w/8"
        features = features_of(_half(images, backbone))
        cells = [slice(side // _GRID) for side in size]
        context = self.head.logits(features)[..., *cells]
        attention = self.attention.logits(features)[..., *cells].sigmoid()
        # Detail: mean of the windows' logits, 0 outside "b k h/4 w/4"; number of windows "b 1 h/4 w/4"
        quarter = [side // _STRIDE for side in size]
        detail, count = context.new_zeros(*context.shape[:2], *quarter), context.new_zeros(len(images), 1, *quarter)
        windows = self._sliding(size, len(images)) if rngs is None else [_drawn(size, self.detail, rngs)]
        seen: list[tuple[Tensor, tuple[ImageWindow, ...]]] = []
        for places in windows:
            crops = torch.stack([image[:, *place] for image, place in zip(images, places, strict=True)])
            seen.append((self.head.logits(features_of(crops)), places))
            for index, place in enumerate(places):
                part = [slice(side.start // _STRIDE, side.stop // _STRIDE) for side in place]
                detail[index, :, *part] += seen[-1][0][index]
                count[index, :, *part] += 1
        detail = detail / count.clamp(min=1)
        # Fuse "b k h/4 w/4", equation 7 of the paper; attention is 0 where no window was seen
        attention = attention * (count[..., ::_SCALE, ::_SCALE] > 0)
        output = to_output(_double((1 - attention) * context) + _double(attention) * detail)
        if rngs is not None:
            crop, places = seen[0]
            output.auxiliary = (HeadOutput(output.class_logits, crop, windows=places),)
        return output

    def loss(
        self,
        output: HeadOutput,
        targets: Sequence[Targets],
        *,
        points: Float[Tensor, "b p 2"] | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Cross entropy of the fused prediction, and "detail": that of the detail windows, a mean over images."""
        terms = {name: (1 - self.detail_weight) * term for name, term in super().loss(output, targets).items()}
        for part in output.auxiliary:
            maps = label_maps(targets, part.mask_logits.device)
            cropped = torch.stack([one[place] for one, place in zip(maps, part.windows, strict=True)])
            per_pixel = cross_entropy(part.mask_logits, cropped)
            labelled = (cropped != 255).sum((1, 2)).clamp(min=1)
            terms["detail"] = self.detail_weight * (per_pixel.sum((1, 2)) / labelled).mean()
        return terms

    def loss_counts(self, targets: Sequence[Targets]) -> dict[str, float]:
        return {**super().loss_counts(targets), "detail": float(len(targets))}

    def _sliding(self, size: tuple[int, int], images: int) -> list[tuple[ImageWindow, ...]]:
        """Every detail window, for all images; the last of an axis ends at the image's edge."""
        axes = [
            [
                slice(start, min(start + self.detail, side))
                for start in window_starts(side, self.detail, self.detail // 2)
            ]
            for side in size
        ]
        return [((rows, columns),) * images for rows, columns in product(*axes)]


def _drawn(size: tuple[int, int], detail: int, rngs: ImageGenerators) -> tuple[ImageWindow, ...]:
    """One random detail window per image, each from its own generator."""

    def draw(side: int, rng: torch.Generator) -> slice:
        length = min(detail, side)
        start = _GRID * int(torch.randint((side - length) // _GRID + 1, (), generator=rng))
        return slice(start, start + length)

    return tuple((draw(size[0], rng), draw(size[1], rng)) for rng in rngs.images)


def _half(images: Float[Tensor, "b 3 h w"], backbone: Backbone) -> Float[Tensor, "b 3 h2 w2"]:
    """Images at half resolution, padded at bottom and right with the mean to sizes that the backbone takes."""
    half = functional.interpolate(images, scale_factor=1 / _SCALE, mode="bilinear", align_corners=False)
    divisor = backbone.size_divisor
    height, width = (-(-side // divisor) * divisor for side in half.shape[2:])
    padded = backbone.mean.expand(len(half), 3, height, width).to(half.dtype, copy=True)
    padded[..., : half.shape[2], : half.shape[3]] = half
    return padded


def _double(x: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h2 w2"]:
    return functional.interpolate(x, scale_factor=_SCALE, mode="bilinear", align_corners=False)
