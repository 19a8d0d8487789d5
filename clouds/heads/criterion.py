"""Mask classification loss with deep supervision (Cheng et al., Mask2Former, CVPR 2022, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from attrs import frozen
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from clouds.core.errors import NonFiniteError
from clouds.core.interfaces import HeadOutput, Targets
from clouds.heads import points as point_sampling
from clouds.heads.matcher import assign, matching_cost


@frozen(kw_only=True)
class Weights:
    """Weights of the loss terms; `no_object` weighs that class within the class term."""

    class_: float
    mask: float
    dice: float
    no_object: float


@final
class Criterion(nn.Module):
    """Matches each layer's predictions with the targets, then compares classes, and masks at sampled points.

    Ignored and padded pixels (`Targets.valid` is False) count neither in costs nor in mask losses.

    Args:
        weights: of the terms.
        points: points per mask.
    """

    def __init__(self, *, weights: Weights, points: int) -> None:
        super().__init__()
        self.weights = weights
        self.points = points

    def forward(
        self,
        output: HeadOutput,
        targets: Sequence[Targets],
        *,
        points: Float[Tensor, "b p 2"] | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Weighted terms `class`, `mask`, `dice` of the last layer, and of each earlier one with its number behind."""
        targets = [target.to(output.mask_logits.device) for target in targets]
        terms = self._layer(output, targets, points, generator)
        for index, layer in enumerate(output.auxiliary):
            earlier = self._layer(layer, targets, points, generator)
            terms.update({f"{name}_{index}": term for name, term in earlier.items()})
        bad = [name for name, term in terms.items() if not term.isfinite()]
        if bad:
            raise NonFiniteError(f"loss terms {bad} are not finite; look at the learning rate and the precision")
        return terms

    def _layer(
        self,
        output: HeadOutput,
        targets: Sequence[Targets],
        points: Tensor | None,
        generator: torch.Generator | None,
    ) -> dict[str, Tensor]:
        compared = points
        if compared is None:
            compared = point_sampling.uniform(len(targets), self.points, output.mask_logits, generator)
        pairs = [self._match(output, target, compared[index], index) for index, target in enumerate(targets)]
        class_term = self._class_loss(output.class_logits.float(), targets, pairs)
        mask_term, dice_term = self._mask_losses(output.mask_logits.float(), targets, pairs, points, generator)
        return {
            "class": self.weights.class_ * class_term,
            "mask": self.weights.mask * mask_term,
            "dice": self.weights.dice * dice_term,
        }

    @torch.no_grad()
    def _match(
        self, output: HeadOutput, target: Targets, points: Float[Tensor, "p 2"], image: int
    ) -> tuple[Tensor, Tensor]:
        mask_logits = output.mask_logits[image].float()
        maps = torch.cat((target.masks, target.valid[None])).float()
        at_points = point_sampling.sample(maps[None], points[None])[0]
        cost = matching_cost(
            output.class_logits[image],
            target.labels,
            point_sampling.sample(mask_logits[None], points[None])[0],
            at_points[:-1],
            (at_points[-1] > 0.5).float(),
            (self.weights.class_, self.weights.mask, self.weights.dice),
        )
        return assign(cost, image=image)

    def _class_loss(
        self, class_logits: Float[Tensor, "b q k1"], targets: Sequence[Targets], pairs: list[tuple[Tensor, Tensor]]
    ) -> Tensor:
        no_object = class_logits.shape[-1] - 1
        classes = torch.full(class_logits.shape[:2], no_object, device=class_logits.device)
        for index, (queries, chosen) in enumerate(pairs):
            classes[index, queries] = targets[index].labels[chosen]
        weight = class_logits.new_ones(no_object + 1)
        weight[-1] = self.weights.no_object
        return functional.cross_entropy(class_logits.flatten(0, 1), classes.flatten(), weight)

    def _mask_losses(
        self,
        mask_logits: Float[Tensor, "b q h w"],
        targets: Sequence[Targets],
        pairs: list[tuple[Tensor, Tensor]],
        points: Tensor | None,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        counts = [len(queries) for queries, _ in pairs]
        if not sum(counts):
            return mask_logits.sum() * 0, mask_logits.sum() * 0
        logits = torch.cat([mask_logits[index, queries] for index, (queries, _) in enumerate(pairs)])
        owner = torch.repeat_interleave(torch.tensor(counts)).to(logits.device)
        with torch.no_grad():
            places = point_sampling.uncertain(logits, self.points, generator) if points is None else points[owner]
            masks = torch.cat([targets[i].masks[chosen] for i, (_, chosen) in enumerate(pairs)])
            wanted = point_sampling.sample(masks[:, None].float(), places)[:, 0]
            counted = _counted(targets, places.split(counts))
        values = point_sampling.sample(logits[:, None], places)[:, 0]
        per_point = functional.binary_cross_entropy_with_logits(values, wanted, reduction="none") * counted
        mask_term = (per_point.sum(1) / counted.sum(1).clamp(min=1)).sum() / len(logits)
        probability, wanted = values.sigmoid() * counted, wanted * counted
        dice = 1 - (2 * (probability * wanted).sum(1) + 1) / (probability.sum(1) + wanted.sum(1) + 1)
        return mask_term, dice.sum() / len(logits)


def _counted(targets: Sequence[Targets], places: Sequence[Float[Tensor, "_ p 2"]]) -> Float[Tensor, "_ p"]:
    """1 at points on valid pixels, 0 elsewhere; each image's map is sampled once for the points of all its masks."""
    parts = [
        point_sampling.sample(target.valid[None, None].float(), points.reshape(1, -1, 2)).view(points.shape[:2])
        for target, points in zip(targets, places, strict=True)
        if len(points)
    ]
    return (torch.cat(parts) > 0.5).float()
