"""The EMA teacher: a copy of the student's trained modules."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from attrs import evolve
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import get_ema_multi_avg_fn

from clouds.core.contract.interfaces import Backbone, Head, MaskPooler
from clouds.core.contract.labels import IGNORE_ID
from clouds.core.contract.records import HeadOutput
from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.pipeline.segmenter import Segmenter, blocks_of
from clouds.training.class_thresholds import ClassThresholds
from clouds.training.sharded_tensors import local

_Module = TypeVar("_Module", bound=nn.Module)
_LEAST_TOTAL = 1e-30  # where all scores underflow to 0, the best one has a share of 0, and not NaN


class Teacher:
    """Exponential moving average of all trainable parameters of a pipeline.

    What is frozen of a backbone is shared with the student, and what is trained is copied. An adapter is copied: a
    shared trunk runs once with the student's and once with the teacher's.

    Args:
        student: the pipeline to train.
        decay: weight of the teacher's own parameters in an update, 0..1.
        confidence: minimum share of the scores that a pixel's best class needs, else the pixel is ignored.
        class_confidence: the same, as a fraction of the running mean of its class; 0 needs none.
        weight_threshold: share of the scores for `weighted_label_maps`.
        scales: sizes of the views whose scores are averaged for a label map, relative to the image's.
    """

    def __init__(
        self,
        student: Pipeline,
        *,
        decay: float,
        confidence: float = 0.0,
        class_confidence: float = 0.0,
        weight_threshold: float = 0.0,
        scales: Sequence[float] = (1.0,),
    ) -> None:
        self.decay = decay
        self.confidence = confidence
        self.weight_threshold = weight_threshold
        self.scales = tuple(scales)
        self.thresholds = (
            ClassThresholds(len(student.labels), decay=decay, fraction=class_confidence) if class_confidence else None
        )
        self._student = student
        trained = any(parameter.requires_grad for parameter in student.backbone.parameters())
        backbone = frozen_copy(student.backbone) if trained else student.backbone
        adapter = None if student.adapter is None else frozen_copy(student.adapter)
        self.segmenter = Segmenter(backbone, frozen_copy(student.head), adapter)
        if adapter is not None:  # a dead teacher leaves no hooks on the shared trunk
            weakref.finalize(self, adapter.detach, blocks_of(backbone))

    @property
    def backbone(self) -> Backbone:
        return self.segmenter.backbone

    @property
    def head(self) -> Head:
        return self.segmenter.head

    @property
    def averaged(self) -> dict[str, nn.Module]:
        """The parts of the segmenter that are the teacher's own, by name."""
        shared = self.backbone is self._student.backbone
        parts = self.segmenter.parts
        return {name: part for name, part in parts.items() if not (shared and name == "backbone")}

    @torch.no_grad()
    def update(self) -> None:
        """teacher = decay x teacher + (1 - decay) x student, for parameters; buffers are copied."""
        own, student = self._averaged()
        pairs = [pair for pair in zip(own.parameters(), student.parameters(), strict=True) if pair[0] is not pair[1]]
        # a few kernel launches for all parameters, instead of one each; sharded ones have equal parts in each process
        get_ema_multi_avg_fn(self.decay)([local(mine) for mine, _ in pairs], [local(one) for _, one in pairs], 0)
        for buffer, now in zip(own.buffers(), student.buffers(), strict=True):
            buffer.copy_(now)

    @contextmanager
    def in_student(self) -> Iterator[None]:
        """Let the student have the teacher's weights inside the block, to evaluate or save them."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    @torch.no_grad()
    def exchange(self) -> None:
        """Exchange the parameters and buffers of teacher and student in place."""
        own, student = ([*module.parameters(), *module.buffers()] for module in self._averaged())
        for mine, other in zip(own, student, strict=True):
            before = mine.clone()
            mine.copy_(other)
            other.copy_(before)

    def _averaged(self) -> tuple[nn.ModuleList, nn.ModuleList]:
        """The teacher's own modules, and the student's that they average."""
        own, student = self.averaged, self._student.segmenter.parts
        return nn.ModuleList(own.values()), nn.ModuleList(student[name] for name in own)

    def label_maps(self, images: list[UInt8[Tensor, "3 h w"]]) -> list[UInt8[Tensor, "h w"]]:
        """Label maps of clean views: the class with the highest score over all scales, 255 where it is below the
        confidence or its class's threshold."""
        return [label_map for label_map, _ in self.weighted_label_maps(images)]

    @torch.no_grad()
    def weighted_label_maps(self, images: list[UInt8[Tensor, "3 h w"]]) -> list[tuple[UInt8[Tensor, "h w"], float]]:
        """`label_maps`, each with the weight of its image, 0..1.

        The weight is the share of all pixels whose best class has at least `weight_threshold` of the scores. Source:
        Tranheden et al., DACS, WACV 2021, section 3.2; Hoyer et al., DAFormer, CVPR 2022, equation 4.
        """
        if self.scales == (1.0,) and not (self.confidence or self.thresholds or self.weight_threshold):
            output = self._output(images)
            return [(self.head.segment(output.image(i), _size(one), _size(one)), 1.0) for i, one in enumerate(images)]
        # Scores "k h w" of each image, summed over scales
        first, *others = self.scales
        scores = self._scores(images, first)
        for scale in others:
            scores = [total + more for total, more in zip(scores, self._scores(images, scale), strict=True)]
        return [self._label_map(one) for one in scores]

    def _scores(self, images: list[UInt8[Tensor, "3 h w"]], scale: float) -> list[Float[Tensor, "k h w"]]:
        """Scores at the images' own size, from views of their size times `scale`."""
        views = [_resized(image, scale) for image in images]
        output = self._output(views)
        return [
            self.head.segment(output.image(index), _size(view), _size(image), scores=True)
            for index, (view, image) in enumerate(zip(views, images, strict=True))
        ]

    @torch.no_grad()
    def take_part(self) -> None:
        """The passes of `weighted_label_maps` on nothing, while other processes of a sharded teacher have images."""
        side = 2 * self.backbone.size_divisor
        for _ in self.scales:
            self._output([torch.zeros(3, side, side, dtype=torch.uint8, device=self._student.device)])

    def _output(self, images: list[UInt8[Tensor, "3 _ _"]]) -> HeadOutput:
        classifier = self._student.classifier
        if classifier is not None and isinstance(self.backbone, MaskPooler):
            classifier = evolve(classifier, pooler=self.backbone)
        with self._student.autocast():
            return self.segmenter(self.segmenter.pad(images), classifier)

    def _label_map(self, scores: Float[Tensor, "k h w"]) -> tuple[UInt8[Tensor, "h w"], float]:
        best, label_map = scores.max(0)
        total = scores.sum(0).clamp(min=_LEAST_TOTAL)
        weight = (best >= self.weight_threshold * total).double().mean().item() if self.weight_threshold else 1.0
        sure = best >= self.confidence * total
        if self.thresholds is not None:
            sure &= self.thresholds.keeps(best / total, label_map.to(torch.uint8))
        return torch.where(sure, label_map, IGNORE_ID).to(torch.uint8), weight


def _size(image: UInt8[Tensor, "3 h w"]) -> tuple[int, int]:
    return image.shape[1], image.shape[2]


def _resized(image: UInt8[Tensor, "3 h w"], scale: float) -> UInt8[Tensor, "3 hs ws"]:
    """The image with its sides times `scale`, at least one pixel."""
    if scale == 1.0:
        return image
    size = [max(1, round(side * scale)) for side in _size(image)]
    resized = functional.interpolate(image[None].float(), size, mode="bilinear", antialias=True, align_corners=False)
    return resized[0].round().clamp(0, 255).to(torch.uint8)


def frozen_copy(module: _Module) -> _Module:
    """A copy without gradients, in eval mode. It shares the parameters that are frozen in the original."""
    shared = {id(parameter): parameter for parameter in module.parameters() if not parameter.requires_grad}
    return copy.deepcopy(module, shared).requires_grad_(False).eval()
