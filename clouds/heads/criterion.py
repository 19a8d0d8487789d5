"""Mask classification loss with deep supervision (Cheng et al., Mask2Former, CVPR 2022, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, final

import torch
from attrs import evolve, frozen
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from clouds.core.contract.records import HeadOutput, Targets
from clouds.core.system.errors import NonFiniteError
from clouds.heads.matcher import Joined, Pairs, bind, join, match, merge_classes
from clouds.heads.points import FixedPoints, PointSource, RandomPoints
from clouds.kernels.point_sample import point_sample


@frozen(kw_only=True)
class Weights:
    """Weights of the loss terms; `no_object` is the weight of the "no object" class in the class term."""

    class_: float
    mask: float
    dice: float
    no_object: float


@final
class Criterion(nn.Module):
    """Pairs each layer's predictions with the targets, then computes class loss and mask losses at sampled points.

    Everything runs in float32, whatever the model's precision.

    Args:
        weights: weights of the loss terms.
        points: points per mask.
        ignored: treatment of ignored and padded pixels (`Targets.valid` is False). "exclude" drops them from costs and
            mask losses; "negative" counts them as outside every mask, as in the published code.
        pairs: "cheapest" matches queries and targets at the least cost; "class" pairs query k with the pixels of class
            k, the union of its targets.
    """

    def __init__(
        self,
        *,
        weights: Weights,
        points: int,
        ignored: Literal["exclude", "negative"],
        pairs: Literal["cheapest", "class"] = "cheapest",
    ) -> None:
        super().__init__()
        self.weights = weights
        self.points = points
        self.ignored = ignored
        self.by_class = pairs == "class"

    def forward(
        self,
        output: HeadOutput,
        targets: Sequence[Targets],
        *,
        points: Float[Tensor, "b p 2"] | PointSource | None = None,
        rng: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Weighted terms `class`, `mask` and `dice` of the last layer; earlier layers append `_NUMBER` to the names."""
        if len(targets) != len(output.mask_logits):
            raise ValueError(
                f"loss: {len(targets)} targets for a batch of {len(output.mask_logits)} images; one for each"
            )
        # Targets of the batch as one record
        wanted = join([target.to(output.mask_logits.device) for target in self._paired(targets)])
        if self.ignored == "negative":
            wanted = evolve(wanted, valid=torch.ones_like(wanted.valid))
        # Predictions by layer number; the final one comes first
        last = len(output.auxiliary)
        layers = {last: output, **dict(enumerate(output.auxiliary))}
        # Sample locations: drawn here unless the caller fixes them
        if points is None:
            masks = [min(output.mask_logits.shape[1], count) for count in wanted.counts]
            device = output.mask_logits.device
            points = RandomPoints.draw(self.points, rng, layers=list(layers), masks=masks, device=device)
        elif isinstance(points, Tensor):
            points = FixedPoints(points)
        # Pair all layers at once, then compute the loss terms layer by layer, in float32
        terms: dict[str, Tensor] = {}
        with torch.autocast(output.mask_logits.device.type, enabled=False):
            if self.by_class:
                pairs = dict.fromkeys(layers, bind(wanted))
            else:
                pairs = match(layers, wanted, points, (self.weights.class_, self.weights.mask, self.weights.dice))
            for index, layer in layers.items():
                suffix = "" if index == last else f"_{index}"
                found = self._layer_terms(index, layer, wanted, pairs[index], points)
                terms.update({f"{name}{suffix}": term for name, term in found.items()})
        _check_finite(terms, layers.values())
        return terms

    def counts(self, targets: Sequence[Targets], *, queries: int, layers: int) -> dict[str, float]:
        """Denominator of each term: weighted queries for `class`, target masks for the others. See `Head.loss_counts`.

        Args:
            targets: targets of a batch.
            queries: queries per image.
            layers: number of earlier layers with auxiliary losses.
        """
        targets = self._paired(targets)
        masks = sum(len(target.labels) for target in targets)
        matched = sum(min(queries, len(target.labels)) for target in targets)
        weight = matched + self.weights.no_object * (queries * len(targets) - matched)
        suffixes = ["", *(f"_{layer}" for layer in range(layers))]
        return {
            f"{name}{suffix}": float(count)
            for suffix in suffixes
            for name, count in (("class", weight), ("mask", masks), ("dice", masks))
        }

    def _paired(self, targets: Sequence[Targets]) -> list[Targets]:
        """The targets that queries are paired with."""
        return [merge_classes(target) if self.by_class else target for target in targets]

    def _layer_terms(
        self, layer: int, output: HeadOutput, wanted: Joined, pairs: Pairs, points: PointSource
    ) -> dict[str, Tensor]:
        class_term = self._class_loss(output.class_logits.float(), wanted, pairs)
        mask_term, dice_term = _mask_losses(layer, output.mask_logits, wanted, pairs, points)
        return {
            "class": self.weights.class_ * class_term,
            "mask": self.weights.mask * mask_term,
            "dice": self.weights.dice * dice_term,
        }

    def _class_loss(self, class_logits: Float[Tensor, "b q k1"], wanted: Joined, pairs: Pairs) -> Tensor:
        # Target class per query "b q": "no object" unless matched
        no_object = class_logits.shape[-1] - 1
        classes = torch.full(class_logits.shape[:2], no_object, device=class_logits.device)
        classes[pairs.images, pairs.queries] = wanted.labels[pairs.targets]
        # Class weights "k1"; cross entropy is averaged by weight
        weight = class_logits.new_ones(no_object + 1)
        weight[-1] = self.weights.no_object
        return functional.cross_entropy(class_logits.flatten(0, 1), classes.flatten(), weight)


