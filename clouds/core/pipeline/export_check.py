"""Compares an exported graph with its pipeline.

Runtimes sum in other orders, so values differ by float32 roundings (6e-8) that add up over the layers: at most some
hundred of the largest magnitude. Measured in mask logits of about 1: up to 7e-6 (docs/tutorials/export.md).
`TOLERANCE` is some fifteen times that.

A mask logit at 0 opens or closes attention of Mask2Former's queries there, so that a rounding changes the output by
more. Images are therefore drawn until the pipeline itself is stable: a contrast higher by a hundred roundings must not
change its masks by more than the tolerance.

In float16 and bfloat16, the error to expect depends on the network, so that it is measured: it is the distance between
the pipeline under autocast of that dtype and the pipeline in float32. A runtime rounds the same values to the same
dtype and only sums in another order, but in Mask2Former one rounding decides which masks open and close. `FACTOR`
leaves room for it; the slow tests of export stay within it.
Distances are root mean squares: of thousands of values, single ones at a mask's border are no measure. Images are drawn
until autocast is within `LOSS` of float32, so that wrong weights or scales are noticed.
"""

# pyright: reportUnknownMemberType=false
# (torch has incomplete types)

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from clouds.core.contract.records import HeadOutput
from clouds.core.pipeline.export_graph import ExportDtype, ExportOutput
from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.pipeline.segmenter import eval_mode
from clouds.core.system.errors import ConfigError, NonFiniteError

TOLERANCE = 1e-4  # of the largest magnitude
FACTOR = 5  # times what autocast changes
LOSS = 0.03  # of the root mean square: what autocast may change
TIES = 1e-2  # share of labels that may differ where autocast changes none: pixels between two classes
_CONTRASTS = (1 - 6e-6, 1 + 6e-6)
_DRAWS = 50


def check_graph(
    pipeline: Pipeline,
    run: Callable[[Tensor], Sequence[Tensor]],
    output: ExportOutput,
    examples: Sequence[Tensor],
    dtype: ExportDtype = "float32",
) -> None:
    """Compare a graph with the pipeline on random images of each example's shape.

    In float32, labels must be equal wherever the pipeline's two best scores differ by more than twice the tolerance.

    Args:
        pipeline: the truth.
        run: the graph, from uint8 "b 3 h w" to its outputs.
        output: what the graph returns, see `clouds.core.pipeline.export`.
        examples: images, uint8 "b 3 h w".
        dtype: of the graph.

    Raises:
        ConfigError: they disagree, or no images are stable.
    """
    with torch.inference_mode(), eval_mode(*pipeline.segmenter.parts.values()):
        for images in examples:
            if dtype == "float32":
                stable, found = _stable(pipeline, images)
                _require_equal(pipeline, run(stable), output, found, images)
            else:
                stable, found, reduced = _nearly_equal(pipeline, images, dtype)
                truth, autocast = (_values(pipeline, one, images, output) for one in (found, reduced))
                _require_as_near(run(stable), truth, autocast, dtype, images)


def _require_equal(
    pipeline: Pipeline, outputs: Sequence[Tensor], output: ExportOutput, found: HeadOutput, images: Tensor
) -> None:
    if output != "labels":
        return _require_near(outputs, _values(pipeline, found, images, output), images)
    (scores,), (labels,) = (_values(pipeline, found, images, name) for name in ("scores", "labels"))
    return _require_labels(outputs[0], labels, scores, images)


def _values(pipeline: Pipeline, found: HeadOutput, images: Tensor, output: ExportOutput) -> tuple[Tensor, ...]:
    """What a graph should return for the pipeline's output of images."""
    if output == "panoptic-logits":
        return found.class_logits, found.mask_logits
    size, scores = (images.shape[2], images.shape[3]), output == "scores"
    each = [pipeline.head.segment(found.image(i), size, size, scores=scores) for i in range(len(found.class_logits))]
    return (torch.stack(each),)


