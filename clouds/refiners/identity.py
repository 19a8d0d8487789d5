"""The refiner that changes nothing, as a control in experiments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from clouds.core.contract.interfaces import Refiner
from clouds.core.contract.records import Prepared, Targets


@final
class IdentityRefiner(Refiner):
    """Uses the teacher's label maps as targets."""

    def prepare(self, images: Sequence[UInt8[Tensor, "3 _ _"]]) -> list[Prepared]:
        return [Prepared() for _ in images]

    def refine(
        self,
        images: Sequence[UInt8[Tensor, "3 _ _"]],
        label_maps: Sequence[UInt8[Tensor, "_ _"]],
        *,
        rngs: Sequence[np.random.Generator | np.random.RandomState],
        prepared: Sequence[Prepared] | None = None,
    ) -> list[Targets]:
        return [Targets.from_label_map(label_map) for label_map in label_maps]
