"""Ready torch modules as backbones: models of torchvision and timm, and others that are built like them."""

# pyright: reportUnknownMemberType=false, reportPrivateImportUsage=false
# (torch, torchvision and timm have incomplete types)

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, final

import torch
from attrs import frozen
from jaxtyping import Float
from timm.models import get_notrace_functions, get_notrace_modules
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pad
from torchvision.models.feature_extraction import create_feature_extractor

from clouds.backbones.levels import STRIDES
from clouds.core.contract.component import FeatureSpec
from clouds.core.contract.interfaces import LEVELS, Backbone
from clouds.core.contract.records import Features
from clouds.core.system.errors import ConfigError

_PROBE = (448, 576)  # height and width differ, to recognise maps with channels last
_SLACK = 0.25  # tolerance of a stride, in powers of 2
_CLASSIFIERS = ("classifier", "fc", "head", "heads")  # usual names of the layers behind the features
_IMAGENET_MEAN, _IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_REMEDY = "use a convolutional model or Swin, or a plain ViT by its timm: name"


@frozen(kw_only=True)
class Stage:
    """What makes a level of the pyramid.

    Attributes:
        node: path of the module whose output it is, or index in the list that the model returns.
        stride: of the map.
        channels: of the map.
        channels_last: whether they are the last axis.
    """

    node: str | int
    stride: int
    channels: int
    channels_last: bool


