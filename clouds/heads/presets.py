"""One function per built-in head: the numbers, and the built module. Imports nothing heavy by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from clouds.core.component import FeatureSpec
from clouds.core.errors import ConfigError
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
    text_width: int | None = None,
    *,
    classification: Literal["linear", "pooled", "text"] = "linear",
    queries: int = 100,
    width: int = 256,
    layers: int = 9,
    heads: int = 8,
    feedforward: int = 2048,
    encoder_layers: int = 6,
    encoder_feedforward: int = 1024,
    encoder_points: int = 4,
    project_inputs: bool = False,
    points: int = 12544,
    class_weight: float = 2.0,
    mask_weight: float = 5.0,
    dice_weight: float = 5.0,
    no_object_weight: float = 0.1,
    ignored: Literal["exclude", "negative"] = "exclude",
    geometric_ensemble: bool = False,
    ensemble_alpha: float = 0.4,
    ensemble_beta: float = 0.8,
    ensemble_on_valid_mask: bool = True,
    postprocess: Literal["merge_first", "masks_first"] = "merge_first",
) -> Head:
    """Masked-attention mask transformer; sizes and weights of Cheng et al., CVPR 2022, and of CLOUDS.

    Args:
        features: channels and strides of res2..res5.
        labels: the classes.
        text_width: width of the backbone's text embeddings, or None.
        classification: how queries become classes; each of the three is a component of its own.
        queries: number of mask predictions.
        width: channels of queries, keys and mask embeddings; a multiple of 64.
        layers: decoder layers, round-robin over res5, res4, res3.
        heads: attention heads.
        feedforward: hidden width of the decoder's feed-forward blocks.
        encoder_layers: layers of the pixel decoder.
        encoder_feedforward: hidden width of its feed-forward blocks.
        encoder_points: points that it samples per head and level.
        project_inputs: put a 1x1 convolution between pixel decoder and transformer decoder.
        points: points at which masks are compared in training.
        class_weight, mask_weight, dice_weight: weights of the loss terms, also in the matching cost.
        no_object_weight: weight of the "no object" class in the class loss.
        ignored: ignored pixels do not count ("exclude"), or lie outside of every mask ("negative", as published).
        geometric_ensemble: join the classes with those of the backbone's own text-image space in evaluation.
        ensemble_alpha, ensemble_beta: the backbone's share for classes seen in training, and for others.
        ensemble_on_valid_mask: leave the backbone out where a mask is empty at the size of its features.
        postprocess: resize merged class scores to the image ("merge_first", as published), or mask logits.

    Raises:
        ConfigError: a width that does not fit, or "text" without `text_width`.
    """
    from torch import nn

    from clouds.heads.criterion import Criterion, Weights
    from clouds.heads.ensemble import Ensemble
    from clouds.heads.layers import Mlp
    from clouds.heads.mask2former import Mask2Former
    from clouds.heads.masked_decoder import MaskedDecoder
    from clouds.heads.pixel_decoder import PixelDecoder

    text = classification == "text"
    if text and text_width is None:
        raise ConfigError("mask2former-text needs the width of the text embeddings; pass text_width=")
    weights = Weights(class_=class_weight, mask=mask_weight, dice=dice_weight, no_object=no_object_weight)
    ensemble = Ensemble(alpha=ensemble_alpha, beta=ensemble_beta, on_valid_mask=ensemble_on_valid_mask)
    return Mask2Former(
        pixel_decoder=PixelDecoder(
            features,
            width=width,
            heads=heads,
            layers=encoder_layers,
            points=encoder_points,
            feedforward=encoder_feedforward,
        ),
        predictor=MaskedDecoder(
            class_embed=Mlp(width, width, width, text_width) if text else nn.Linear(width, len(labels) + 1),
            queries=queries,
            width=width,
            layers=layers,
            heads=heads,
            feedforward=feedforward,
            pooled=classification != "linear",
            text=text,
            project_inputs=project_inputs,
        ),
        criterion=Criterion(weights=weights, points=points, ignored=ignored),
        void_width=text_width if text else None,
        ensemble=ensemble if geometric_ensemble else None,
        postprocess=postprocess,
    )