def _mask_losses(
    layer: int, mask_logits: Float[Tensor, "b q h w"], wanted: Joined, pairs: Pairs, points: PointSource
) -> tuple[Tensor, Tensor]:
    """Binary cross entropy and dice loss of the matched masks, averaged over targets."""
    # Without pairs the terms are 0, but keep their gradient
    if not sum(pairs.counts):
        nothing = mask_logits.sum(dtype=torch.float32) * 0
        return nothing, nothing
    # Mask logits of the matched queries "n h w"
    logits = mask_logits[pairs.images, pairs.queries]
    # Sample locations "n p 2", target masks "n p" and point validity "n p"
    with torch.no_grad():
        places = points.loss(layer, logits, pairs.images).to(logits.device, torch.float32)
        inside = point_sample(wanted.masks[pairs.targets][:, None], places)[:, 0]
        counted = _sample_valid(wanted.valid, places.split(pairs.counts))
    # Predicted logits at the points "n p"
    values = point_sample(logits[:, None], places)[:, 0]
    # Binary cross entropy per mask "n", averaged over valid points
    per_point = functional.binary_cross_entropy_with_logits(values, inside, reduction="none") * counted
    mask_terms = per_point.sum(1) / counted.sum(1).clamp(min=1)
    # Dice loss per mask "n" over valid points, smoothed by 1
    probability, inside = values.sigmoid() * counted, inside * counted
    dice_terms = 1 - (2 * (probability * inside).sum(1) + 1) / (probability.sum(1) + inside.sum(1) + 1)
    return mask_terms.sum() / len(wanted.labels), dice_terms.sum() / len(wanted.labels)


def _check_finite(terms: Mapping[str, Tensor], layers: Iterable[HeadOutput]) -> None:
    finite = torch.stack(list(terms.values())).isfinite().tolist()
    bad = [name for name, good in zip(terms, finite, strict=True) if not good]
    if bad:
        broken = [
            ~(layer.class_logits.isfinite().flatten(1).all(1) & layer.mask_logits.isfinite().flatten(1).all(1))
            for layer in layers
        ]
        images = torch.stack(broken).any(0).nonzero().flatten().tolist()
        raise NonFiniteError(
            f"loss terms {bad} are not finite: the network's output for images {images} of the batch is NaN or "
            "infinite; look at those images, the learning rate and the precision"
        )


def _sample_valid(valid: Tensor, places: Sequence[Float[Tensor, "_ p 2"]]) -> Float[Tensor, "_ p"]:
    """1 at points on valid pixels, else 0; each image's map is sampled once, at the points of all its masks."""
    parts = [
        point_sample(one[None, None], points.reshape(1, -1, 2)).view(points.shape[:2])
        for one, points in zip(valid, places, strict=True)
        if len(points)
    ]
    return (torch.cat(parts) > 0.5).float()
