"""Quality of the first teacher's pseudo-labels on generated images, before and after refinement."""

from __future__ import annotations

import numpy as np
import torch
from attrs import frozen
from jaxtyping import UInt8

from clouds.core.contract.tensors import image_tensor
from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.system.images import read_image
from clouds.data.encodings import label_encoding
from clouds.data.label_files import read_label_pixels
from clouds.evaluation.confusion import count_confusion, mean_iou
from clouds.synthesis.generated_set import GeneratedSet

_MEASURED = 60


@frozen(kw_only=True)
class PseudoLabelQuality:
    """Agreement of pseudo-labels with the exact labels, which are known because the demo's images are drawn.

    Attributes:
        images: number of compared images.
        before, after: mIoU in percent of the teacher's label maps before and after refinement; None if no class is in
            the exact labels. Pixels that the refiner ignores count as wrong.
    """

    images: int
    before: float | None
    after: float | None


def measure_pseudo_labels(teacher: Pipeline, generated: GeneratedSet) -> PseudoLabelQuality:
    """Compare the pseudo-labels of the first images with their exact labels, which training never sees.

    Args:
        teacher: a trained pipeline, with the refiner.
        generated: generated images with exact labels.
    """
    count, train_ids = len(teacher.labels), label_encoding(teacher.labels, "trainIds")
    before, after = (np.zeros((count, count + 1), np.int64) for _ in range(2))
    chosen = list(zip(generated.rows, generated.images, generated.labels or (), strict=True))[:_MEASURED]
    for row, image_path, label_path in chosen:
        truth = read_label_pixels(label_path, train_ids)
        predicted, refined = pseudo_labels(teacher, read_image(image_path), row.index)
        before += count_confusion(truth, predicted, classes=count)
        after += count_confusion(truth, refined, classes=count)
    return PseudoLabelQuality(images=len(chosen), before=mean_iou(before), after=mean_iou(after))


def pseudo_labels(
    teacher: Pipeline, image: UInt8[np.ndarray, "h w 3"], index: int
) -> tuple[UInt8[np.ndarray, "h w"], UInt8[np.ndarray, "h w"]]:
    """The teacher's label map of image number `index` before and after refinement; equal without a refiner."""
    before = teacher.predict(image).labels
    if teacher.refiner is None:
        return before, before
    rngs = [np.random.default_rng([0, index])]
    (targets,) = teacher.refiner.refine([image_tensor(image)], [torch.from_numpy(before)], rngs=rngs)
    return before, targets.to_label_map().numpy()
