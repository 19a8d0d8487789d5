"""The built-in loss terms, samplers, augmentations and trackers, as the catalog sees them."""

from __future__ import annotations

from clouds.core.contract.hookspecs import hookimpl
from clouds.core.contract.offers import Offer


@hookimpl
def clouds_losses() -> list[Offer]:
    return [
        Offer(
            "feature-distance",
            "clouds.training.feature_distance:FeatureDistance",
            "keeps the features of things near those of the untrained backbone (DAFormer)",
        )
    ]


@hookimpl
def clouds_samplers() -> list[Offer]:
    summary = "draws a class, rare ones more often, and then an image that shows it (DAFormer)"
    return [Offer("rare-classes", "clouds.data.rare_classes:RareClassSampler", summary)]


@hookimpl
def clouds_augmentations() -> list[Offer]:
    return [Offer("randomize", "clouds.data.randomize:randomize", "strong colour changes (domain randomization)")]


@hookimpl
def clouds_trackers() -> list[tuple[str, str]]:
    return [
        ("tensorboard", "clouds.training.tracking:TensorBoard"),
        ("wandb", "clouds.training.tracking:WeightsAndBiases"),
    ]
