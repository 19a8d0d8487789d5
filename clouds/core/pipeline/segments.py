"""Instances and panoptic segments from mask predictions (Cheng et al., Mask2Former, CVPR 2022).

Order of work, as published for both: mask logits are resized to the network size, cropped to the image, and resized to
the size of the answer; then the sigmoid. It is done in strips of rows: no float tensor of [queries x h x w] exists. A
pixel lies inside a mask where P(mask) >= 0.5, that is, where the logit is >= 0.
"""

# pyright: reportUnknownMemberType=false
# (torch is typed in parts only)

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from attrs import frozen
from jaxtyping import Bool, Float, Float32, Int32, Int64
from torch import Tensor

from clouds.core.contract.labels import LabelSpace
from clouds.core.contract.records import HeadOutput
from clouds.core.pipeline.resampling import answer_rows, strips
from clouds.core.system.errors import ConfigError

_STRIDE = 4  # network pixels per mask pixel, see `HeadOutput`


@frozen(eq=False, kw_only=True)
class Instances:
    """Single things, the best first. Masks may overlap, and a mask may appear with several classes.

    Attributes:
        labels: train ids.
        scores: in 0..1.
        masks: where each instance is, at the image's own size.
    """

    labels: Int64[np.ndarray, " n"]
    scores: Float32[np.ndarray, " n"]
    masks: Bool[np.ndarray, "n h w"]


@frozen(kw_only=True)
class Segment:
    """One entry of a panoptic segmentation.

    Attributes:
        id: its value in `Panoptic.segments`, from 1.
        label: train id.
        is_thing: whether it is one instance; otherwise it is all there is of its class.
        score: P(class | query), of the best query where several were united.
        area: pixels.
    """

    id: int
    label: int
    is_thing: bool
    score: float
    area: int


@frozen(eq=False, kw_only=True)
class Panoptic:
    """Each pixel belongs to one segment or to none.

    Attributes:
        segments: segment id of each pixel, 0 = none, at the image's own size.
        infos: the segments, by id.
    """

    segments: Int32[np.ndarray, "h w"]
    infos: tuple[Segment, ...]


