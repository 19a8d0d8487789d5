"""Builds Mask2Former heads from sizes; `presets.mask2former` imports it late because it loads torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attrs import frozen
from torch import nn

from clouds.core.contract.component import FeatureSpec
from clouds.core.system.errors import ConfigError
from clouds.heads.criterion import Criterion, Weights
from clouds.heads.ensemble import Ensemble
from clouds.heads.layers import Mlp
from clouds.heads.mask2former import Mask2Former
from clouds.heads.masked_decoder import MaskedDecoder
from clouds.heads.pixel_decoder import PixelDecoder
from clouds.heads.text_queries import TextQueries

Classification = Literal["linear", "pooled", "text", "by_query"]

__all__ = ["Criterion", "DecoderSizes", "EncoderSizes", "Ensemble", "Weights", "build_mask2former"]


@frozen
class EncoderSizes:
    """Sizes of the pixel decoder; `PixelDecoder` explains them."""

    features: Mapping[str, FeatureSpec]
    width: int
    heads: int
    layers: int
    points: int
    feedforward: int


@frozen
class DecoderSizes:
    """Sizes of the transformer decoder; `MaskedDecoder` explains them."""

    classes: int
    text_width: int | None
    queries: int
    width: int
    heads: int
    layers: int
    feedforward: int
    project_inputs: bool


def build_mask2former(
    encoder: EncoderSizes,
    decoder: DecoderSizes,
    criterion: Criterion,
    ensemble: Ensemble | None,
    classification: Classification,
    postprocess: Literal["merge_first", "masks_first"],
) -> Mask2Former:
    """Assemble a head with one of the three published kinds of classification, or with a query made for each class.

    Raises:
        ConfigError: a size is below 1, a width does not fit, or "text" or "by_query" lacks `text_width`.
    """
    _check_sizes(encoder, decoder, criterion)
    if classification in ("text", "by_query") and decoder.text_width is None:
        name = "mask2former-text" if classification == "text" else "text-queries"
        raise ConfigError(f"{name} needs the width of the backbone's text embeddings; pass text_width=")
    text_width, width = decoder.text_width, decoder.width
    linear = nn.Linear(width, decoder.classes + 1)
    return Mask2Former(
        pixel_decoder=PixelDecoder(
            encoder.features,
            width=encoder.width,
            heads=encoder.heads,
            layers=encoder.layers,
            points=encoder.points,
            feedforward=encoder.feedforward,
        ),
        predictor=_predictor(decoder, classification, linear),
        criterion=criterion,
        void_width=text_width if classification == "text" else None,
        ensemble=ensemble,
        text_queries=(
            TextQueries(text_width, width, decoder.classes) if text_width and classification == "by_query" else None
        ),
        postprocess=postprocess,
    )


def _predictor(sizes: DecoderSizes, classification: Classification, linear: nn.Linear) -> MaskedDecoder:
    width, text_width = sizes.width, sizes.text_width if classification == "text" else None
    return MaskedDecoder(
        class_embed=linear if text_width is None else Mlp(width, width, width, text_width),
        queries=sizes.queries,
        width=width,
        layers=sizes.layers,
        heads=sizes.heads,
        feedforward=sizes.feedforward,
        pooled=classification in ("pooled", "text"),
        text=classification == "text",
        project_inputs=sizes.project_inputs,
        own_queries=classification != "by_query",
    )


def _check_sizes(encoder: EncoderSizes, decoder: DecoderSizes, criterion: Criterion) -> None:
    sizes = {
        "queries": decoder.queries,
        "width": decoder.width,
        "layers": decoder.layers,
        "heads": decoder.heads,
        "feedforward": decoder.feedforward,
        "encoder_layers": encoder.layers,
        "encoder_feedforward": encoder.feedforward,
        "encoder_points": encoder.points,
        "points": criterion.points,
    }
    wrong = ", ".join(f"{name}={size}" for name, size in sizes.items() if size < 1)
    if wrong:
        raise ConfigError(f"head: {wrong}; expected at least 1 of each")
