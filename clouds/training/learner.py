"""The student as one module from images to loss terms, for distributed training."""

# pyright: reportUnknownMemberType=false
# (torch has incomplete types)

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import cast, final

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from clouds.core.contract.interfaces import Head, ImageGenerators
from clouds.core.contract.losses import LossInputs, LossTerm
from clouds.core.contract.records import HeadOutput, Targets
from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.pipeline.segmenter import first_call
from clouds.core.system.errors import ConfigError, NonFiniteError
from clouds.core.system.processes import Processes

_NO_TERMS: Mapping[str, LossTerm] = MappingProxyType({})


@final
class Learner(nn.Module):
    """Backbone, head and loss of a pipeline; it shares the pipeline's modules.

    Args:
        pipeline: the student.
        terms: further loss terms, by name.
        channels_last: use the channels-last memory format for convolutions.
    """

    def __init__(
        self, pipeline: Pipeline, terms: Mapping[str, LossTerm] = _NO_TERMS, *, channels_last: bool = False
    ) -> None:
        super().__init__()
        self.segmenter = pipeline.segmenter
        self.terms = nn.ModuleDict(terms)
        self._forward = pipeline.forward
        if channels_last:
            self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(
        self, images: Sequence[UInt8[Tensor, "3 _ _"]], targets: Sequence[Targets], rngs: ImageGenerators
    ) -> dict[str, Tensor]:
        """The head's loss terms for a batch and the further ones, with the weights of its images.

        A term is a mean over items: pixels, masks, queries or images. The loss of each item is multiplied by the weight
        of its image; the sum is divided by the number of all items, whatever their weights.
        """
        head = self.segmenter.head
        if not self.terms:
            return _weighted_loss(head, self._forward(images, rngs), targets, rngs)
        with first_call(self.segmenter.backbone) as calls:
            output = self._forward(images, rngs)
        found = _weighted_loss(head, output, targets, rngs)
        inputs = LossInputs(images=calls[0][0], features=calls[0][1], output=output, targets=targets)
        for name, term in self.terms.items():
            if name in found:
                raise ConfigError(f"loss.terms: {name!r} is also a loss term of {type(head).__name__}; rename it")
            found[name] = _mean(name, cast("LossTerm", term), inputs)
        return found


def item_counts(head: Head, targets: Sequence[Targets], terms: Mapping[str, LossTerm] = _NO_TERMS) -> dict[str, float]:
    """Number of items by loss term; key "" is for terms of the head that average over images."""
    own = {name: sum(map(term.items, targets)) for name, term in terms.items()}
    return {"": float(len(targets)), **head.loss_counts(targets), **own}


def _mean(name: str, term: LossTerm, inputs: LossInputs) -> Tensor:
    """The weighted mean of a term over the items of a batch; 0 if there are none."""
    sums = term(inputs)
    if sums.shape != (len(inputs.targets),):
        raise ConfigError(
            f"loss.terms: {name!r} made a tensor {tuple(sums.shape)} for {len(inputs.targets)} images; return one sum "
            "for each image"
        )
    items = sum(map(term.items, inputs.targets))
    weights = sums.new_tensor([target.weight for target in inputs.targets])
    return (weights * sums).sum() / (items or 1.0)


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