@final
class ReadyBackbone(Backbone):
    """Feature maps of a ready module at strides 4, 8, 16 and 32; created by `as_backbone`.

    Args:
        trunk: maps normalised images "b 3 h w" to feature maps, by level or by index.
        stages: stages of these levels.
        smallest: minimum side of the trunk's input; smaller images are padded with `mean`, bottom-right.
        mean, std: normalisation of the weights' training images, 0..255.
        unit_rms: scale each pixel's channels to a mean square of 1.
    """

    def __init__(
        self,
        trunk: nn.Module,
        *,
        stages: Mapping[str, Stage],
        smallest: int,
        mean: Sequence[float],
        std: Sequence[float],
        unit_rms: bool,
    ) -> None:
        specs = {
            level: FeatureSpec(channels=stages.get(level, stages["res4"]).channels, stride=stride)
            for level, stride in zip(LEVELS, STRIDES, strict=True)
        }
        super().__init__(features=specs, mean=mean, std=std)
        self.trunk, self.stages, self.smallest, self.unit_rms = trunk, dict(stages), smallest, unit_rms

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Features:
        # Run the trunk, on images padded to its minimum size
        height, width = images.shape[-2:]
        tall, wide = max(height, self.smallest), max(width, self.smallest)
        maps = self._maps(pad(self.normalize(images), (0, wide - width, 0, tall - height)))
        if "res5" not in maps:
            maps["res5"] = avg_pool2d(maps["res4"], 2, ceil_mode=True)
        # Resize to exact strides, and remove the padding
        levels: dict[str, Tensor] = {}
        for level, stride in zip(LEVELS, STRIDES, strict=True):
            exact = self._exact(maps[level], (tall // stride, wide // stride))
            levels[level] = exact[..., : height // stride, : width // stride]
        return Features(**levels)

    def _maps(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b c _ _"]]:
        found: Any = self.trunk(images)
        maps: dict[str, Tensor] = {}
        for level, stage in self.stages.items():
            one = found[stage.node if isinstance(stage.node, int) else level]
            maps[level] = one.permute(0, 3, 1, 2) if stage.channels_last else one  # "b h w c" to "b c h w"
        return maps

    def _exact(self, level: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize a map to the exact size, because unpadded convolutions make it a little smaller."""
        if level.shape[-2:] != size:
            level = interpolate(level, size, mode="bilinear")
        return level / (level.square().mean(1, keepdim=True) + 1).sqrt() if self.unit_rms else level


def as_backbone(
    module: nn.Module,
    *,
    mean: Sequence[float] = _IMAGENET_MEAN,
    std: Sequence[float] = _IMAGENET_STD,
    unit_rms: bool = False,
) -> Backbone:
    """Make a backbone of a ready module, such as a classification model of torchvision or timm.

    Levels are the last maps at strides 4, 8, 16 and 32 among the outermost submodules that at most halve the
    resolution; what comes after them is cut off. Modules that return a list of maps, such as those of
    `timm.create_model(..., features_only=True)`, are used as they are. The backbone shares the module's weights; it is
    trained unless you call `freeze()`.

    Args:
        module: takes normalised RGB images of any size.
        mean, std: normalisation of the weights' training images, per channel, 0..255; default: ImageNet's.
        unit_rms: scale each pixel's channels to a mean square of 1.

    Raises:
        ConfigError: it is no module, takes other channels than 3 or one image size only, or has no maps at these
            strides.

    >>> from torchvision.models import resnet18
    >>> list(as_backbone(resnet18()).features.values())[0]
    FeatureSpec(channels=64, stride=4)
    """
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"as_backbone: expected a torch module, got a {type(module).__name__}; a name is an option of compose: "
            'backbone="timm:NAME"'
        )
    bare = copy.deepcopy(module).to("meta").eval()
    stages, smallest = find_levels(bare), find_smallest(bare)
    nodes = {str(stage.node): level for level, stage in stages.items() if not isinstance(stage.node, int)}
    trunk = _cut(module, nodes) if nodes else module
    return ReadyBackbone(trunk, stages=stages, smallest=smallest, mean=mean, std=std, unit_rms=unit_rms)


def _cut(module: nn.Module, nodes: dict[str, str]) -> nn.Module:
    """The part of a module that computes some of its submodules' outputs, by level."""
    leaves = {"leaf_modules": list(get_notrace_modules()), "autowrap_functions": list(get_notrace_functions())}
    # Training mode adds nodes (auxiliary classifiers); none is a level, so the warning is suppressed.
    return create_feature_extractor(module, nodes, tracer_kwargs=leaves, suppress_diff_warning=True)


def find_levels(bare: nn.Module) -> dict[str, Stage]:
    """Find the last stage of each level; a model that ends at stride 16 has no `res5`.

    Args:
        bare: the module in eval mode on the meta device.

    Raises:
        ConfigError: see `as_backbone`.
    """
    name = type(bare).__name__
    first = next((part for part in bare.modules() if isinstance(part, nn.Conv2d)), None)
    if first is not None and first.in_channels != 3:
        raise ConfigError(
            f"{name} takes images of {first.in_channels} channels; a backbone gets RGB images, so build it with "
            "in_channels=3 (timm: in_chans=3)"
        )
    try:
        stages = {stage.stride: stage for stage in _stages(bare)}
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ConfigError(f"{name} supports only one image size ({error}); {_REMEDY}") from error
    missing = [stride for stride in STRIDES[:3] if stride not in stages]
    if missing:
        raise ConfigError(f"{name} has maps at strides {sorted(stages)}, none at {missing}; {_REMEDY}")
    return {level: stages[stride] for level, stride in zip(LEVELS, STRIDES, strict=True) if stride in stages}


def find_smallest(bare: nn.Module) -> int:
    """The minimum input side, a multiple of 32; `bare` is on the meta device."""
    for side in range(STRIDES[-1], min(_PROBE), STRIDES[-1]):
        try:
            bare(torch.zeros(1, 3, side, side, device="meta"))
        except RuntimeError:  # too small for unpadded convolutions or poolings
            continue
        return side
    return min(_PROBE)


def _stages(bare: nn.Module) -> Iterator[Stage]:
    """Yield the stages of a model on the meta device, in execution order."""
    calls: list[tuple[str, int, Stage]] = []

    def hook(path: str, inputs: tuple[object, ...], output: object) -> None:
        before, after = (_read_map(one) for one in (inputs[0] if inputs else None, output))
        if after:
            calls.append((path, after.stride // before.stride if before else after.stride, _named(after, path)))

    handles = [
        part.register_forward_hook(lambda _, inputs, output, path=path: hook(path, inputs, output))
        for path, part in bare.named_modules()
        if path and path.split(".")[0] not in _CLASSIFIERS
    ]
    answer = bare(torch.zeros(1, 3, *_PROBE, device="meta"))
    for handle in handles:
        handle.remove()
    if isinstance(answer, (list, tuple)):  # the model is a feature extractor
        yield from (_named(found, index) for index, one in enumerate(answer) if (found := _read_map(one)))
        return
    units = {path for path, ratio, _ in calls if ratio <= 2}
    for path, _, stage in calls:
        parents = accumulate(path.split(".")[:-1], "{}.{}".format)
        if path in units and units.isdisjoint(parents):
            yield stage


def _named(stage: Stage, node: str | int) -> Stage:
    return Stage(node=node, stride=stage.stride, channels=stage.channels, channels_last=stage.channels_last)


def _read_map(value: object) -> Stage | None:
    """Stride and channels of a feature map; None for other values.

    Unpadded convolutions may shrink the sides by 15 %.
    """
    if not isinstance(value, Tensor) or value.ndim != 4:
        return None
    for last, sides in ((False, value.shape[2:4]), (True, value.shape[1:3])):
        exact = [math.log2(whole / side) for whole, side in zip(_PROBE, sides, strict=True)]
        power = round(exact[0])
        if power >= 0 and all(abs(one - power) < _SLACK for one in exact):
            return Stage(node="", stride=2**power, channels=value.shape[3 if last else 1], channels_last=last)
    return None