@frozen(eq=False, kw_only=True)
class ImageMasks:
    """The masks predicted for one image, and how they lie in it.

    Attributes:
        output: a batch of one.
        valid_size: (height, width) of the image within the padded network input.
        size: (height, width) of the answer.
    """

    output: HeadOutput
    valid_size: tuple[int, int]
    size: tuple[int, int]

    def probabilities(self) -> Float[Tensor, "q k1"]:
        """P(class | query); the last class is "no object"."""
        return self.output.class_logits[0].float().softmax(-1)

    def logit_strips(self, queries: Tensor) -> Iterator[tuple[slice, Float[Tensor, "n y w"]]]:
        """Mask logits of these queries at the size of the answer, some rows at a time, with the rows they are."""
        logits = self.output.mask_logits[0][queries].float()
        network_size = (logits.shape[1] * _STRIDE, logits.shape[2] * _STRIDE)
        source_rows = -(-self.valid_size[0] // self.size[0])  # per row of the answer, when it is the smaller one
        elements = max(1, len(logits)) * max(network_size[1], self.size[1]) * source_rows
        for start, stop in strips(self.size[0], elements_per_row=elements):
            yield slice(start, stop), answer_rows(logits, network_size, self.valid_size, self.size, start, stop)


@torch.inference_mode()
def find_instances(found: ImageMasks, labels: LabelSpace, *, top: int) -> Instances:
    """The best `top` pairs of query and class, among classes that are things (all classes when none is).

    score = P(class | query) x mean of P(mask) over the pixels inside the mask. Masks without a pixel are left out.
    The published code takes `top` pairs of all classes by P(class | query), and of these the things; the scores are
    the same.

    Raises:
        ConfigError: `top` is less than 1.
    """
    if top < 1:
        raise ConfigError(f"top is {top}; expected at least 1 instance")
    probabilities = found.probabilities()[:, :-1]
    queries, classes = probabilities.shape
    inside = torch.empty((queries, *found.size), dtype=torch.bool, device=probabilities.device)
    total = torch.zeros(queries, dtype=torch.float64, device=probabilities.device)
    for rows, logits in found.logit_strips(torch.arange(queries, device=probabilities.device)):
        inside[:, rows] = logits >= 0
        total += (logits.sigmoid() * inside[:, rows]).sum((1, 2), dtype=torch.float64)
    area = inside.sum((1, 2))
    scores = probabilities * (total / area.clamp(min=1))[:, None].float()
    things = torch.tensor(labels.things, device=scores.device)
    allowed = (area > 0)[:, None] & (things | ~things.any())
    best, order = scores.where(allowed, -1.0).flatten().topk(min(top, int(allowed.sum())))
    return Instances(
        labels=(order % classes).cpu().numpy(),
        scores=best.cpu().numpy(),
        masks=inside[order // classes].cpu().numpy(),
    )


@torch.inference_mode()
def find_panoptic(
    found: ImageMasks, labels: LabelSpace, *, object_mask_threshold: float, overlap_threshold: float
) -> Panoptic:
    """Masks without overlap.

    1. A query is kept when its most probable class is not "no object", with a probability above
       `object_mask_threshold`.
    2. A pixel goes to the kept query of the largest P(class | query) x P(mask).
    3. A query makes a segment of those of its pixels that lie inside its mask, unless there is none, or the share
       (pixels that go to it) / (pixels inside its mask) is below `overlap_threshold`.
    4. Segments of a class that is no thing are united.

    Raises:
        ConfigError: a threshold is not in 0..1.
    """
    for name, value in (("object_mask_threshold", object_mask_threshold), ("overlap_threshold", overlap_threshold)):
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} is {value}; expected a number in 0..1")
    probabilities = found.probabilities()
    scores, classes = probabilities.max(-1)
    kept = ((classes < probabilities.shape[1] - 1) & (scores > object_mask_threshold)).nonzero()[:, 0]
    owner, share, area = _compete(found, kept, scores[kept])
    groups: dict[tuple[int, int], list[int]] = {}
    counted = ((share >= overlap_threshold) & (area > 0)).nonzero()[:, 0]
    for index in cast("list[int]", counted.tolist()):
        label = int(classes[kept[index]])
        groups.setdefault((label, index if labels.things[label] else -1), []).append(index)
    ids = torch.zeros(len(kept) + 1, dtype=torch.int32, device=owner.device)  # the last is of pixels without an owner
    infos: list[Segment] = []
    for number, ((label, _), group) in enumerate(groups.items(), start=1):
        ids[group] = number
        score, pixels = float(scores[kept[group]].max()), int(area[group].sum())
        infos.append(Segment(id=number, label=label, is_thing=labels.things[label], score=score, area=pixels))
    return Panoptic(segments=ids[owner].cpu().numpy(), infos=tuple(infos))


def _compete(found: ImageMasks, kept: Tensor, scores: Float[Tensor, " n"]) -> tuple[Tensor, Tensor, Tensor]:
    """Step 2: which query owns each pixel ("h w", an index of `kept`, or -1 where the winner's mask is not), the share
    of its mask that each query won, and its pixels."""
    owner = torch.full(found.size, -1, device=scores.device)
    won, inside, area = (torch.zeros(len(kept), dtype=torch.long, device=scores.device) for _ in range(3))
    for rows, logits in found.logit_strips(kept) if len(kept) else ():
        winner = (scores[:, None, None] * logits.sigmoid()).argmax(0)
        within = logits >= 0
        owns = within.gather(0, winner[None])[0]
        owner[rows] = winner.where(owns, -1)
        won += winner.flatten().bincount(minlength=len(kept))
        inside += within.sum((1, 2))
        area += winner[owns].bincount(minlength=len(kept))
    return owner, won / inside.clamp(min=1), area
