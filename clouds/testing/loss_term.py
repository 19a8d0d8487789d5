"""The contract of loss terms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from attrs import evolve
from torch import Tensor

from clouds.core.contract.component import FeatureSpec
from clouds.core.contract.labels import CITYSCAPES, LabelSpace
from clouds.core.contract.losses import LossInputs, LossTerm
from clouds.core.contract.records import Features, HeadOutput, Targets
from clouds.testing.contract import (
    BATCH_TOLERANCE,
    check_module,
    in_evaluation,
    largest_difference,
    require,
    require_instance,
    require_tensor,
)
from clouds.testing.head import random_features

_HEIGHT, _WIDTH = 64, 96
_QUERIES = 5


def check_loss_term(term: LossTerm, features: Mapping[str, FeatureSpec], *, labels: LabelSpace = CITYSCAPES) -> None:
    """Check a copy of a loss term with random features and predictions of 64 x 96 images.

    - It is one finite sum per image, for normal, empty and ignored targets.
    - An image's sum does not depend on the batch, and nothing is random: runs resume exactly.
    - `items` is a finite number of at least 0.
    - The loss has a gradient, nothing of the term is trained, and its state survives safetensors.

    Args:
        term: what the factory returns.
        features: feature specs of the backbone that the term was built for.
        labels: label space that the term was built for.

    Raises:
        ContractError: a clause is broken.
    """
    require_instance(term, LossTerm, "loss term")
    tested = in_evaluation(term)
    check_module(tested)
    trained = [name for name, one in tested.named_parameters() if one.requires_grad]
    require(
        not trained,
        term,
        "nothing of a loss term is trained: the optimizer has the parameters of backbone, adapter and head alone",
        got=f"trainable parameters {trained}",
        remedy="call requires_grad_(False), or use buffers",
    )
    for name, targets in _cases(len(labels)).items():
        inputs = random_inputs(features, targets, len(labels))
        sums = tested(inputs)
        require_tensor(sums, term, f'the sums "b" of {name}', shape=(2,))
        _check_items(tested, targets, name)
        _check_repeated(tested, inputs, sums, name)
        _check_independence(tested, inputs, sums, name)
    _check_gradient(tested, random_inputs(features, next(iter(_cases(len(labels)).values())), len(labels)))


def random_inputs(features: Mapping[str, FeatureSpec], targets: Sequence[Targets], classes: int) -> LossInputs:
    """Random images, features and predictions for two targets of 64 x 96 pixels."""
    rng = torch.Generator().manual_seed(3)
    made = random_features(features, batch=2, height=_HEIGHT, width=_WIDTH)
    levels = {name: level.requires_grad_() for name, level in made.levels().items()}
    output = HeadOutput(
        class_logits=torch.randn(2, _QUERIES, classes + 1, generator=rng).requires_grad_(),
        mask_logits=torch.randn(2, _QUERIES, _HEIGHT // 4, _WIDTH // 4, generator=rng).requires_grad_(),
    )
    images = 255 * torch.rand(2, 3, _HEIGHT, _WIDTH, generator=rng)
    return LossInputs(images=images, features=Features(**levels), output=output, targets=targets)


def _cases(classes: int) -> dict[str, list[Targets]]:
    rng = torch.Generator().manual_seed(1)
    maps = torch.randint(0, classes, (2, 2, 3), generator=rng)
    first, second = maps.repeat_interleave(32, 1).repeat_interleave(32, 2).to(torch.uint8)
    usual = [Targets.from_label_map(first), Targets.from_label_map(second)]
    ignored = Targets.from_label_map(torch.full_like(first, 255))
    return {
        "two images": usual,
        "an image without masks": [usual[0], evolve(ignored, valid=torch.ones_like(ignored.valid))],
        "an image that is ignored altogether": [usual[0], ignored],
        "pseudo labels": [usual[0], evolve(usual[1], pseudo=True, weight=0.5)],
    }


def _check_items(term: LossTerm, targets: Sequence[Targets], name: str) -> None:
    for target in targets:
        count = term.items(target)
        require(
            isinstance(count, int | float) and math.isfinite(count) and count >= 0,
            term,
            f"the items of {name} must be a finite number of at least 0",
            got=repr(count),
            remedy="count what the sum of an image adds up",
        )


def _check_repeated(term: LossTerm, inputs: LossInputs, sums: Tensor, name: str) -> None:
    torch.rand(1)  # another state of the global generator
    require(
        torch.equal(term(inputs), sums),
        term,
        f"the same inputs must give the same bits, for {name}, or runs do not resume exactly",
        got="other sums",
        remedy="make no random choices and keep no state from call to call",
    )


def _check_independence(term: LossTerm, inputs: LossInputs, sums: Tensor, name: str) -> None:
    for index in range(2):
        levels = {key: level[index : index + 1] for key, level in inputs.features.levels().items()}
        alone = LossInputs(
            images=inputs.images[index : index + 1],
            features=Features(**levels),
            output=inputs.output.image(index),
            targets=[inputs.targets[index]],
        )
        found = largest_difference(term(alone), sums[index : index + 1])
        require(
            found <= BATCH_TOLERANCE,
            term,
            f"the sum of an image must not depend on the batch, within {BATCH_TOLERANCE} relative, for {name}",
            got=f"a difference of {found:.3g}",
            remedy='return one sum per image, "b"; training divides by the items of the whole batch',
        )


def _check_gradient(term: LossTerm, inputs: LossInputs) -> None:
    total = term(inputs).sum()
    leaves = [*inputs.features.levels().values(), inputs.output.class_logits, inputs.output.mask_logits]
    found = torch.autograd.grad(total, leaves, allow_unused=True) if total.requires_grad else ()
    require(
        any(one is not None for one in found),
        term,
        "the sums must have a gradient with respect to features or predictions",
        got="none",
        remedy="do not detach them, and do not compute the term under no_grad",
    )