def _draws(pipeline: Pipeline, example: Tensor) -> Iterator[tuple[Tensor, Tensor, HeadOutput]]:
    """Random images of the example's shape: as they are, padded, and the pipeline's output for them."""
    rng = torch.Generator().manual_seed(1)
    for _ in range(_DRAWS):
        images = torch.randint(0, 256, example.shape, dtype=torch.uint8, generator=rng)
        padded = pipeline.pad(list(images))
        found = pipeline.segmenter(padded, pipeline.classifier)
        if not (found.class_logits.isfinite().all() and found.mask_logits.isfinite().all()):
            raise NonFiniteError("export: the pipeline's output for random images is not finite; check its weights")
        yield images, padded, found


def _stable(pipeline: Pipeline, example: Tensor) -> tuple[Tensor, HeadOutput]:
    """Images of the example's shape, and the pipeline's output for them."""
    mean = pipeline.backbone.mean
    for images, padded, found in _draws(pipeline, example):
        changed = [mean + factor * (padded - mean) for factor in _CONTRASTS]  # padding stays the mean
        others = [pipeline.segmenter(one, pipeline.classifier) for one in changed]
        if all(difference(one.mask_logits, found.mask_logits) <= TOLERANCE for one in others):
            return images, found
    raise ConfigError(
        f"export: the pipeline's masks for {_DRAWS} draws of {tuple(example.shape)} random images change by more than "
        f"{TOLERANCE:g} when the contrast is higher by {_CONTRASTS[1] - 1:.0e}, so that no graph can be compared with "
        "it; train the head first, or export a smaller size"
    )


def _nearly_equal(pipeline: Pipeline, example: Tensor, dtype: ExportDtype) -> tuple[Tensor, HeadOutput, HeadOutput]:
    """Images of the example's shape, and the pipeline's output for them in float32 and under autocast."""
    lost: list[float] = []
    for images, padded, found in _draws(pipeline, example):
        with torch.autocast("cpu", dtype=getattr(torch, dtype)):
            other = pipeline.segmenter(padded, pipeline.classifier)
        reduced = HeadOutput(class_logits=other.class_logits.float(), mask_logits=other.mask_logits.float())
        pairs = ((reduced.class_logits, found.class_logits), (reduced.mask_logits, found.mask_logits))
        lost.append(max(distance(*pair) for pair in pairs))
        if lost[-1] <= LOSS:
            return images, found, reduced
    raise ConfigError(
        f"export: {dtype} changes the pipeline's output by at least {min(lost):.1e} for {_DRAWS} draws of "
        f"{tuple(example.shape)} random images; expected at most {LOSS:g}; train the head first, or choose another "
        "dtype"
    )


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Root mean square of the difference, relative to that of `theirs`; for labels, the share that differs."""
    if not theirs.is_floating_point():
        return float((ours != theirs).float().mean())
    return float((ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt().clamp(min=1e-30))


def _require_as_near(
    outputs: Sequence[Tensor], truth: Sequence[Tensor], autocast: Sequence[Tensor], dtype: str, images: Tensor
) -> None:
    for ours, theirs, reduced in zip(outputs, truth, autocast, strict=True):
        _require_shape(ours, theirs)
        floor = TOLERANCE if theirs.is_floating_point() else TIES
        limit = max(FACTOR * distance(reduced, theirs), floor)
        found = distance(ours, theirs)
        if not found <= limit:
            raise ConfigError(
                f"export: the graph in {dtype} differs from the pipeline in float32 by {found:.1e} for images of "
                f"{tuple(images.shape)}; expected at most {limit:.1e}, {FACTOR} times what autocast changes. The file "
                "was not kept"
            )


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference, relative to the largest magnitude of `theirs`."""
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30))


def _require_near(outputs: Sequence[Tensor], expected: Sequence[Tensor], images: Tensor) -> None:
    for ours, theirs in zip(outputs, expected, strict=True):
        _require_shape(ours, theirs)
        found = difference(ours, theirs)
        if not found <= TOLERANCE:
            raise ConfigError(
                f"export: graph and pipeline differ by {found:.1e} of the largest value for images of "
                f"{tuple(images.shape)}; expected at most {TOLERANCE:g}. The file was not kept"
            )


def _require_shape(ours: Tensor, theirs: Tensor) -> None:
    if ours.shape != theirs.shape:
        raise ConfigError(f"export: the graph returned {tuple(ours.shape)}, the pipeline {tuple(theirs.shape)}")


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
