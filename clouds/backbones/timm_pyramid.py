"""Feature pyramids of timm models."""

from __future__ import annotations

from typing import Any, final

import timm
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from jaxtyping import Float
from torch import Tensor, nn

from clouds.core.component import FeatureSpec
from clouds.core.errors import ConfigError, WeightsError, did_you_mean
from clouds.core.interfaces import LEVELS, Backbone, Features

STRIDES = (4, 8, 16, 32)


def build_trunk(model: str, *, pretrained: bool, **arguments: Any) -> tuple[nn.Module, dict[str, FeatureSpec]]:
    """Build timm's feature extractor with outputs at strides 4, 8, 16 and 32.

    Raises:
        ConfigError: timm has no such model, or it has no such feature maps.
        WeightsError: the published weights could not be had.
    """
    if not timm.is_model(model):
        raise ConfigError(f"timm has no model {model!r}{did_you_mean(model, timm.list_models())}")
    probe: Any = timm.create_model(model, features_only=True, pretrained=False, **arguments)
    reductions: list[int] = probe.feature_info.reduction()
    if not set(STRIDES) <= set(reductions):
        raise ConfigError(
            f"timm model {model!r} has feature maps at strides {reductions}; expected {list(STRIDES)} among them"
        )
    indices = [len(reductions) - 1 - reductions[::-1].index(stride) for stride in STRIDES]
    try:
        trunk: Any = timm.create_model(
            model, features_only=True, out_indices=indices, pretrained=pretrained, **arguments
        )
    except (OSError, RuntimeError, LocalEntryNotFoundError, HfHubHTTPError) as error:
        raise WeightsError(
            f"weights of timm model {model!r} could not be loaded ({type(error).__name__}: {error}); "
            "check the connection, or use pretrained=False"
        ) from error
    channels = trunk.feature_info.channels()
    specs = {
        level: FeatureSpec(channels=count, stride=stride)
        for level, count, stride in zip(LEVELS, channels, STRIDES, strict=True)
    }
    return trunk, specs


@final
class TimmPyramid(Backbone):
    """A timm model as backbone; normalisation as its weights were trained with."""

    def __init__(self, model: str, *, pretrained: bool) -> None:
        trunk, specs = build_trunk(model, pretrained=pretrained)
        config = timm.get_pretrained_cfg(model)
        mean, std = (config.mean, config.std) if config is not None else ((0.5,) * 3, (0.5,) * 3)
        super().__init__(features=specs, mean=[255 * value for value in mean], std=[255 * value for value in std])
        self.trunk = trunk

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Features:
        res2, res3, res4, res5 = self.trunk(self.normalize(images))
        return Features(res2=res2, res3=res3, res4=res4, res5=res5)
