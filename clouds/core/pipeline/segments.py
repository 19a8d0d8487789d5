"""Instances and panoptic segments from mask predictions (Cheng et al., Mask2Former, CVPR 2022).

As published, mask logits are resized to the network size, cropped to the image, and resized to the output size; then
the sigmoid is applied. This happens in strips of rows, so that no float tensor of [queries x h x w] exists. A pixel is
inside a mask where P(mask) >= 0.5, i.e. where the logit is >= 0.
"""

# pyright: reportUnknownMemberType=false
# (torch has incomplete types)

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
    """Instances of things, best first. Masks may overlap, and a mask may appear with several classes.

    Attributes:
        labels: train ids.
        scores: in 0..1.
        masks: pixels of each instance, at the image's own size.
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
        is_thing: whether it is one instance; otherwise it covers its whole class.
        score: P(class | query), of the best query if several were merged.
        area: number of pixels.
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
        infos: the segments, ordered by id.
    """

    segments: Int32[np.ndarray, "h w"]
    infos: tuple[Segment, ...]


@frozen(eq=False, kw_only=True)
class ImageMasks:
    """The predicted masks of one image, with the sizes needed to resize them.

    Attributes:
        output: a batch of one.
        valid_size: (height, width) of the image within the padded network input.
        size: (height, width) of the result.
        instances: whether the head separates instances, see `Head`; otherwise a mask is of a whole class.
    """

    output: HeadOutput
    valid_size: tuple[int, int]
    size: tuple[int, int]
    instances: bool = True

    def probabilities(self) -> Float[Tensor, "q k1"]:
        """P(class | query); the last class is "no object"."""
        return self.output.class_logits[0].float().softmax(-1)

    def logit_strips(self, queries: Tensor) -> Iterator[tuple[slice, Float[Tensor, "n y w"]]]:
        """Yield mask logits of the given queries at the output size in strips, each with its rows."""
        logits = self.output.mask_logits[0][queries].float()
        network_size = (logits.shape[1] * _STRIDE, logits.shape[2] * _STRIDE)
        source_rows = -(-self.valid_size[0] // self.size[0])  # input rows per output row when shrinking
        elements = max(1, len(logits)) * max(network_size[1], self.size[1]) * source_rows
        for start, stop in strips(self.size[0], elements_per_row=elements):
            yield slice(start, stop), answer_rows(logits, network_size, self.valid_size, self.size, start, stop)


@torch.inference_mode()
def find_instances(found: ImageMasks, labels: LabelSpace, *, top: int) -> Instances:
    """The best `top` pairs of query and thing class (any class if the label space has no things).

    score = P(class | query) x mean of P(mask) over the pixels inside the mask. Empty masks are dropped. The published
    code first takes the `top` pairs of all classes by P(class | query), then drops those that are not things. The
    scores are the same.

    Raises:
        ConfigError: `top` is less than 1.
    """
    if top < 1:
        raise ConfigError(f"top is {top}; expected at least 1 instance")
    # Class probabilities without "no object" "q k"
    probabilities = found.probabilities()[:, :-1]
    queries, classes = probabilities.shape
    # Masks "q h w" and the sum of P(mask) inside each "q"
    inside = torch.empty((queries, *found.size), dtype=torch.bool, device=probabilities.device)
    total = torch.zeros(queries, dtype=torch.float64, device=probabilities.device)
    for rows, logits in found.logit_strips(torch.arange(queries, device=probabilities.device)):
        inside[:, rows] = logits >= 0
        total += (logits.sigmoid() * inside[:, rows]).sum((1, 2), dtype=torch.float64)
    # Scores of all pairs "q k"
    area = inside.sum((1, 2))
    scores = probabilities * (total / area.clamp(min=1))[:, None].float()
    # The best pairs of thing classes with non-empty masks
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
    """Resolve overlaps between masks.

    1. Keep queries whose most probable class is not "no object" and has a probability above `object_mask_threshold`.
    2. Assign each pixel to the kept query with the largest P(class | query) x P(mask).
    3. A query's segment consists of its pixels inside its mask. Drop it if it is empty, or if the share
       (assigned pixels) / (pixels inside the mask) is below `overlap_threshold`.
    4. Merge segments of the same stuff class; of every class, if the head separates no instances.

    Raises:
        ConfigError: a threshold is not in 0..1.
    """
    for name, value in (("object_mask_threshold", object_mask_threshold), ("overlap_threshold", overlap_threshold)):
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} is {value}; expected a number in 0..1")
    # Steps 1 and 2: kept queries "n", and the owner of each pixel "h w"
    probabilities = found.probabilities()
    scores, classes = probabilities.max(-1)
    kept = ((classes < probabilities.shape[1] - 1) & (scores > object_mask_threshold)).nonzero()[:, 0]
    owner, share, area = _compete(found, kept, scores[kept])
    # Steps 3 and 4: queries of each segment
    things = [found.instances and thing for thing in labels.things]
    groups: dict[tuple[int, int], list[int]] = {}
    counted = ((share >= overlap_threshold) & (area > 0)).nonzero()[:, 0]
    for index in cast("list[int]", counted.tolist()):
        label = int(classes[kept[index]])
        groups.setdefault((label, index if things[label] else -1), []).append(index)
    # Segment ids of kept queries "n+1"; the last entry, 0, is for pixels without owner (index -1)
    ids = torch.zeros(len(kept) + 1, dtype=torch.int32, device=owner.device)
    infos: list[Segment] = []
    for number, ((label, _), group) in enumerate(groups.items(), start=1):
        ids[group] = number
        score, pixels = float(scores[kept[group]].max()), int(area[group].sum())
        infos.append(Segment(id=number, label=label, is_thing=things[label], score=score, area=pixels))
    return Panoptic(segments=ids[owner].cpu().numpy(), infos=tuple(infos))


def _compete(found: ImageMasks, kept: Tensor, scores: Float[Tensor, " n"]) -> tuple[Tensor, Tensor, Tensor]:
    """Step 2: owner of each pixel ("h w", index into `kept`, or -1 outside the winner's mask), and for each query the
    share of its mask that it won, and its number of pixels."""
    owner = torch.full(found.size, -1, device=scores.device)
    won, inside, area = (torch.zeros(len(kept), dtype=torch.long, device=scores.device) for _ in range(3))
    for rows, logits in found.logit_strips(kept) if len(kept) else ():
        # Winning query "y w", and whether the pixel is inside the winner's mask
        winner = (scores[:, None, None] * logits.sigmoid()).argmax(0)
        within = logits >= 0
        owns = within.gather(0, winner[None])[0]
        owner[rows] = winner.where(owns, -1)
        # Counts per query "n": pixels won, pixels inside the mask, pixels owned
        won += winner.flatten().bincount(minlength=len(kept))
        inside += within.sum((1, 2))
        area += winner[owns].bincount(minlength=len(kept))
    return owner, won / inside.clamp(min=1), area
