"""The student as one module from images to loss terms, for distributed training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from clouds.core.contract.interfaces import ImageGenerators
from clouds.core.contract.records import Targets
from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.system.processes import Processes


@final
class Learner(nn.Module):
    """Backbone, head and loss of a pipeline; it shares the pipeline's modules.

    Args:
        pipeline: the student.
        channels_last: use the channels-last memory format for convolutions.
    """

    def __init__(self, pipeline: Pipeline, *, channels_last: bool = False) -> None:
        super().__init__()
        self.segmenter = pipeline.segmenter
        self._forward = pipeline.forward
        if channels_last:
            self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(
        self, images: Sequence[UInt8[Tensor, "3 _ _"]], targets: Sequence[Targets], rngs: ImageGenerators
    ) -> dict[str, Tensor]:
        """The head's loss terms for a batch."""
        return self.segmenter.head.loss(self._forward(images, rngs), targets, generator=rngs)


def distribute(learner: Learner, processes: Processes) -> nn.Module:
    """Wrap the learner in DistributedDataParallel when there are several processes.

    A parameter may have no gradient in a step, such as the "no object" embedding of a head that does not use it.
    """
    if processes.world == 1:
        return learner
    from accelerate import Accelerator, DistributedDataParallelKwargs

    cpu = next(learner.parameters()).device.type == "cpu"
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=cpu, device_placement=False, mixed_precision="no", kwargs_handlers=[unused]).prepare(learner)
