"""Heads that classify every pixel: what they share from logits to loss and segmentation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from clouds.core.contract.interfaces import Head, TextClassifier
from clouds.core.contract.records import Features, HeadOutput, Targets
from clouds.core.system.errors import NonFiniteError
from clouds.kernels.semantic_inference import reference, semantic_inference

_CERTAIN = 200.0  # exp(-200) is 0 in float32: query i has class i with probability 1
_STRIDE = 4  # of the logits


class PixelHead(Head):
    """Uses one query per class; mask probabilities are the softmax over classes. Subclasses compute the logits.

    The softmax leaves a constant per pixel free. It is set so that the sigmoid of the best class's logit is its
    probability and every other sigmoid is at most 1/2. Instance and panoptic segmentation, which use sigmoids, then
    find the best class.
    """

    @abstractmethod
    def logits(self, features: Features) -> Float[Tensor, "b k h4 w4"]:
        """One logit per class and pixel of res2, at a quarter of the network size."""

    def forward(self, features: Features, classifier: TextClassifier | None = None) -> HeadOutput:
        return to_output(self.logits(features))

    def loss(
        self,
        output: HeadOutput,
        targets: Sequence[Targets],
        *,
        points: Float[Tensor, "b p 2"] | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Mean cross entropy over labelled pixels; pixels with no class or with two classes are ignored."""
        maps = label_maps(targets, output.mask_logits.device)
        per_pixel = cross_entropy(output.mask_logits, maps)
        return {"cross_entropy": per_pixel.sum() / (maps != 255).sum().clamp(min=1)}

    def loss_counts(self, targets: Sequence[Targets]) -> dict[str, float]:
        return {"cross_entropy": float(sum(int((target.to_label_map() != 255).sum()) for target in targets))}

    def segment(
        self, output: HeadOutput, valid_size: tuple[int, int], size: tuple[int, int], *, scores: bool = False
    ) -> Tensor:
        classes, height, width = output.mask_logits.shape[1:]
        return semantic_inference(
            torch.eye(classes, device=output.mask_logits.device),  # query i is class i
            output.mask_logits[0],
            (height * _STRIDE, width * _STRIDE),
            valid_size,
            size,
            activation="softmax",
            scores=scores,
        )

    def segment_all(
        self, output: HeadOutput, valid_size: tuple[int, int], size: tuple[int, int], *, scores: bool = False
    ) -> Tensor:
        batch, classes, height, width = output.mask_logits.shape
        return reference(
            torch.eye(classes, device=output.mask_logits.device).expand(batch, -1, -1),  # query i is class i
            output.mask_logits,
            (height * _STRIDE, width * _STRIDE),
            valid_size,
            size,
            activation="softmax",
            scores=scores,
        )


def label_maps(targets: Sequence[Targets], device: torch.device) -> Int[Tensor, "b h w"]:
    """The class of each pixel; pixels with no class or with two classes are 255."""
    return torch.stack([target.to_label_map() for target in targets]).to(device).long()


def cross_entropy(logits: Float[Tensor, "b k h4 w4"], maps: Int[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Cross entropy of resized logits per pixel, 0 where the label is 255.

    Raises:
        NonFiniteError: names the images whose cross entropy is not finite.
    """
    logits = functional.interpolate(logits.float(), size=maps.shape[1:], mode="bilinear", align_corners=False)
    per_pixel = functional.cross_entropy(logits, maps, ignore_index=255, reduction="none")
    bad = [index for index, one in enumerate(per_pixel) if not one.isfinite().all()]
    if bad:
        raise NonFiniteError(f"cross entropy is not finite for images {bad} of the batch; check the features")
    return per_pixel


def to_output(logits: Float[Tensor, "b k h w"]) -> HeadOutput:
    """Logits of a softmax over classes as one mask per class."""
    # Mask logits "b k h w", shifted for use with sigmoids
    mask_logits = logits - _odds_base(logits.detach())
    # Constant class logits "b k k1": query i has class i
    batch, classes = mask_logits.shape[:2]
    known = _CERTAIN * (torch.eye(classes, classes + 1, device=mask_logits.device, dtype=mask_logits.dtype) - 1)
    return HeadOutput(class_logits=known.expand(batch, -1, -1), mask_logits=mask_logits)


def _odds_base(logits: Float[Tensor, "b k h w"]) -> Float[Tensor, "b 1 h w"]:
    """Logsumexp over all classes except the best; subtracting it turns the best logit into log(p / (1 - p))."""
    others = logits.scatter(1, logits.argmax(1, keepdim=True), -torch.inf)
    return others.logsumexp(1, keepdim=True).clamp(min=-_CERTAIN)  # -inf with a single class
