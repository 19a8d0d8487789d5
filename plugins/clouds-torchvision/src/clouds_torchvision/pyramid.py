"""Classification models of torchvision, with their weights, as feature pyramids."""

import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import clouds
from torch import nn
from torchvision import models

# Their weights need images in -1..1, which transform_input provides, and their files have auxiliary classifiers.
# Torchvision warns about their slow initialisation.
_INCEPTION = {"init_weights": False, "aux_logits": True, "transform_input": True}
_OPTIONS = {"googlenet": _INCEPTION, "inception_v3": _INCEPTION}
_PUBLISHED_DENSENET = re.compile(r"(?<=\.)(norm|relu|conv)\.([12])(?=\.)")  # "norm.1" in files is "norm1" in the model


def build_pyramid(
    model: str, *, pretrained: bool | Path, mean: Sequence[float], std: Sequence[float], unit_rms: bool
) -> clouds.Backbone:
    """Build a model, find its levels, and cut off the classifier.

    Raises:
        clouds.ConfigError: torchvision has no such model, or it has no pyramid.
        clouds.WeightsError: the weights are unavailable, or do not fit.
    """
    known = models.list_models(module=models)
    if model not in known:
        near = get_close_matches(model, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise clouds.ConfigError(f"torchvision has no classification model {model!r}{hint}")
    net = _whole(model, pretrained)
    try:
        return clouds.as_backbone(net, mean=mean, std=std, unit_rms=unit_rms)
    except clouds.ConfigError as error:
        raise clouds.ConfigError(f"torchvision's {model}: {error}") from error


def _whole(model: str, pretrained: bool | Path) -> nn.Module:
    """The classification model with its weights."""
    options = _OPTIONS.get(model, {})
    if pretrained is True:
        try:
            return models.get_model(model, weights="DEFAULT", progress=sys.stderr.isatty(), **options)
        except (OSError, RuntimeError) as error:
            raise clouds.WeightsError(
                f"weights of torchvision's {model} could not be loaded ({type(error).__name__}: {error}); check the "
                "connection, or use pretrained=FILE or pretrained=False"
            ) from error
    net = models.get_model(model, weights=None, **options)
    if pretrained is not False:
        state = clouds.read_weights(Path(pretrained))
        if isinstance(net, models.DenseNet):
            state = {_PUBLISHED_DENSENET.sub(r"\1\2", key): value for key, value in state.items()}
        # Torchvision's oldest files lack batch norm's batch counters, which are unused here.
        counters = {key: value for key, value in net.state_dict().items() if key.endswith("num_batches_tracked")}
        clouds.load_weights(net, counters | state, source=str(pretrained))
    return net
