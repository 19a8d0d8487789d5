"""The student as one module from images to loss terms, for distributed training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from clouds.core.contract.interfaces import Head, ImageGenerators
from clouds.core.contract.records import HeadOutput, Targets
from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.system.errors import NonFiniteError
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
        """The head's loss terms for a batch, with the weights of its images.

        A term is a mean over items: pixels, masks, queries or images. The loss of each item is multiplied by the weight
        of its image; the sum is divided by the number of all items, whatever their weights.
        """
        return _weighted_loss(self.segmenter.head, self._forward(images, rngs), targets, rngs)


def item_counts(head: Head, targets: Sequence[Targets]) -> dict[str, float]:
    """Number of items by loss term; key "" is for terms that average over images."""
    return {"": float(len(targets)), **head.loss_counts(targets)}


def _weighted_loss(
    head: Head, output: HeadOutput, targets: Sequence[Targets], rngs: ImageGenerators
) -> dict[str, Tensor]:
    """Join the losses of images of one weight by their shares of the items."""
    groups: dict[float, list[int]] = defaultdict(list)
    for index, target in enumerate(targets):
        groups[target.weight].append(index)
    if len(groups) == 1:
        return {name: targets[0].weight * term for name, term in head.loss(output, targets, generator=rngs).items()}
    whole = item_counts(head, targets)
    terms: dict[str, Tensor] = {}
    for weight, members in groups.items():
        part = [targets[index] for index in members]
        counts = item_counts(head, part)
        for name, term in _group_loss(head, output, members, part, rngs).items():
            key = name if name in counts else ""
            share = counts[key] / whole[key] if whole[key] else 0.0
            terms[name] = terms.get(name, 0.0) + weight * share * term
    return terms


def _group_loss(
    head: Head, output: HeadOutput, members: Sequence[int], targets: Sequence[Targets], rngs: ImageGenerators
) -> dict[str, Tensor]:
    try:
        return head.loss(output.images(members), targets, generator=rngs.of(members))
    except NonFiniteError as error:
        raise NonFiniteError(f"{error} (counted among the images {list(members)}, which have one weight)") from error


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
