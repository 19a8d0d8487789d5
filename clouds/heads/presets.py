"""One function per built-in head: the numbers, and the built module. Imports nothing heavy by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from clouds.core.component import FeatureSpec
from clouds.core.labels import LabelSpace

if TYPE_CHECKING:
    from clouds.core.interfaces import Head


def linear(features: Mapping[str, FeatureSpec], labels: LabelSpace, *, width: int = 128) -> Head:
    """The smallest head that uses the whole pyramid; softmax over classes, cross entropy.

    Args:
        features: channels and strides of res2..res5.
        labels: the classes.
        width: channels of the summed map.
    """
    from clouds.heads.linear import LinearHead

    return LinearHead(features, classes=len(labels), width=width)


def mask2former(
    features: Mapping[str, FeatureSpec],
    labels: LabelSpace,
    *,
    queries: int = 100,
    width: int = 256,
    layers: int = 9,
    heads: int = 8,
    feedforward: int = 2048,
    points: int = 12544,
    class_weight: float = 2.0,
    mask_weight: float = 5.0,
    dice_weight: float = 5.0,
    no_object_weight: float = 0.1,
) -> Head:
    """Masked-attention mask transformer; sizes and weights of Cheng et al., CVPR 2022, section 4.1.

    Args:
        features: channels and strides of res2..res5.
        labels: the classes.
        queries: number of mask predictions; at least one per class.
        width: channels of queries, keys and mask embeddings.
        layers: decoder layers, round-robin over res5, res4, res3.
        heads: attention heads.
        feedforward: hidden width of the feed-forward blocks.
        points: points at which masks are compared in training.
        class_weight, mask_weight, dice_weight: weights of the loss terms, also in the matching cost.
        no_object_weight: weight of the "no object" class in the class loss.
    """
    from clouds.heads.criterion import Criterion, Weights
    from clouds.heads.mask2former import Mask2Former
    from clouds.heads.masked_decoder import MaskedDecoder
    from clouds.heads.pixel_decoder import LateralPixelDecoder

    weights = Weights(class_=class_weight, mask=mask_weight, dice=dice_weight, no_object=no_object_weight)
    return Mask2Former(
        pixel_decoder=LateralPixelDecoder(features, width=width),
        decoder=MaskedDecoder(
            classes=len(labels), queries=queries, width=width, layers=layers, heads=heads, feedforward=feedforward
        ),
        criterion=Criterion(weights=weights, points=points),
    )
