"""Thresholds on the teacher's certainty, one per class, so that hard classes keep pseudo-labels.

With one threshold for all classes, the easy ones keep most of their pixels and the rare ones lose theirs; without any,
rare classes are labelled where the teacher guesses. Zou et al., "Unsupervised Domain Adaptation for Semantic
Segmentation via Class-Balanced Self-Training", ECCV 2018, sets each class's threshold at a quantile over all target
images before each round. Here it follows a running mean, as the thresholds of Wang et al., "FreeMatch", ICLR 2023.
"""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from clouds.core.system.processes import Processes


@final
class ClassThresholds(nn.Module):
    """Running mean, per class, of the share of the scores that a pixel's best class has.

    The thresholds of a step come from the steps before, so that they do not depend on how the step is split over
    processes and parts. The buffers are part of the checkpoint.

    Args:
        classes: number of classes k.
        decay: weight of the earlier steps in an update, 0..1.
        fraction: a class's threshold is this fraction of its mean share.
    """

    sums: Tensor
    counts: Tensor

    def __init__(self, classes: int, *, decay: float, fraction: float) -> None:
        super().__init__()
        self.decay = decay
        self.fraction = fraction
        for name in ("sums", "counts"):
            self.register_buffer(name, torch.zeros(classes, dtype=torch.float64))
        self._seen = torch.zeros(2, classes, dtype=torch.float64)

    def keeps(self, shares: Float[Tensor, "h w"], label_map: UInt8[Tensor, "h w"]) -> Tensor:
        """Whether each pixel "h w" reaches the threshold of its class, and note its share for the next update.

        A class that no step has seen keeps all its pixels.

        Args:
            shares: of the best class in the scores, 0..1.
            label_map: the best class.
        """
        # On the CPU, where sums have a fixed order, so that a run resumes bitwise
        classes, values = label_map.flatten().long().cpu(), shares.flatten().double().cpu()
        self._seen[0].index_add_(0, classes, values)
        self._seen[1].index_add_(0, classes, torch.ones_like(values))
        thresholds = self.fraction * self.sums / self.counts.clamp(min=torch.finfo(torch.float64).tiny)
        return (values >= thresholds.cpu()[classes]).view(label_map.shape).to(label_map.device)

    def update(self, processes: Processes) -> None:
        """Add what all processes noted since the last update."""
        sums, counts = processes.sum(self._seen).to(self.sums.device)
        self.sums.mul_(self.decay).add_(sums)
        self.counts.mul_(self.decay).add_(counts)
        self._seen.zero_()
