"""The feature distance of DAFormer: what is trained stays near the features that it started from.

Source: Hoyer, Dai, Van Gool, "DAFormer", CVPR 2022, section 3.3, equations 6 to 9.
"""

# pyright: reportUnknownMemberType=false
# (torch has incomplete types)

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from clouds.core.contract.interfaces import Backbone
from clouds.core.contract.losses import LossInputs, LossTerm
from clouds.core.contract.records import Targets
from clouds.core.system.errors import ConfigError, did_you_mean
from clouds.training.start import nothing_trained
from clouds.training.teacher import frozen_copy

if TYPE_CHECKING:
    from clouds.core.pipeline.pipeline import Pipeline

_CELL = 32  # stride of the last level, in pixels


@final
class FeatureDistance(LossTerm):
    """Mean L2 distance between the student's and the untrained backbone's last level `res5`, over cells with things.

    A cell of 32 x 32 pixels counts if one of the classes has at least `ratio` of its pixels. Pseudo-labels have no
    cells: as published, only images with labels count. The reference is the trunk without its adapter, or a copy of the
    backbone as it is when the run starts.

    Args:
        pipeline: the student before its first step.
        weight: factor of the distance.
        classes: names of classes; empty means those that the label space marks as things.
        ratio: share of a cell's pixels.

    Raises:
        ConfigError: nothing of the backbone is trained, a class is unknown or there is none, or a number is out of
            range.
    """

    def __init__(
        self, pipeline: Pipeline, *, weight: float = 0.005, classes: tuple[str, ...] = (), ratio: float = 0.75
    ) -> None:
        super().__init__()
        if not 0 < ratio <= 1:
            raise ConfigError(f"ratio is {ratio}; expected more than 0 and at most 1")
        if not 0 <= weight < float("inf"):
            raise ConfigError(f"weight is {weight}; expected at least 0")
        self.weight, self.ratio = weight, ratio
        self.classes = _train_ids(pipeline, classes)
        self._autocast = pipeline.autocast
        backbone, adapter = pipeline.backbone, pipeline.adapter
        self.copy: Backbone | None = None
        if any(parameter.requires_grad for parameter in backbone.parameters()):
            self.copy = frozen_copy(backbone).freeze()
        elif adapter is None or not any(parameter.requires_grad for parameter in adapter.parameters()):
            raise ConfigError(nothing_trained(type(backbone).__name__))
        self._trunk = (backbone,)  # in a tuple, so that it is no part of this module

    def forward(self, inputs: LossInputs) -> Float[Tensor, " b"]:
        with torch.no_grad(), self._autocast():
            reference = (self._trunk[0] if self.copy is None else self.copy)(inputs.images).res5
        # Distance per cell of the last level "b h w"
        distance = torch.linalg.vector_norm(inputs.features.res5.float() - reference.float(), dim=1)
        # The same on the cells of the network's input, "b h/32 w/32", if the backbone saw a smaller image
        height, width = (4 * side // _CELL for side in inputs.output.mask_logits.shape[-2:])
        distance = functional.interpolate(distance[:, None], size=(height, width), mode="nearest")[:, 0]
        # Cells that count "b h/32 w/32"; padding has none
        cells = [self.cells(target).to(distance.device) for target in inputs.targets]
        cells = [functional.pad(one, (0, width - one.shape[1], 0, height - one.shape[0])) for one in cells]
        return self.weight * (distance * torch.stack(cells)).sum((1, 2))

    def items(self, targets: Targets) -> float:
        return float(self.cells(targets).sum())

    def cells(self, targets: Targets) -> Bool[Tensor, "h w"]:
        """The cells of 32 x 32 pixels of which one class, with all its instances, has at least `ratio`."""
        # Pixels of each class "k h w", and their shares of the cells "k h/32 w/32"
        shown = torch.stack([targets.masks[targets.labels == one].any(0) for one in self.classes]) & targets.valid
        shares = functional.avg_pool2d(shown[:, None].float(), _CELL)[:, 0]
        return (shares >= self.ratio).any(0) & (not targets.pseudo)


def _train_ids(pipeline: Pipeline, classes: Sequence[str]) -> tuple[int, ...]:
    space = pipeline.labels
    for name in classes:
        if name not in space.names:
            raise ConfigError(f"classes has {name!r}, which is not a class{did_you_mean(name, space.names)}")
    found = [space.names.index(name) for name in classes] or [i for i, thing in enumerate(space.things) if thing]
    if not found:
        raise ConfigError(f"the label space {space.name} marks no class as a thing; name some in classes")
    return tuple(found)
