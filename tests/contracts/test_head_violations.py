"""`check_head` fails on a head that breaks one clause, and says which."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor, nn
from torch.nn import functional

from clouds import Features, FeatureSpec, Head, HeadOutput, LabelSpace, Targets
from clouds.testing import ContractError, check_head

SPECS = {f"res{i}": FeatureSpec(channels=4, stride=2**i) for i in range(2, 6)}
LABELS = LabelSpace.from_names(["road", "sky", "car"])
CLASSES = len(LABELS)


class Good(Head):
    """One mask per class from res2; the loss compares each mask with its class at random points of valid pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.masks = nn.Conv2d(4, CLASSES, 1)
        self.classes = nn.Parameter(torch.eye(CLASSES, CLASSES + 1) * 5)

    def forward(self, features: Features, classifier: object = None) -> HeadOutput:
        masks = self.masks(features.res2)
        return HeadOutput(class_logits=self.classes.expand(len(masks), -1, -1), mask_logits=masks)

    def loss(
        self,
        output: HeadOutput,
        targets: Sequence[Targets],
        *,
        points: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        if points is None:
            points = torch.rand(len(targets), 20, 2, generator=generator)
        terms = [
            self.image_loss(logits, target, at)
            for logits, target, at in zip(output.mask_logits, targets, points, strict=True)
        ]
        return {"mask": torch.stack(terms).mean()}

    def image_loss(self, logits: Tensor, target: Targets, points: Tensor) -> Tensor:
        height, width = target.valid.shape
        x, y = (points[:, 0] * width).long(), (points[:, 1] * height).long()
        wanted = torch.zeros(CLASSES, len(points))
        for label, mask in zip(target.labels, target.masks, strict=True):
            wanted[label] = mask[y, x].float()
        each = functional.binary_cross_entropy_with_logits(logits[:, y // 4, x // 4], wanted, reduction="none")
        weight = target.valid[y, x].float()
        return (each.mean(0) * weight).sum() / weight.sum().clamp(min=1)

    def segment(
        self, output: HeadOutput, valid_size: tuple[int, int], size: tuple[int, int], *, scores: bool = False
    ) -> Tensor:
        height, width = valid_size
        merged = self.merge(output)[None]
        merged = functional.interpolate(merged, scale_factor=4, mode="bilinear")[..., :height, :width]
        merged = functional.interpolate(merged, size, mode="bilinear")[0]
        return merged if scores else merged.argmax(0).to(torch.uint8)

    def merge(self, output: HeadOutput) -> Tensor:
        classes = output.class_logits[0].softmax(-1)[:, :-1]
        return torch.einsum("qk,qhw->khw", classes, output.mask_logits[0].sigmoid())


class NotOutput(Good):
    def forward(self, features: Features, classifier: object = None) -> Any:
        return super().forward(features).mask_logits


class NoVoidClass(Good):
    def forward(self, features: Features, classifier: object = None) -> HeadOutput:
        output = super().forward(features)
        return evolve(output, class_logits=output.class_logits[..., :-1])


class FullSizeMasks(Good):
    def forward(self, features: Features, classifier: object = None) -> HeadOutput:
        output = super().forward(features)
        return evolve(output, mask_logits=functional.interpolate(output.mask_logits, scale_factor=4))


class BadAuxiliary(Good):
    def forward(self, features: Features, classifier: object = None) -> HeadOutput:
        output = super().forward(features)
        return evolve(output, auxiliary=(evolve(output, mask_logits=output.mask_logits / 0),))


class BatchDependent(Good):
    def forward(self, features: Features, classifier: object = None) -> HeadOutput:
        output = super().forward(features)
        return evolve(output, mask_logits=output.mask_logits + output.mask_logits.mean(0))


class NotADict(Good):
    def loss(self, *args: Any, **options: Any) -> Any:
        return super().loss(*args, **options)["mask"]


class NotAScalar(Good):
    def loss(self, *args: Any, **options: Any) -> Any:
        return {"mask": super().loss(*args, **options)["mask"][None]}


class NanWithoutMasks(Good):
    def image_loss(self, logits: Tensor, target: Targets, points: Tensor) -> Tensor:
        return super().image_loss(logits, target, points) * len(target.labels) / len(target.labels)


class NanWhenIgnored(Good):
    def image_loss(self, logits: Tensor, target: Targets, points: Tensor) -> Tensor:
        return super().image_loss(logits, target, points) + 0 / target.valid.sum()


class Detached(Good):
    def loss(self, *args: Any, **options: Any) -> Any:
        return {"mask": super().loss(*args, **options)["mask"].detach()}


class NanGradient(Good):
    def loss(self, *args: Any, **options: Any) -> Any:
        return {"mask": super().loss(*args, **options)["mask"] + (self.masks.weight * 0).norm() ** 0.5}


class Indifferent(Good):
    def loss(self, *args: Any, **options: Any) -> Any:
        return {"mask": super().loss(*args, **options)["mask"] * 0 + 1}


class GlobalRandomness(Good):
    def loss(self, *args: Any, generator: object = None, **options: Any) -> Any:
        return super().loss(*args, **options)


class PointsUnused(Good):
    def loss(self, *args: Any, points: object = None, **options: Any) -> Any:
        return super().loss(*args, **options)


class TargetsAtIgnored(Good):
    def image_loss(self, logits: Tensor, target: Targets, points: Tensor) -> Tensor:
        return super().image_loss(logits, target, points) + target.masks.float().mean().nan_to_num()


class IgnoredIsBackground(Good):
    def image_loss(self, logits: Tensor, target: Targets, points: Tensor) -> Tensor:
        negative = evolve(target, masks=target.masks & target.valid, valid=torch.ones_like(target.valid))
        return super().image_loss(logits, negative, points)


class CountsNothing(Good):
    """Averages over the valid points of the batch, as if they were images."""

    def loss(self, output: HeadOutput, targets: Sequence[Targets], *, points: Any = None, generator: Any = None) -> Any:
        terms = super().loss(output, targets, points=points, generator=generator)
        shares = torch.tensor([target.valid.float().mean() for target in targets])
        each = (
            [
                super(CountsNothing, self).loss(output.images([i]), [target], points=points[i : i + 1])["mask"]
                for i, target in enumerate(targets)
            ]
            if points is not None
            else [terms["mask"]] * len(targets)
        )
        return {"mask": (shares * torch.stack(each)).sum() / shares.sum().clamp(min=1e-6)}


class CountsPixels(CountsNothing):
    """The same loss, with what it averages over."""

    def loss_counts(self, targets: Sequence[Targets]) -> dict[str, float]:
        return {"mask": float(sum(target.valid.sum() for target in targets))}


class CountsShares(CountsPixels):
    """Counts that do not add up."""

    def loss_counts(self, targets: Sequence[Targets]) -> dict[str, float]:
        return {"mask": super().loss_counts(targets)["mask"] / len(targets)}


class Squared(CountsPixels):
    """The square of a mean is no mean."""

    def loss(self, *args: Any, **options: Any) -> dict[str, Tensor]:
        return {"mask": super().loss(*args, **options)["mask"].square()}


class TermOfParts(CountsPixels):
    """One term more for a single image."""

    def loss(self, output: HeadOutput, targets: Sequence[Targets], **options: Any) -> dict[str, Tensor]:
        terms = super().loss(output, targets, **options)
        return terms if len(targets) > 1 else {**terms, "alone": terms["mask"]}


class WrongAnswerSize(Good):
    def segment(self, output: HeadOutput, valid_size: Any, size: Any, *, scores: bool = False) -> Tensor:
        return super().segment(output, valid_size, valid_size, scores=scores)


class WrongLabelType(Good):
    def segment(self, output: HeadOutput, valid_size: Any, size: Any, *, scores: bool = False) -> Tensor:
        answer = super().segment(output, valid_size, size, scores=scores)
        return answer if scores else answer.long()


class VoidLabels(Good):
    def segment(self, output: HeadOutput, valid_size: Any, size: Any, *, scores: bool = False) -> Tensor:
        answer = super().segment(output, valid_size, size, scores=scores)
        return answer if scores else torch.full_like(answer, len(LABELS))


class LogitScores(Good):
    def merge(self, output: HeadOutput) -> Tensor:
        return super().merge(output).log()


class OtherLabels(Good):
    def segment(self, output: HeadOutput, valid_size: Any, size: Any, *, scores: bool = False) -> Tensor:
        answer = super().segment(output, valid_size, size, scores=scores)
        return answer if scores else answer.flip(0)


class SeesPadding(Good):
    def segment(self, output: HeadOutput, valid_size: Any, size: Any, *, scores: bool = False) -> Tensor:
        merged = self.merge(output)
        merged = functional.interpolate((merged - merged.mean((1, 2), keepdim=True)).abs()[None], scale_factor=4)
        answer = functional.interpolate(merged[..., : valid_size[0], : valid_size[1]], size)[0]
        return answer if scores else answer.argmax(0).to(torch.uint8)


def test_a_good_head_passes_and_stays_as_it_was() -> None:
    head = Good().train()
    check_head(head, SPECS, labels=LABELS)
    assert head.training
    assert all(parameter.grad is None for parameter in head.parameters())


def test_a_head_that_counts_what_it_averages_over_passes() -> None:
    check_head(CountsPixels(), SPECS, labels=LABELS)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (NotOutput, r"NotOutput: forward must return clouds.HeadOutput; got Tensor"),
        (NoVoidClass, r'class_logits "b q k\+1" must be .* of shape \(2, 3, 4\); got .* of shape \(2, 3, 3\)'),
        (FullSizeMasks, r'mask_logits "b q h/4 w/4" must be .* \(2, 3, 16, 24\); got .* \(2, 3, 64, 96\)'),
        (BadAuxiliary, r'mask_logits "b q h/4 w/4" must be finite'),
        (
            BatchDependent,
            r"the output of an image must not depend on the batch, .*; got at least .* for 3 random inputs",
        ),
        (NotADict, r"the loss of two images .* must be a dict of named terms, at least one; got tensor"),
        (NotAScalar, r"loss term 'mask' of two images .* must be .* of shape \(\); got .* of shape \(1,\)"),
        (NanWithoutMasks, r"loss term 'mask' of an image without masks must be finite"),
        (NanWhenIgnored, r"loss term 'mask' of an image that is ignored altogether must be finite"),
        (Detached, r"the loss must be differentiable; got requires_grad=False"),
        (NanGradient, r"gradients must be finite; got nan or inf for \['masks.weight'\]"),
        (Indifferent, r"the loss must have a gradient for the parameters of the head; got none, or only zeros"),
        (GlobalRandomness, r"the same output, targets and generator seed must give the same loss"),
        (PointsUnused, r"the loss at given `points` must need no random choice"),
        (TargetsAtIgnored, r"targets at ignored pixels must not influence the loss"),
        (IgnoredIsBackground, r"predictions at ignored pixels must have no gradient"),
        (CountsNothing, r"loss term 'mask' of a batch must be .* weighted by `loss_counts`; got .* from the parts and"),
        (CountsShares, r"`loss_counts` of a batch must be the sums of its parts' counts; got .*mask"),
        (Squared, r"loss term 'mask' of a batch must be .* weighted by `loss_counts`; got .* from the parts and"),
        (TermOfParts, r"the loss of a part must have the terms of the whole batch; got \['alone', 'mask'\]"),
        (WrongAnswerSize, r"segment from 50 x 70 to 33 x 141: labels must be .* \(33, 141\); got .* \(50, 70\)"),
        (WrongLabelType, r"segment .*: labels must be a torch.uint8 tensor .*; got torch.int64"),
        (VoidLabels, r"segment .*: labels must be train ids below 3; got 3"),
        (LogitScores, r"segment .*: scores are sums of products of probabilities, so at least 0; got -"),
        (OtherLabels, r"segment .*: each pixel's label must be the class of its best score"),
        (SeesPadding, r"segment must not look at the padding"),
    ],
)
def test_each_clause_is_checked(head: type[Head], message: str) -> None:
    torch.manual_seed(0)  # some weights give the parts of a batch equal losses by chance
    with pytest.raises(ContractError, match=message):
        check_head(head(), SPECS, labels=LABELS)
