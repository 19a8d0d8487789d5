"""Filters each class's mask with the image as guide; the class with the most support, weighted by rarity, wins.

The filter is He et al., "Guided Image Filtering", PAMI 2013, in the fast form of He, Sun, "Fast Guided Filter",
arXiv:1505.00996. Filtered masks choose labels as in Hosni et al., "Fast Cost-Volume Filtering for Visual
Correspondence and Beyond", PAMI 2013. The weights are those of Menon et al., "Long-tail Learning via Logit
Adjustment", ICLR 2021, with shares of the label map's pixels as class priors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import kornia
import numpy as np
from attrs import field, frozen
from jaxtyping import Float, UInt8
from torch import Tensor

from clouds.core.contract.interfaces import Refiner
from clouds.core.contract.records import Prepared, Targets
from clouds.core.system.config import within


@final
@frozen(kw_only=True)
class GuidedRefiner(Refiner):
    """Gives each pixel the value with the most support around it: among pixels of its colour.

    "Ignore" (255) is filtered as any class.

    Attributes:
        radius: of the filter's square window, in pixels; the nearest multiple of `subsample` is taken.
        epsilon: variance of colour (0..1) in a window above which it has an edge.
        balance: exponent of the weight: support / (share of the image) ** balance; 0 weights all classes alike.
        subsample: 1, or 2 to compute the filter's coefficients from every second pixel of each row and column, which
            moves edges without contrast by up to a pixel.

    Raises:
        ConfigError: an option is out of range.
    """

    radius: int = field(validator=within(1))
    epsilon: float = field(validator=within(0, above=True))
    balance: float = field(validator=within(0, 1))
    subsample: int = field(validator=within(1, 2))  # more would move edges by as many pixels, less one

    def prepare(self, images: Sequence[UInt8[Tensor, "3 _ _"]]) -> list[Prepared]:
        return [Prepared() for _ in images]

    def refine(
        self,
        images: Sequence[UInt8[Tensor, "3 _ _"]],
        label_maps: Sequence[UInt8[Tensor, "_ _"]],
        *,
        rngs: Sequence[np.random.Generator | np.random.RandomState],
        prepared: Sequence[Prepared] | None = None,
    ) -> list[Targets]:
        return [
            Targets.from_label_map(self._refined(image, label_map))
            for image, label_map in zip(images, label_maps, strict=True)
        ]

    def _refined(self, image: UInt8[Tensor, "3 h w"], label_map: UInt8[Tensor, "h w"]) -> UInt8[Tensor, "h w"]:
        # Values of the label map "v", their masks "v h w"
        values, counts = label_map.unique(return_counts=True)
        masks = (label_map == values[:, None, None]).float()
        # Support "v h w", weighted by rarity
        share = counts / label_map.numel()
        support = self._filter(image, masks) / share[:, None, None] ** self.balance
        return values[support.argmax(0)]

    def _filter(self, image: UInt8[Tensor, "3 h w"], masks: Float[Tensor, "v h w"]) -> Float[Tensor, "v h w"]:
        # An even window of the subsampled image would have no centre, and shift the masks by `subsample` pixels
        radius = self.subsample * max(1, round(self.radius / self.subsample))
        return kornia.filters.guided_blur(
            image[None].float() / 255,
            masks[None],
            2 * radius + 1,
            self.epsilon,
            border_type="replicate",
            subsample=self.subsample,
        )[0]
