"""The contract of `Head.loss`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from attrs import evolve
from torch import Tensor

from clouds.core.contract.interfaces import Head
from clouds.core.contract.records import HeadOutput, Targets
from clouds.testing.contract import BATCH_TOLERANCE, require, require_tensor, violation

_GUARD = 16  # pixels; more than the reach of masks at quarter size or of interpolated points


def check_loss(head: Head, output: HeadOutput, size: tuple[int, int], classes: int) -> None:
    """Check the loss of a batch of two.

    Args:
        head: a head in eval mode, so that only the points are random.
        output: its output for a batch of two, with gradients.
        size: (height, width) of the network's input.
        classes: size of the label space.
    """
    maps = torch.randint(0, classes, (2, size[0] // 16, size[1] // 16), generator=torch.Generator().manual_seed(1))
    label_maps = maps.repeat_interleave(16, 1).repeat_interleave(16, 2).to(torch.uint8)
    label_maps[1, :, 32:] = 0  # fewer masks than the first image
    usual = [Targets.from_label_map(label_map) for label_map in label_maps]
    ignored = torch.full(size, 255, dtype=torch.uint8)
    empty = evolve(Targets.from_label_map(ignored), valid=torch.ones(size, dtype=torch.bool))
    overlapping = evolve(usual[0], masks=usual[0].masks | usual[0].masks.roll(24, dims=-1))
    cases = {
        "two images with different numbers of masks": usual,
        "an image whose masks overlap": [overlapping, usual[1]],
        "an image without masks": [usual[0], empty],
        "no image with a mask": [empty, empty],
        "an image that is ignored altogether": [usual[0], Targets.from_label_map(ignored)],
        "nothing but ignored pixels": [Targets.from_label_map(ignored)] * 2,
    }
    for name, targets in cases.items():
        _check_terms(head, _loss(head, output, targets), name)
    _check_gradients(head, output, usual)
    _check_randomness(head, output, usual)
    _check_ignored(head, output, label_maps)
    _check_parts(head, output, usual)


def _loss(head: Head, output: HeadOutput, targets: Sequence[Targets]) -> Any:
    return head.loss(output, targets, generator=torch.Generator().manual_seed(2))


def _total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def _check_terms(head: Head, terms: object, case: str) -> None:
    if not (isinstance(terms, dict) and terms and all(isinstance(name, str) for name in terms)):
        raise violation(
            head,
            f"the loss of {case} must be a dict of named terms, at least one",
            got=repr(terms),
            remedy='return {"name": scalar, ...}',
        )
    for name, term in terms.items():
        require_tensor(term, head, f"loss term {name!r} of {case}", shape=())


def _check_gradients(head: Head, output: HeadOutput, targets: Sequence[Targets]) -> None:
    total = _total(_loss(head, output, targets))
    require(
        total.requires_grad,
        head,
        "the loss must be differentiable",
        got="requires_grad=False",
        remedy="do not detach the output, and do not compute the loss under no_grad",
    )
    parameters = {name: p for name, p in head.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(total, list(parameters.values()), retain_graph=True, allow_unused=True)
    gradients = {name: g for name, g in zip(parameters, found, strict=True) if g is not None}
    bad = [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()]
    require(not bad, head, "gradients must be finite", got=f"nan or inf for {bad[:5]}", remedy="compute in log space")
    moved = any(bool(gradient.any()) for gradient in gradients.values())
    require(
        moved,
        head,
        "the loss must have a gradient for the parameters of the head",
        got="none, or only zeros",
        remedy="compute the terms from the output",
    )


def _check_randomness(head: Head, output: HeadOutput, targets: Sequence[Targets]) -> None:
    first, second = (_loss(head, output, targets) for _ in range(2))
    same = first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    require(
        same,
        head,
        "the same output, targets and generator seed must give the same loss",
        got="two different losses",
        remedy="draw from `generator`, never from global state",
    )
    points = torch.rand(len(targets), 50, 2, generator=torch.Generator().manual_seed(3))
    given = [_total(head.loss(output, targets, points=points)) for _ in range(2)]
    require(
        torch.equal(*given),
        head,
        "the loss at given `points` must need no random choice",
        got="two different losses",
        remedy="compare masks at `points` when they are given",
    )


def _check_ignored(head: Head, output: HeadOutput, label_maps: Tensor) -> None:
    """Check that targets and predictions in an ignored half have no influence."""
    middle = label_maps.shape[-1] // 2
    targets = [Targets.from_label_map(label_map) for label_map in label_maps]
    for target in targets:
        target.valid[:, middle:] = False
    changed = [evolve(target, masks=target.masks.clone()) for target in targets]
    for target in changed:
        target.masks[..., middle + _GUARD :] ^= True
    leaf = evolve(output, mask_logits=output.mask_logits.detach().requires_grad_(), auxiliary=())
    total, other = _total(_loss(head, leaf, targets)), _total(_loss(head, leaf, changed))
    require(
        torch.equal(total, other),
        head,
        "targets at ignored pixels must not influence the loss",
        got=f"{float(total.detach()):.7g} and {float(other.detach()):.7g}",
        remedy="exclude pixels outside `Targets.valid`, in matching costs and in the loss",
    )
    (gradient,) = torch.autograd.grad(total, [leaf.mask_logits], allow_unused=True)
    outside = torch.zeros(()) if gradient is None else gradient[..., (middle + _GUARD) // 4 :].abs().max()
    require(
        float(outside) == 0,
        head,
        "predictions at ignored pixels must have no gradient: they are neither inside nor outside of a mask",
        got=f"up to {float(outside):.3g}",
        remedy="weight each pixel or point by `Targets.valid`",
    )


@torch.no_grad()
def _check_parts(head: Head, output: HeadOutput, targets: Sequence[Targets]) -> None:
    """Check that the losses of two parts, joined by `loss_counts`, are the loss of the whole batch.

    Training relies on it wherever it splits a batch: over processes, in gradient accumulation, by weights of images.
    The second image has larger logits in one comparison and smaller ones in another, so that the parts differ in their
    losses as well as in their counts. In a single comparison, the losses may be equal by chance.
    """
    for factor in (4.0, 0.25):
        _check_two_parts(head, _second_scaled(output, factor), targets)


def _check_two_parts(head: Head, output: HeadOutput, targets: Sequence[Targets]) -> None:
    points = torch.rand(2, 50, 2, generator=torch.Generator().manual_seed(4))
    first, second = targets[0], evolve(targets[1], valid=targets[1].valid.clone())
    second.valid[:, second.valid.shape[1] // 3 :] = False  # parts of different weight, whatever the terms average over
    whole = head.loss(output, [first, second], points=points)
    parts = [
        head.loss(output.images([index]), [target], points=points[index : index + 1])
        for index, target in enumerate((first, second))
    ]
    for part in parts:
        require(
            part.keys() == whole.keys(),
            head,
            "the loss of a part must have the terms of the whole batch",
            got=f"{sorted(part)} for a part and {sorted(whole)} for the batch",
            remedy="return every term for any number of images, 0 where nothing counts",
        )
    counts = _part_counts(head, [first, second])
    for name, term in whole.items():
        weights = [count.get(name, 1.0) for count in counts]
        joined = sum(weight * float(part[name]) for weight, part in zip(weights, parts, strict=True)) / sum(weights)
        require(
            abs(joined - float(term)) <= BATCH_TOLERANCE * abs(float(term)),
            head,
            f"loss term {name!r} of a batch must be the mean of its parts' terms, weighted by `loss_counts`",
            got=f"{joined:.7g} from the parts and {float(term):.7g} from the batch",
            remedy="return the number of items that the term averages over from `loss_counts`: pixels, masks, queries",
        )


def _part_counts(head: Head, targets: Sequence[Targets]) -> list[Mapping[str, float]]:
    """`loss_counts` of each image. Checks that they add up to those of the batch."""
    counts, together = [head.loss_counts([target]) for target in targets], head.loss_counts(targets)
    sums = {name: sum(count.get(name, 0.0) for count in counts) for name in {*counts[0], *counts[1]}}
    require(
        together == sums,
        head,
        "`loss_counts` of a batch must be the sums of its parts' counts",
        got=f"{together} for the batch and {sums} for its parts",
        remedy="count the items; do not divide by the number of images",
    )
    return counts


def _second_scaled(output: HeadOutput, factor: float) -> HeadOutput:
    factors = torch.tensor([1.0, factor]).to(output.mask_logits)[:, None, None]
    return evolve(
        output,
        class_logits=output.class_logits * factors,
        mask_logits=output.mask_logits * factors[..., None],
        auxiliary=tuple(_second_scaled(one, factor) for one in output.auxiliary),
    )
