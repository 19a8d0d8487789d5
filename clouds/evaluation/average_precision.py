"""Average precision of instances, by pycocotools: COCO's, at IoU 0.5 to 0.95, with 100 instances per image.

Lin et al., "Microsoft COCO", ECCV 2014; https://cocodataset.org/#detection-eval. Crowds are matched as there: instances
inside of them are no errors. Void has no meaning there, so instances on ignored pixels count as wrong.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int32

from clouds.core.contract.labels import IGNORE_ID, LabelSpace
from clouds.core.pipeline.segments import Instances
from clouds.data.segment_files import FACTOR, are_crowds, are_things

TOP = 100  # instances per image

Annotation = dict[str, Any]  # in COCO's form, with a compressed mask


def true_instances(segments: Int32[np.ndarray, "h w"], label_space: LabelSpace, *, image: int) -> list[Annotation]:
    """Annotations of the things in a segment map, crowds among them; `image` is the image's number."""
    values = np.unique(segments)
    kept = values[(values != IGNORE_ID) & are_things(values.astype(np.uint8), label_space)]
    crowds = are_crowds(kept, label_space)
    return [  # one mask at a time: a street in 12 megapixels may have a hundred
        _annotation(image, value % FACTOR, segments == value, iscrowd=int(crowd))
        for value, crowd in zip(kept.tolist(), crowds.tolist(), strict=True)
    ]


def found_instances(found: Instances, *, image: int) -> list[Annotation]:
    """Annotations of predicted instances."""
    rows = zip(found.labels.tolist(), found.scores.tolist(), found.masks, strict=True)
    return [_annotation(image, label, mask, score=score, iscrowd=0) for label, score, mask in rows]


def average_precision(
    truth: Sequence[Annotation], found: Sequence[Annotation], *, images: int, classes: int
) -> Float[np.ndarray, "t k"]:
    """AP in 0..1 by IoU threshold (0.5, 0.55, ..., 0.95) and class; nan for a class without a true instance.

    Args:
        truth, found: annotations of all images, in their order.
        images: number of images; annotations have the numbers 0 to images - 1.
        classes: number of classes.
    """
    from pycocotools.cocoeval import COCOeval

    with redirect_stdout(io.StringIO()):  # it prints its progress
        evaluator = COCOeval(_dataset(truth, images, classes), _dataset(found, images, classes), "segm")
        evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluator.params.maxDets = [TOP]
        evaluator.evaluate()
        evaluator.accumulate()
    precision = evaluator.eval["precision"][..., 0, 0]  # "t r k", -1 without a true instance
    return np.where(precision < 0, np.nan, precision).mean(1)


def _annotation(image: int, label: int, pixels: Bool[np.ndarray, "h w"], **more: Any) -> Annotation:
    from pycocotools import mask

    compressed = mask.encode(np.asfortranarray(pixels, np.uint8))
    return {
        "image_id": image,
        "category_id": label,
        "segmentation": compressed,
        "area": int(pixels.sum()),
        **more,
    }


def _dataset(annotations: Sequence[Annotation], images: int, classes: int) -> Any:
    """The annotations as pycocotools' own type, which numbers them from 1: 0 means no match to it."""
    from pycocotools.coco import COCO

    sizes = {one["image_id"]: one["segmentation"]["size"] for one in annotations}
    document: dict[str, Any] = {
        "images": [
            {"id": image, "height": height, "width": width}
            for image, (height, width) in ((image, sizes.get(image, (1, 1))) for image in range(images))
        ],
        "categories": [{"id": label} for label in range(classes)],
        "annotations": [{**one, "id": number} for number, one in enumerate(annotations, 1)],
    }
    made: Any = COCO()
    made.dataset = document
    made.createIndex()
    return made
