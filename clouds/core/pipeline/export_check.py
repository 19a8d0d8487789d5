"""Compares an exported graph with its pipeline.

Runtimes sum in other orders, so values differ by float32 roundings (6e-8) that add up over the layers: at most some
hundred of the largest magnitude. Measured in mask logits of about 1: up to 7e-6 (docs/tutorials/export.md).
`TOLERANCE` is some fifteen times that.

A mask logit at 0 opens or closes attention of Mask2Former's queries there, so that a rounding changes the output by
more. Images are therefore drawn until the pipeline itself is stable: a contrast higher by a hundred roundings must not
change its masks by more than the tolerance.
"""

# pyright: reportUnknownMemberType=false
# (torch has incomplete types)

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from clouds.core.contract.records import HeadOutput
from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.pipeline.segmenter import eval_mode
from clouds.core.system.errors import ConfigError, NonFiniteError

TOLERANCE = 1e-4  # of the largest magnitude
_CONTRASTS = (1 - 6e-6, 1 + 6e-6)
_DRAWS = 50


def check_graph(
    pipeline: Pipeline, run: Callable[[Tensor], Sequence[Tensor]], output: str, examples: Sequence[Tensor]
) -> None:
    """Compare a graph with the pipeline on random images of each example's shape.

    Labels must be equal wherever the pipeline's two best scores differ by more than twice the tolerance.

    Args:
        pipeline: the truth.
        run: the graph, from uint8 "b 3 h w" to its outputs.
        output: what the graph returns, see `clouds.core.pipeline.export`.
        examples: images, uint8 "b 3 h w".

    Raises:
        ConfigError: they disagree, or no images are stable.
    """
    with torch.inference_mode(), eval_mode(*pipeline.segmenter.parts.values()):
        for images in examples:
            stable, found = _stable(pipeline, images)
            outputs = run(stable)
            if output == "panoptic-logits":
                _require_near(outputs, (found.class_logits, found.mask_logits), images)
                continue
            size = (images.shape[2], images.shape[3])
            scores = torch.stack(
                [pipeline.head.segment(found.image(i), size, size, scores=True) for i in range(len(images))]
            )
            if output == "scores":
                _require_near(outputs, (scores,), images)
            else:
                labels = [pipeline.head.segment(found.image(i), size, size) for i in range(len(images))]
                _require_labels(outputs[0], torch.stack(labels), scores, images)


def _stable(pipeline: Pipeline, example: Tensor) -> tuple[Tensor, HeadOutput]:
    """Images of the example's shape, and the pipeline's output for them."""
    rng = torch.Generator().manual_seed(1)
    for _ in range(_DRAWS):
        images = torch.randint(0, 256, example.shape, dtype=torch.uint8, generator=rng)
        padded = pipeline.pad(list(images))
        found = pipeline.segmenter(padded, pipeline.classifier)
        if not (found.class_logits.isfinite().all() and found.mask_logits.isfinite().all()):
            raise NonFiniteError("export: the pipeline's output for random images is not finite; check its weights")
        mean = pipeline.backbone.mean
        changed = [mean + factor * (padded - mean) for factor in _CONTRASTS]  # padding stays the mean
        others = [pipeline.segmenter(one, pipeline.classifier) for one in changed]
        if all(difference(one.mask_logits, found.mask_logits) <= TOLERANCE for one in others):
            return images, found
    raise ConfigError(
        f"export: the pipeline's masks for {_DRAWS} draws of {tuple(example.shape)} random images change by more than "
        f"{TOLERANCE:g} when the contrast is higher by {_CONTRASTS[1] - 1:.0e}, so that no graph can be compared with "
        "it; train the head first, or export a smaller size"
    )


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference, relative to the largest magnitude of `theirs`."""
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30))


def _require_near(outputs: Sequence[Tensor], expected: Sequence[Tensor], images: Tensor) -> None:
    for ours, theirs in zip(outputs, expected, strict=True):
        if ours.shape != theirs.shape:
            raise ConfigError(f"export: the graph returned {tuple(ours.shape)}, the pipeline {tuple(theirs.shape)}")
        found = difference(ours, theirs)
        if not found <= TOLERANCE:
            raise ConfigError(
                f"export: graph and pipeline differ by {found:.1e} of the largest value for images of "
                f"{tuple(images.shape)}; expected at most {TOLERANCE:g}. The file was not kept"
            )


def _require_labels(ours: Tensor, theirs: Tensor, scores: Tensor, images: Tensor) -> None:
    best = scores.topk(min(2, scores.shape[1]), dim=1).values
    near = best[:, 0] - best[:, -1] <= 2 * TOLERANCE * scores.abs().max()
    if scores.shape[1] == 1:
        near = torch.zeros_like(near)
    wrong = int(((ours != theirs) & ~near).sum()) if ours.shape == theirs.shape else theirs.numel()
    if wrong:
        raise ConfigError(
            f"export: labels of graph and pipeline differ at {wrong} of {theirs.numel()} pixels of images of "
            f"{tuple(images.shape)}; expected none beyond ties. The file was not kept"
        )
