"""Mask classification loss with deep supervision (Cheng et al., Mask2Former, CVPR 2022, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

import torch
from attrs import evolve, frozen
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from clouds.core.errors import NonFiniteError
from clouds.core.interfaces import HeadOutput, Targets
from clouds.heads.matcher import assign, matching_cost
from clouds.heads.points import FixedPoints, PointSource, RandomPoints, sample


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

    All of it in float32, whatever the model runs in.

    Args:
        weights: of the terms.
        points: points per mask.
        ignored: what ignored and padded pixels (`Targets.valid` is False) are. With "exclude" they count neither in
            costs nor in mask losses; with "negative" they lie outside of every mask, as in the published code.
    """

    def __init__(self, *, weights: Weights, points: int, ignored: Literal["exclude", "negative"]) -> None:
        super().__init__()
        self.weights = weights
        self.points = points
        self.ignored = ignored

    def forward(
        self,
        output: HeadOutput,
        targets: Sequence[Targets],
        *,
        points: Float[Tensor, "b p 2"] | PointSource | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Weighted terms `class`, `mask`, `dice` of the last layer, and of each earlier one with its number behind."""
        if len(targets) != len(output.mask_logits):
            raise ValueError(
                f"loss: {len(targets)} targets for a batch of {len(output.mask_logits)} images; one for each"
            )
        targets = [self._counted(target.to(output.mask_logits.device)) for target in targets]
        if points is None:
            points = RandomPoints(self.points, generator)
        elif isinstance(points, Tensor):
            points = FixedPoints(points)
        layers = [_in_float32(layer) for layer in (*output.auxiliary, output)]
        *earlier, last = range(len(layers))
        terms: dict[str, Tensor] = {}
        with torch.autocast(output.mask_logits.device.type, enabled=False):
            for index in (last, *earlier):
                suffix = "" if index == last else f"_{index}"
                found = self._layer(index, layers[index], targets, points)
                terms.update({f"{name}{suffix}": term for name, term in found.items()})
        bad = [name for name, term in terms.items() if not term.isfinite()]
        if bad:
            images = [image for image in range(len(targets)) if any(_is_broken(layer, image) for layer in layers)]
            raise NonFiniteError(
                f"loss terms {bad} are not finite: the network's output for images {images} of the batch is NaN or "
                "infinite; look at those images, the learning rate and the precision"
            )
        return terms

    def counts(self, targets: Sequence[Targets], *, queries: int, layers: int) -> dict[str, float]:
        """What the terms are means over: queries by weight, and target masks. See `Head.loss_counts`.

        Args:
            targets: of a batch.
            queries: of each image.
            layers: earlier layers that have a loss of their own.
        """
        masks = sum(len(target.labels) for target in targets)
        matched = sum(min(queries, len(target.labels)) for target in targets)
        weight = matched + self.weights.no_object * (queries * len(targets) - matched)
        suffixes = ["", *(f"_{layer}" for layer in range(layers))]
        return {
            f"{name}{suffix}": float(count)
            for suffix in suffixes
            for name, count in (("class", weight), ("mask", masks), ("dice", masks))
        }

    def _counted(self, target: Targets) -> Targets:
        return evolve(target, valid=torch.ones_like(target.valid)) if self.ignored == "negative" else target

    def _layer(
        self, layer: int, output: HeadOutput, targets: Sequence[Targets], points: PointSource
    ) -> dict[str, Tensor]:
        pairs = [
            self.match(output, target, points.matching(layer, image, output.mask_logits[image]), image)
            for image, target in enumerate(targets)
        ]
        class_term = self._class_loss(output.class_logits, targets, pairs)
        mask_term, dice_term = self._mask_losses(layer, output.mask_logits, targets, pairs, points)
        return {
            "class": self.weights.class_ * class_term,
            "mask": self.weights.mask * mask_term,
            "dice": self.weights.dice * dice_term,
        }

    @torch.no_grad()
    def match(
        self, output: HeadOutput, target: Targets, points: Float[Tensor, "p 2"], image: int
    ) -> tuple[Tensor, Tensor]:
        """Query and target indices of the cheapest pairs for one image of the batch, compared at `points`."""
        maps = torch.cat((target.masks, target.valid[None])).float()
        at_points = sample(maps[None], points[None])[0]
        cost = matching_cost(
            output.class_logits[image],
            target.labels,
            sample(output.mask_logits[image][None], points[None])[0],
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
        layer: int,
        mask_logits: Float[Tensor, "b q h w"],
        targets: Sequence[Targets],
        pairs: list[tuple[Tensor, Tensor]],
        points: PointSource,
    ) -> tuple[Tensor, Tensor]:
        counts = [len(queries) for queries, _ in pairs]
        if not sum(counts):
            return mask_logits.sum() * 0, mask_logits.sum() * 0
        logits = torch.cat([mask_logits[index, queries] for index, (queries, _) in enumerate(pairs)])
        owner = torch.repeat_interleave(torch.tensor(counts)).to(logits.device)
        with torch.no_grad():
            places = points.loss(layer, logits, owner)
            masks = torch.cat([targets[i].masks[chosen] for i, (_, chosen) in enumerate(pairs)])
            wanted = sample(masks[:, None].float(), places)[:, 0]
            counted = _counted(targets, places.split(counts))
        values = sample(logits[:, None], places)[:, 0]
        per_point = functional.binary_cross_entropy_with_logits(values, wanted, reduction="none") * counted
        mask_terms = per_point.sum(1) / counted.sum(1).clamp(min=1)
        probability, wanted = values.sigmoid() * counted, wanted * counted
        dice_terms = 1 - (2 * (probability * wanted).sum(1) + 1) / (probability.sum(1) + wanted.sum(1) + 1)
        count = sum(len(target.labels) for target in targets)
        return mask_terms.sum() / count, dice_terms.sum() / count


def _in_float32(output: HeadOutput) -> HeadOutput:
    return HeadOutput(class_logits=output.class_logits.float(), mask_logits=output.mask_logits.float())


def _is_broken(output: HeadOutput, image: int) -> bool:
    return not (output.class_logits[image].isfinite().all() and output.mask_logits[image].isfinite().all())


def _counted(targets: Sequence[Targets], places: Sequence[Float[Tensor, "_ p 2"]]) -> Float[Tensor, "_ p"]:
    """1 at points on valid pixels, 0 elsewhere; each image's map is sampled once for the points of all its masks."""
    parts = [
        sample(target.valid[None, None].float(), points.reshape(1, -1, 2)).view(points.shape[:2])
        for target, points in zip(targets, places, strict=True)
        if len(points)
    ]
    return (torch.cat(parts) > 0.5).float()
