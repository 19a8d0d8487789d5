"""Feature pyramids from torchvision's classification models."""

from __future__ import annotations

import copy
import math
import re
import sys
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from itertools import accumulate
from pathlib import Path

import clouds
import torch
from attrs import frozen
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pad
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

LEVELS = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
_PROBE = (448, 576)  # height and width differ, to recognise maps with channels last
_SLACK = 0.25  # tolerance of a stride, in powers of 2
_CLASSIFIERS = ("classifier", "fc", "head", "heads")  # torchvision's names of the layers behind the features
# Their weights need images in -1..1, which transform_input provides, and their files have auxiliary classifiers.
# Torchvision warns about their slow initialisation.
_INCEPTION = {"init_weights": False, "aux_logits": True, "transform_input": True}
_OPTIONS = {"googlenet": _INCEPTION, "inception_v3": _INCEPTION}
_PUBLISHED_DENSENET = re.compile(r"(?<=\.)(norm|relu|conv)\.([12])(?=\.)")  # "norm.1" in files is "norm1" in the model


@frozen(kw_only=True)
class Stage:
    """A module whose output is a level: its path, stride, number of channels, and whether these are the last axis."""

    path: str
    stride: int
    channels: int
    channels_last: bool


class TorchvisionPyramid(clouds.Backbone):
    """Feature maps of a torchvision model at strides 4, 8, 16 and 32.

    Args:
        trunk: maps normalised images "b 3 h w" to a feature map per level of the model.
        stages: stages of these levels.
        smallest: minimum side of the trunk's input; smaller images are padded with `mean`, bottom-right.
        mean, std: normalisation of the weights' training images, 0..255.
        unit_rms: scale each pixel's channels to a mean square of 1.
    """

    def __init__(
        self,
        trunk: nn.Module,
        *,
        stages: dict[str, Stage],
        smallest: int,
        mean: Sequence[float],
        std: Sequence[float],
        unit_rms: bool,
    ) -> None:
        specs = {
            level: clouds.FeatureSpec(channels=stages.get(level, stages["res4"]).channels, stride=stride)
            for level, stride in LEVELS.items()
        }
        super().__init__(features=specs, mean=mean, std=std)
        self.trunk, self.smallest, self.unit_rms = trunk, smallest, unit_rms
        self.channels_last = [level for level, stage in stages.items() if stage.channels_last]

    def forward(self, images: Tensor) -> clouds.Features:
        # Run the trunk, on images padded to its minimum size
        height, width = images.shape[-2:]
        tall, wide = max(height, self.smallest), max(width, self.smallest)
        maps = self.trunk(pad(self.normalize(images), (0, wide - width, 0, tall - height)))
        for level in self.channels_last:
            maps[level] = maps[level].permute(0, 3, 1, 2)  # "b h w c" to "b c h w"
        if "res5" not in maps:
            maps["res5"] = avg_pool2d(maps["res4"], 2, ceil_mode=True)
        # Resize to exact strides, and remove the padding
        levels: dict[str, Tensor] = {}
        for level, stride in LEVELS.items():
            exact = self._exact(maps[level], (tall // stride, wide // stride))
            levels[level] = exact[..., : height // stride, : width // stride]
        return clouds.Features(**levels)

    def _exact(self, level: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize a map to the exact size, because unpadded convolutions make it a little smaller."""
        if level.shape[-2:] != size:
            level = interpolate(level, size, mode="bilinear")
        return level / (level.square().mean(1, keepdim=True) + 1).sqrt() if self.unit_rms else level


def build_pyramid(
    model: str, *, pretrained: bool | Path, mean: Sequence[float], std: Sequence[float], unit_rms: bool
) -> TorchvisionPyramid:
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
    bare = copy.deepcopy(net).to("meta").eval()
    stages, smallest = find_levels(model, bare), find_smallest(bare)
    # Training mode adds nodes (auxiliary classifiers); none is a level, so the warning is suppressed.
    trunk = create_feature_extractor(net, {s.path: level for level, s in stages.items()}, suppress_diff_warning=True)
    return TorchvisionPyramid(trunk, stages=stages, smallest=smallest, mean=mean, std=std, unit_rms=unit_rms)


def find_levels(model: str, net: nn.Module) -> dict[str, Stage]:
    """Find the last stage of each level among the outermost modules that at most halve the resolution.

    It runs a copy on the meta device. A model that ends at stride 16 has no `res5`.

    Raises:
        clouds.ConfigError: the model supports only one image size, or has no maps at stride 4, 8 and 16.
    """
    try:
        stages = {stage.stride: stage for stage in _stages(copy.deepcopy(net).to("meta").eval())}
    except (RuntimeError, ValueError, AssertionError) as error:
        raise clouds.ConfigError(
            f"torchvision's {model} supports only one image size ({error}); use a convolutional model or Swin, or a "
            "plain ViT by its timm: name"
        ) from error
    missing = [stride for stride in (4, 8, 16) if stride not in stages]
    if missing:
        raise clouds.ConfigError(
            f"torchvision's {model} has maps at strides {sorted(stages)}, none at {missing}; use another model"
        )
    return {level: stages[stride] for level, stride in LEVELS.items() if stride in stages}


def find_smallest(bare: nn.Module) -> int:
    """The minimum input side, a multiple of 32; `bare` is on the meta device."""
    for side in range(LEVELS["res5"], min(_PROBE), LEVELS["res5"]):
        try:
            bare(torch.zeros(1, 3, side, side, device="meta"))
        except RuntimeError:  # too small for unpadded convolutions or poolings
            continue
        return side
    return min(_PROBE)


def _stages(net: nn.Module) -> Iterator[Stage]:
    """Yield the stages of a model on the meta device, in execution order."""
    calls: list[tuple[str, int, Stage]] = []

    def hook(path: str, inputs: tuple[object, ...], output: object) -> None:
        before, after = (_read_map(one) for one in (inputs[0] if inputs else None, output))
        if after and isinstance(output, Tensor):
            stride, last = after
            stage = Stage(path=path, stride=stride, channels=output.shape[3 if last else 1], channels_last=last)
            calls.append((path, stride // before[0] if before else stride, stage))

    for path, module in net.named_modules():
        if path and path.split(".")[0] not in _CLASSIFIERS:
            module.register_forward_hook(lambda _, inputs, output, path=path: hook(path, inputs, output))
    net(torch.zeros(1, 3, *_PROBE, device="meta"))
    units = {path for path, ratio, _ in calls if ratio <= 2}
    for path, _, stage in calls:
        parents = accumulate(path.split(".")[:-1], "{}.{}".format)
        if path in units and units.isdisjoint(parents):
            yield stage


def _read_map(value: object) -> tuple[int, bool] | None:
    """Stride of a feature map and whether its channels come last; None for other values.

    Unpadded convolutions may shrink the sides by 15 %.
    """
    if not isinstance(value, Tensor) or value.ndim != 4:
        return None
    for last, sides in ((False, value.shape[2:4]), (True, value.shape[1:3])):
        exact = [math.log2(whole / side) for whole, side in zip(_PROBE, sides, strict=True)]
        stride = round(exact[0])
        if stride >= 0 and all(abs(one - stride) < _SLACK for one in exact):
            return 2**stride, last
    return None


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
