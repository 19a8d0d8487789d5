"""Sliding windows with the mean of overlapping scores, as mmsegmentation's `EncoderDecoder.slide_inference`."""

# pyright: reportUnknownMemberType=false
# (torch has incomplete types)

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch.nn import functional

from clouds.core.pipeline.resampling import resized_rows, strips
from clouds.core.system.batches import read_ahead
from clouds.core.system.images import window_starts
from clouds.evaluation.calibration import confidence
from clouds.evaluation.protocols import Protocol
from clouds.evaluation.views import Predictor, Segmentation, Views, same


def predict_sliding(
    protocol: Protocol,
    views: Views,
    kind: str,
    pipeline: Predictor,
    images: Iterable[UInt8[np.ndarray, "h w 3"]],
    *,
    batch_size: int = 1,
    confidences: bool = False,
) -> Iterator[Segmentation]:
    """Segment images in the sliding windows of a protocol, in order, at the images' own size.

    Scores are averaged where windows overlap, resized to the image's size, and averaged over the views. A head's score
    is mmsegmentation's logit for mask classification: sum over queries of P(class | query) x P(mask).

    Args:
        protocol: has `side` and `stride`.
        views: each scale multiplies the protocol's image size.
        kind: dataset kind, which may have an image size of its own.
        pipeline: predicts the windows.
        images: RGB.
        batch_size: windows per forward pass.
        confidences: also give the confidence of each pixel.
    """
    for image in read_ahead(same, images, count=1):
        scores: list[torch.Tensor] = []
        for scale, step in product(views.scales, (1, -1) if views.flip else (1,)):
            size = protocol.network_size(kind, *image.shape[:2], scale=scale)
            seen = resize_bilinear(image, size)[:, ::step]
            found = slide(pipeline, seen, side=protocol.side or 0, stride=protocol.stride or 0, batch_size=batch_size)
            scores.append(torch.from_numpy(found[..., ::step].copy()))
        yield _best_class(scores, (image.shape[0], image.shape[1]), confidences=confidences)


def slide(
    pipeline: Predictor, image: UInt8[np.ndarray, "h w 3"], *, side: int, stride: int, batch_size: int = 1
) -> Float[np.ndarray, "k h w"]:
    """Mean scores of windows of side x side; an image that is smaller gives smaller windows."""
    height, width = image.shape[:2]
    places = [
        (slice(top, top + side), slice(left, left + side))
        for top, left in product(window_starts(height, side, stride), window_starts(width, side, stride))
    ]
    total = np.zeros((len(pipeline.labels), height, width), np.float32)
    count = np.zeros((height, width), np.float32)
    windows = (np.ascontiguousarray(image[place]) for place in places)
    for place, prediction in zip(
        places, pipeline.predict_many(windows, batch_size=batch_size, window=side), strict=True
    ):
        total[:, *place] += prediction.scores()
        count[place] += 1
    total /= count
    return total


def resize_bilinear(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "y x 3"]:
    """Resize as OpenCV's `INTER_LINEAR`, which has no antialiasing; it rounds weights to 1/2048, so may differ by 1."""
    if image.shape[:2] == size:
        return image
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    resized = functional.interpolate(pixels, size=size, mode="bilinear", align_corners=False)
    return (resized[0] + 0.5).byte().permute(1, 2, 0).numpy()


def _best_class(scores: list[torch.Tensor], size: tuple[int, int], *, confidences: bool) -> Segmentation:
    """Class with the highest sum of scores "k y x", each resized to `size`; some rows at a time."""
    labels, sure = np.empty(size, np.uint8), np.empty(size, np.float32) if confidences else None
    for start, stop in strips(size[0], elements_per_row=len(scores[0]) * size[1]):
        rows = torch.stack([resized_rows(one, size, start, stop) for one in scores]).sum(0)
        labels[start:stop] = rows.argmax(0).numpy()
        if sure is not None:
            sure[start:stop] = confidence(rows.numpy())
    return Segmentation(labels, sure)
