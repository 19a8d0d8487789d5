"""Matching costs: each program has one tile of queries and of targets of one image and layer."""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
# (Triton's annotations are those of its compiler, not of Python)

from __future__ import annotations

from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

from clouds.kernels._triton.launch import Launch
from clouds.kernels.tuning import launch_arguments

# 16 x 16 is the smallest tile of a matrix product, and one image has seldom more than 16 classes: with 100 queries and
# 10 layers there are 70 programs per image, which stream the sampled values once. 32 points are a line of 128 bytes;
# with 64 the three products do not fit into registers. Three stages hide the latency of the loads.
LAUNCH = Launch(blocks={"QUERIES": 16, "TARGETS": 16, "POINTS": 32, "CLASSES": 32}, num_warps=4, num_stages=3)


@triton.jit
def _class_cost(logits, labels, classes, class_k, q, t, targets, QUERIES: tl.constexpr, CLASSES: tl.constexpr):
    """Minus the probability of each target's class, [QUERIES, TARGETS]; `logits` points at the rows of the queries."""
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
    label = tl.load(labels + t, mask=targets, other=0).to(tl.int32)
    known = targets & (label >= 0) & (label < classes)
    place = logits[:, None] + (label * class_k)[None, :]
    value = tl.load(place, mask=q[:, None] & known[None, :], other=float("nan")).to(tl.float32)
    return -tl.exp(value - largest[:, None]) / total[:, None]


@triton.jit
def _mask_costs(
    values, masks, counted, mask_p, target_p, valid_p, points, q, t,
    QUERIES: tl.constexpr, TARGETS: tl.constexpr, POINTS: tl.constexpr,
):  # fmt: skip
    """Mask and dice costs, [QUERIES, TARGETS]; `values` and `masks` point at the rows of the queries and targets."""
    entropy = tl.zeros((QUERIES, TARGETS), tl.float32)
    overlap = tl.zeros((QUERIES, TARGETS), tl.float32)
    # One number per point and row, summed over points once, at the end.
    inside_all = tl.zeros((QUERIES, POINTS), tl.float32)
    target_all = tl.zeros((TARGETS, POINTS), tl.float32)
    count_all = tl.zeros((POINTS,), tl.float32)
    for start in range(0, points, POINTS):
        p = start + tl.arange(0, POINTS)
        there = p < points
        x = tl.load(values[:, None] + (p * mask_p)[None, :], mask=q[:, None] & there[None, :], other=0).to(tl.float32)
        y = tl.load(masks[:, None] + (p * target_p)[None, :], mask=t[:, None] & there[None, :], other=0).to(tl.float32)
        counts = tl.load(counted + p * valid_p, mask=there, other=0).to(tl.float32)
        small = tl.exp(-tl.abs(x))
        softplus = tl.log(1 + small)  # without the larger of 0 and x, which follows
        inside = (softplus + tl.where(x < 0, -x, 0)) * counts[None, :]
        outside = (softplus + tl.where(x > 0, x, 0)) * counts[None, :]
        # tf32x3 has nearly the precision of float32, and runs on tensor cores.
        entropy = tl.dot(inside, tl.trans(y), entropy, input_precision="tf32x3")
        entropy = tl.dot(outside, tl.trans(1 - y), entropy, input_precision="tf32x3")
        probability = tl.where(x < 0, small, 1) / (1 + small) * counts[None, :]
        y = y * counts[None, :]
        overlap = tl.dot(probability, tl.trans(y), overlap, input_precision="tf32x3")
        inside_all += probability
        target_all += y
        count_all += counts
    sizes = tl.sum(inside_all, 1)[:, None] + tl.sum(target_all, 1)[None, :]
    return entropy / tl.maximum(tl.sum(count_all, 0), 1), 1 - (2 * overlap + 1) / (sizes + 1)


@triton.jit
def matching_cost_forward(
    class_logits, mask_values, labels, target_values, valid, offsets, cost, images, queries, targets, points, classes,
    class_l, class_b, class_q, class_k, mask_l, mask_b, mask_q, mask_p, target_l, target_t, target_p,
    valid_l, valid_b, valid_p, class_weight, mask_weight, dice_weight,
    QUERIES: tl.constexpr, TARGETS: tl.constexpr, POINTS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    layer = (tl.program_id(0) // images).to(tl.int64)
    image = (tl.program_id(0) % images).to(tl.int64)
    end = tl.load(offsets + image + 1)
    first = tl.load(offsets + image) + tl.program_id(2) * TARGETS
    if first >= end:  # images have different numbers of targets
        return
    q = tl.program_id(1) * QUERIES + tl.arange(0, QUERIES)
    t = first + tl.arange(0, TARGETS)
    here, wanted = q < queries, t < end
    values = mask_values + layer * mask_l + image * mask_b + q.to(tl.int64) * mask_q
    masks = target_values + layer * target_l + t.to(tl.int64) * target_t
    counted = valid + layer * valid_l + image * valid_b
    mask_cost, dice_cost = _mask_costs(
        values, masks, counted, mask_p, target_p, valid_p, points, here, wanted, QUERIES, TARGETS, POINTS
    )
    rows = class_logits + layer * class_l + image * class_b + q.to(tl.int64) * class_q
    class_cost = _class_cost(rows, labels, classes, class_k, here, t, wanted, QUERIES, CLASSES)
    total = class_weight * class_cost + mask_weight * mask_cost + dice_weight * dice_cost
    place = cost + ((layer * queries + q) * targets)[:, None] + t[None, :]
    tl.store(place, total, mask=here[:, None] & wanted[None, :])


def forward(
    class_logits: Tensor,
    mask_values: Tensor,
    labels: Tensor,
    target_values: Tensor,
    valid: Tensor,
    counts: list[int],
    weights: list[float],
) -> Tensor:
    """Costs "l q t"; arguments as of `clouds.kernels.matching_cost.matching_cost`."""
    layers, images, queries, points = mask_values.shape
    cost = mask_values.new_empty(layers, queries, len(labels), dtype=torch.float32)
    blocks = LAUNCH.blocks
    tiles = triton.cdiv(queries, blocks["QUERIES"]), triton.cdiv(max(counts, default=0), blocks["TARGETS"])
    if cost.numel():
        offsets = torch.tensor([0, *accumulate(counts)], dtype=torch.int32, device=cost.device)
        tensors = (class_logits, mask_values, labels.contiguous(), target_values, valid, offsets, cost)
        sizes = (images, queries, len(labels), points, class_logits.shape[3])
        strides = (*class_logits.stride(), *mask_values.stride(), *target_values.stride(), *valid.stride())
        arguments = launch_arguments("matching_cost_forward", LAUNCH, mask_values)
        with torch.cuda.device_of(cost):
            matching_cost_forward[(layers * images, *tiles)](*tensors, *sizes, *strides, *weights, **arguments)
    return cost
