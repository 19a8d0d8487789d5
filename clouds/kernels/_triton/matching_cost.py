"""Matching costs: programs sum a split of the points for a tile of queries and targets; a second kernel adds splits.

100 queries and 10 targets of one image and 10 layers are 70 tiles, fewer than a GPU has multiprocessors, so points are
split. Splits are added in fixed order, so results are deterministic.
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# (Triton's types are those of its compiler, not of Python)

from __future__ import annotations

from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

from clouds.kernels._triton.launch import Launch
from clouds.kernels.tuning import launch_arguments

# 16 x 16 is the smallest tile of a matrix product, and images rarely have more than 16 classes. 32 points are a line
# of 128 bytes; 64 would take more registers. Three stages hide the latency of loads.
LAUNCH = Launch(blocks={"QUERIES": 16, "TARGETS": 16, "POINTS": 32}, num_warps=4, num_stages=3)
COMBINE = Launch(blocks={"QUERIES": 16, "TARGETS": 16, "CLASSES": 32}, num_warps=4, num_stages=1)
_PROGRAMS = 528  # four per multiprocessor of an H200 (132); fixed, so that results do not depend on the device
_SPAN = 512  # minimum points per program: 16 steps


@triton.jit
def _class_cost(logits, labels, classes, class_k, q, t, targets, QUERIES: tl.constexpr, CLASSES: tl.constexpr):
    """Minus the probability of each target's class, [QUERIES, TARGETS]; `logits` points to the queries' rows."""
    # Maximum and sum of exponentials over the classes [QUERIES] (online softmax)
    largest = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    for start in range(0, classes, CLASSES):
        k = start + tl.arange(0, CLASSES)
        place = logits[:, None] + (k * class_k)[None, :]
        value = tl.load(place, mask=q[:, None] & (k < classes)[None, :], other=float("-inf")).to(tl.float32)
        before = largest
        largest = tl.maximum(largest, tl.max(value, 1))
        shift = tl.where(largest == float("-inf"), 0, largest)  # -inf - -inf is NaN
        total = total * tl.exp(before - shift) + tl.sum(tl.exp(value - shift[:, None]), 1)
    # Probability of each target's class; NaN for invalid labels
    label = tl.load(labels + t, mask=targets, other=0).to(tl.int32)
    known = targets & (label >= 0) & (label < classes)
    place = logits[:, None] + (label * class_k)[None, :]
    value = tl.load(place, mask=q[:, None] & known[None, :], other=float("nan")).to(tl.float32)
    return -tl.exp(value - largest[:, None]) / total[:, None]


@triton.jit
def _tile(values, masks, counted, mask_p, target_p, valid_p, start, stop, q, t, POINTS: tl.constexpr):
    """Load logits [QUERIES, POINTS], masks [TARGETS, POINTS] and validity [POINTS]; 0 beyond the last point."""
    p = start + tl.arange(0, POINTS)
    there = p < stop
    x = tl.load(values[:, None] + (p * mask_p)[None, :], mask=q[:, None] & there[None, :], other=0).to(tl.float32)
    y = tl.load(masks[:, None] + (p * target_p)[None, :], mask=t[:, None] & there[None, :], other=0).to(tl.float32)
    return x, y, tl.load(counted + p * valid_p, mask=there, other=0).to(tl.float32)


@triton.jit
def _infinite_entropy(
    entropy, values, masks, counted, mask_p, target_p, valid_p, first, stop, q, t,
    QUERIES: tl.constexpr, TARGETS: tl.constexpr, POINTS: tl.constexpr,
):  # fmt: skip
    """Replace the entropy of rows with infinite logits by max(-x, 0) y + max(x, 0) (1 - y), infinite or NaN."""
    infinite = tl.zeros((QUERIES, TARGETS), tl.float32)
    rows = tl.zeros((QUERIES, POINTS), tl.int32)
    for start in range(first, stop, POINTS):
        x, y, counts = _tile(values, masks, counted, mask_p, target_p, valid_p, start, stop, q, t, POINTS)
        finite = tl.abs(x) < float("inf")
        inside = tl.where(finite | (x > 0), 0, -x) * counts[None, :]
        outside = tl.where(finite | (x < 0), 0, x) * counts[None, :]
        infinite = tl.dot(inside, tl.trans(y), infinite, input_precision="tf32")
        infinite = tl.dot(outside, tl.trans(1 - y), infinite, input_precision="tf32")
        rows |= tl.where(finite, 0, 1)
    return tl.where((tl.max(rows, 1) > 0)[:, None], infinite, entropy)


@triton.jit
def _sums(
    values, masks, counted, mask_p, target_p, valid_p, first, stop, q, t,
    QUERIES: tl.constexpr, TARGETS: tl.constexpr, POINTS: tl.constexpr,
):  # fmt: skip
    """Sums over points first..stop: cross entropy, overlap, sum of areas, all [QUERIES, TARGETS], and valid points."""
    # Matrix products [QUERIES, TARGETS]
    products = tl.zeros((QUERIES, TARGETS), tl.float32)
    overlap = tl.zeros((QUERIES, TARGETS), tl.float32)
    # Elementwise sums [rows, POINTS], reduced over points once at the end
    softplus_all = tl.zeros((QUERIES, POINTS), tl.float32)
    inside_all = tl.zeros((QUERIES, POINTS), tl.float32)
    target_all = tl.zeros((TARGETS, POINTS), tl.float32)
    count_all = tl.zeros((POINTS,), tl.float32)
    for start in range(first, stop, POINTS):
        x, y, counts = _tile(values, masks, counted, mask_p, target_p, valid_p, start, stop, q, t, POINTS)
        # BCE(x, y) = softplus(x) - x y; tf32x3 has nearly float32 precision and runs on tensor cores
        small = tl.exp(-tl.abs(x))
        softplus_all += (tl.log(1 + small) + tl.where(x > 0, x, 0)) * counts[None, :]
        products = tl.dot(x * counts[None, :], tl.trans(y), products, input_precision="tf32x3")
        # Overlap and areas from the sigmoid of x
        probability = tl.where(x < 0, small, 1) / (1 + small) * counts[None, :]
        y = y * counts[None, :]
        overlap = tl.dot(probability, tl.trans(y), overlap, input_precision="tf32x3")
        inside_all += probability
        target_all += y
        count_all += counts
    # Cross entropy; a second pass only for infinite logits
    softplus = tl.sum(softplus_all, 1)
    entropy = softplus[:, None] - products
    if tl.max(tl.where(softplus < float("inf"), 0, 1), 0) > 0:
        entropy = _infinite_entropy(
            entropy, values, masks, counted, mask_p, target_p, valid_p, first, stop, q, t, QUERIES, TARGETS, POINTS
        )
    areas = tl.sum(inside_all, 1)[:, None] + tl.sum(target_all, 1)[None, :]
    return entropy, overlap, areas, tl.sum(count_all, 0)


@triton.jit
def matching_cost_forward(
    mask_values, target_values, valid, offsets, parts, images, queries, targets, points, span, splits,
    mask_l, mask_b, mask_q, mask_p, target_l, target_t, target_p, valid_l, valid_b, valid_p,
    QUERIES: tl.constexpr, TARGETS: tl.constexpr, POINTS: tl.constexpr,
):  # fmt: skip
    """Sums over one split of the points, "s 4 l q t": cross entropy, overlap, sum of areas, valid points."""
    # Layer, image, queries and targets of this tile
    split, owner = tl.program_id(0) % splits, tl.program_id(0) // splits
    layer, image = (owner // images).to(tl.int64), (owner % images).to(tl.int64)
    end = tl.load(offsets + image + 1)
    column = tl.load(offsets + image) + tl.program_id(2) * TARGETS
    if column >= end:  # images have different numbers of targets
        return
    row = tl.program_id(1) * QUERIES + tl.arange(0, QUERIES)
    t = column + tl.arange(0, TARGETS)
    q, wanted = row < queries, t < end
    # Pointers to rows of the tile, and the range of points of this split
    values = mask_values + layer * mask_l + image * mask_b + row.to(tl.int64) * mask_q
    masks = target_values + layer * target_l + t.to(tl.int64) * target_t
    counted = valid + layer * valid_l + image * valid_b
    first, stop = split * span, tl.minimum(points, (split + 1) * span)
    entropy, overlap, areas, count = _sums(
        values, masks, counted, mask_p, target_p, valid_p, first, stop, q, wanted, QUERIES, TARGETS, POINTS
    )
    # Store the four sums of this split
    plane = tl.num_programs(0).to(tl.int64) // splits // images * queries * targets
    place = parts + split * 4 * plane + ((layer * queries + row) * targets)[:, None] + t[None, :]
    stored = q[:, None] & wanted[None, :]
    tl.store(place, entropy, mask=stored)
    tl.store(place + plane, overlap, mask=stored)
    tl.store(place + 2 * plane, areas, mask=stored)
    tl.store(place + 3 * plane, tl.zeros_like(entropy) + count, mask=stored)


@triton.jit
def matching_cost_combine(
    class_logits, labels, offsets, parts, cost, images, queries, targets, classes, splits,
    class_l, class_b, class_q, class_k, class_weight, mask_weight, dice_weight,
    QUERIES: tl.constexpr, TARGETS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """Costs of a tile, from the sums of all splits."""
    # Layer, image, queries and targets of this tile
    layer, image = (tl.program_id(0) // images).to(tl.int64), (tl.program_id(0) % images).to(tl.int64)
    end = tl.load(offsets + image + 1)
    column = tl.load(offsets + image) + tl.program_id(2) * TARGETS
    if column >= end:
        return
    row = tl.program_id(1) * QUERIES + tl.arange(0, QUERIES)
    t = column + tl.arange(0, TARGETS)
    q, wanted = row < queries, t < end
    # Add the sums of all splits [QUERIES, TARGETS]
    entropy = tl.zeros((QUERIES, TARGETS), tl.float32)
    overlap = tl.zeros((QUERIES, TARGETS), tl.float32)
    areas = tl.zeros((QUERIES, TARGETS), tl.float32)
    count = tl.zeros((QUERIES, TARGETS), tl.float32)
    plane = tl.num_programs(0).to(tl.int64) // images * queries * targets
    place, here = ((layer * queries + row) * targets)[:, None] + t[None, :], q[:, None] & wanted[None, :]
    for split in range(splits):
        part = parts + split * 4 * plane + place
        entropy += tl.load(part, mask=here, other=0.0)
        overlap += tl.load(part + plane, mask=here, other=0.0)
        areas += tl.load(part + 2 * plane, mask=here, other=0.0)
        count += tl.load(part + 3 * plane, mask=here, other=0.0)
    # Class, mask and dice costs, and their weighted sum
    rows = class_logits + layer * class_l + image * class_b + row.to(tl.int64) * class_q
    class_cost = _class_cost(rows, labels, classes, class_k, q, t, wanted, QUERIES, CLASSES)
    mask_cost, dice_cost = entropy / tl.maximum(count, 1), 1 - (2 * overlap + 1) / (areas + 1)
    total = class_weight * class_cost + mask_weight * mask_cost + dice_weight * dice_cost
    tl.store(cost + place, total, mask=here)


def forward(
    class_logits: Tensor,
    mask_values: Tensor,
    labels: Tensor,
    target_values: Tensor,
    valid: Tensor,
    counts: list[int],
    weights: list[float],
) -> Tensor:
    """Costs "l q t"; arguments as in `clouds.kernels.matching_cost.matching_cost`."""
    layers, images, queries, points = mask_values.shape
    targets = len(labels)
    cost = mask_values.new_empty(layers, queries, targets, dtype=torch.float32)
    if not cost.numel():
        return cost
    blocks = LAUNCH.blocks
    tiles = triton.cdiv(queries, blocks["QUERIES"]), triton.cdiv(max(counts), blocks["TARGETS"])
    span, splits = _spans(points, layers * images * tiles[0] * tiles[1])
    parts = cost.new_empty(splits, 4, *cost.shape)
    offsets = torch.tensor([0, *accumulate(counts)], dtype=torch.int32, device=cost.device)
    with torch.cuda.device_of(cost):
        matching_cost_forward[(layers * images * splits, *tiles)](
            mask_values, target_values, valid, offsets, parts, images, queries, targets, points, span, splits,
            *mask_values.stride(), *target_values.stride(), *valid.stride(),
            **launch_arguments("matching_cost_forward", LAUNCH, mask_values),
        )  # fmt: skip
        matching_cost_combine[(layers * images, *tiles)](
            class_logits, labels.contiguous(), offsets, parts, cost, images, queries, targets, class_logits.shape[3],
            splits, *class_logits.stride(), *weights,
            **launch_arguments("matching_cost_combine", COMBINE, mask_values),
        )  # fmt: skip
    return cost


def _spans(points: int, programs: int) -> tuple[int, int]:
    """Points per split (whole steps) and number of splits, given the number of `programs` without splitting."""
    step = LAUNCH.blocks["POINTS"]
    wanted = triton.cdiv(_PROGRAMS, programs)
    span = max(_SPAN, triton.cdiv(triton.cdiv(points, wanted), step) * step)
    return span, max(1, triton.cdiv(points, span))
