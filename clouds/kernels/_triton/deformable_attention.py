"""Multi-scale deformable attention: a program takes one head of some neighbouring queries, and reads, weighs and sums.

Nothing is kept between the steps: a softmax needs its largest logit and its sum, which a first pass over the logits
finds, and a location is a sum of two numbers. In the backward pass all of this is computed again.

The kernels have two modes. FUSED: `offsets` are in cells, from `reference` in 0..1, and `logits` go through a softmax.
Otherwise `offsets` are locations in 0..1 and `logits` are weights, and `reference` is not read.
"""

# Types of the kernel language are those of its compiler, not of Python.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from clouds.kernels._triton.launch import Launch
from clouds.kernels.tuning import launch_arguments


@triton.jit
def _of(pointer, strides, batch, head):
    """The part of one image and head."""
    return pointer + (batch * strides[0] + head * strides[2])


@triton.jit
def _softmax_terms(logits, strides, query, present, LEVELS: tl.constexpr, POINTS: tl.constexpr, SAMPLES: tl.constexpr):
    """Of each query's logits: the largest, and the sum of exp(logit - largest)."""
    sample = tl.arange(0, SAMPLES)[None, :]
    exists = sample < LEVELS * POINTS
    place = query[:, None] * strides[1] + sample // POINTS * strides[3] + sample % POINTS * strides[4]
    score = tl.load(logits + place, mask=present[:, None] & exists, other=0.0).to(tl.float32)
    score = tl.where(exists, score, float("-inf"))
    largest = tl.max(score, 1)
    return largest, tl.sum(tl.exp(score - largest[:, None]), 1)


@triton.jit
def _center(reference, strides, query, present, level, width, height, FUSED: tl.constexpr):
    """Where a query's offsets start, in cells from the first one's centre, and in how many cells they count."""
    x, y, unit_x, unit_y = -0.5, -0.5, width, height
    if FUSED:
        place = reference + query * strides[1] + level * strides[2]
        x += tl.load(place, mask=present, other=0.0).to(tl.float32) * width
        y += tl.load(place + strides[3], mask=present, other=0.0).to(tl.float32) * height
        unit_x, unit_y = 1.0, 1.0
    return x, y, unit_x, unit_y


@triton.jit
def _sample(offsets, offset_strides, logits, logit_strides, query, present, level, point):
    """Offset x, y and logit of one sample of each query."""
    place = offsets + query * offset_strides[1] + level * offset_strides[3] + point * offset_strides[4]
    x = tl.load(place, mask=present, other=0.0).to(tl.float32)
    y = tl.load(place + offset_strides[5], mask=present, other=0.0).to(tl.float32)
    place = logits + query * logit_strides[1] + level * logit_strides[3] + point * logit_strides[4]
    return x, y, tl.load(place, mask=present, other=0.0).to(tl.float32)


@triton.jit
def _sides(position, size):
    """Along one axis: the cells on both sides of a position, whether they exist, and the share of the second.

    Compared as floats: far locations have no integer. A NaN has no cells, and its share is NaN.
    """
    low = tl.floor(position)
    has_first = (low >= 0) & (low < size)
    has_second = (low >= -1) & (low < size - 1)
    first = tl.where(has_first, low, 0.0).to(tl.int32)
    second = tl.where(has_second, low + 1, 0.0).to(tl.int32)
    return first, second, has_first, has_second, position - low


@triton.jit
def _corners(x, y, width, height, start, present):
    """The four cells around a position, row by row, whether they are to be read, and the shares of the second ones."""
    left, right, has_left, has_right, across = _sides(x, width)
    top, bottom, has_top, has_bottom, down = _sides(y, height)
    above, below = start + top * tl.cast(width, tl.int32), start + bottom * tl.cast(width, tl.int32)
    has_top, has_bottom = has_top & present, has_bottom & present
    cells = (above + left, above + right, below + left, below + right)
    return cells, (has_top & has_left, has_top & has_right, has_bottom & has_left, has_bottom & has_right), across, down


@triton.jit
def _shares(weight, across, down):
    """Of a sample's weight, what each of its four rows counts."""
    above, below = weight * (1 - down), weight * down
    return above * (1 - across), above * across, below * (1 - across), below * across


@triton.jit
def _read(value, cell, exists, stride, channel):
    """Rows of the values in float32, 0 for cells that do not exist: "BLOCK WIDTH"."""
    return tl.load(value + (cell[:, None] * stride + channel), mask=exists[:, None], other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["queries"])
def deformable_attention_forward(
    output, value, reference, offsets, logits, sizes, queries,
    value_strides, reference_strides, offset_strides, logit_strides,
    FUSED: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr, SAMPLES: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """output "b q m d" of value "b s m d", reference "b q l 2", offsets "b q m l p 2" and logits "b q m l p"."""
    query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    head, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    present = query < queries
    channel = (tl.arange(0, WIDTH) * value_strides[3])[None, :]
    value = _of(value, value_strides, batch, head)
    reference += batch * reference_strides[0]
    offsets, logits = _of(offsets, offset_strides, batch, head), _of(logits, logit_strides, batch, head)
    if FUSED:
        largest, divisor = _softmax_terms(logits, logit_strides, query, present, LEVELS, POINTS, SAMPLES)
    total = tl.zeros((BLOCK, WIDTH), tl.float32)
    start = 0
    for level in tl.static_range(LEVELS):
        height, width = sizes[2 * level], sizes[2 * level + 1]
        x0, y0, unit_x, unit_y = _center(reference, reference_strides, query, present, level, width, height, FUSED)
        for point in range(POINTS):
            x, y, weight = _sample(offsets, offset_strides, logits, logit_strides, query, present, level, point)
            if FUSED:
                weight = tl.exp(weight - largest)
            cells, exist, across, down = _corners(x0 + x * unit_x, y0 + y * unit_y, width, height, start, present)
            shares = _shares(weight, across, down)
            for corner in tl.static_range(4):
                row = _read(value, cells[corner], exist[corner], value_strides[1], channel)
                total += shares[corner][:, None] * row
        start += tl.cast(height, tl.int32) * tl.cast(width, tl.int32)
    if FUSED:
        total = total / divisor[:, None]
    place = ((batch * queries + query) * tl.num_programs(1) + head) * WIDTH
    tl.store(output + place[:, None] + tl.arange(0, WIDTH)[None, :], total, mask=present[:, None])


@triton.jit
def _dot(row, value, cell, exists, stride, channel):
    return tl.sum(row * _read(value, cell, exists, stride, channel), 1)


@triton.jit
def _dots(row, value, cells, exist, stride, channel):
    """Products of the output's gradient with the four rows of a sample."""
    return (
        _dot(row, value, cells[0], exist[0], stride, channel),
        _dot(row, value, cells[1], exist[1], stride, channel),
        _dot(row, value, cells[2], exist[2], stride, channel),
        _dot(row, value, cells[3], exist[3], stride, channel),
    )


@triton.jit
def _scatter(value_gradient, shares, cells, exist, row, stride, channel):
    """Add the output's gradient to the four rows of a sample. The order of additions is the device's."""
    for corner in tl.static_range(4):
        place = value_gradient + (cells[corner][:, None] * stride + channel)
        tl.atomic_add(place, shares[corner][:, None] * row, mask=exist[corner][:, None], sem="relaxed")


@triton.jit
def _gradients(products, across, down, weight, unit_x, unit_y):
    """Of a sample's weight and offset, from the products of the output's gradient with its four rows."""
    top_left, top_right, bottom_left, bottom_right = products
    above, below = top_left + across * (top_right - top_left), bottom_left + across * (bottom_right - bottom_left)
    along_x = (1 - down) * (top_right - top_left) + down * (bottom_right - bottom_left)
    return above + down * (below - above), weight * along_x * unit_x, weight * (below - above) * unit_y


@triton.jit
def _store_sample(offset_gradient, logit_gradient, sample, present, of_x, of_y, of_logit):
    tl.store(logit_gradient + sample, of_logit, mask=present)
    tl.store(offset_gradient + 2 * sample, of_x, mask=present)
    tl.store(offset_gradient + 2 * sample + 1, of_y, mask=present)


@triton.jit(do_not_specialize=["queries", "cells_of_image"])
def deformable_attention_backward(
    value_gradient, offset_gradient, logit_gradient, gradient, output,
    value, reference, offsets, logits, sizes, queries, cells_of_image,
    gradient_strides, value_strides, reference_strides, offset_strides, logit_strides,
    FUSED: tl.constexpr, SCATTER: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr, SAMPLES: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients from that of the output, "b q (m d)"; those of the values are added, in float32, where SCATTER.

    The softmax needs the mean of its weights' gradients: it is the product of the output with its gradient.
    """
    query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    head, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    present, channel = query < queries, tl.arange(0, WIDTH)[None, :]
    item = (batch * queries + query) * tl.num_programs(1) + head
    value = _of(value, value_strides, batch, head)
    value_gradient += (batch * cells_of_image * tl.num_programs(1) + head) * WIDTH
    reference += batch * reference_strides[0]
    offsets, logits = _of(offsets, offset_strides, batch, head), _of(logits, logit_strides, batch, head)
    gradient += batch * gradient_strides[0] + query[:, None].to(tl.int64) * gradient_strides[1]
    gradient += (head * WIDTH + channel) * gradient_strides[2]
    row = tl.load(gradient, mask=present[:, None], other=0.0).to(tl.float32)
    if FUSED:
        largest, divisor = _softmax_terms(logits, logit_strides, query, present, LEVELS, POINTS, SAMPLES)
        mean = _dot(row, output, item, present, WIDTH, channel)
    start = 0
    for level in tl.static_range(LEVELS):
        height, width = sizes[2 * level], sizes[2 * level + 1]
        x0, y0, unit_x, unit_y = _center(reference, reference_strides, query, present, level, width, height, FUSED)
        for point in range(POINTS):
            x, y, weight = _sample(offsets, offset_strides, logits, logit_strides, query, present, level, point)
            if FUSED:
                weight = tl.exp(weight - largest) / divisor
            cells, exist, across, down = _corners(x0 + x * unit_x, y0 + y * unit_y, width, height, start, present)
            products = _dots(row, value, cells, exist, value_strides[1], channel * value_strides[3])
            of_weight, of_x, of_y = _gradients(products, across, down, weight, unit_x, unit_y)
            of_logit = weight * (of_weight - mean) if FUSED else of_weight
            sample = (item * LEVELS + level) * POINTS + point
            _store_sample(offset_gradient, logit_gradient, sample, present, of_x, of_y, of_logit)
            if SCATTER:
                shares, stride = _shares(weight, across, down), tl.num_programs(1) * WIDTH
                _scatter(value_gradient, shares, cells, exist, row, stride, channel)
        start += tl.cast(height, tl.int32) * tl.cast(width, tl.int32)


def launch(width: int, itemsize: int) -> Launch:
    """Of either kernel: `itemsize` bytes per channel in the values that it reads, or in the float32 that it adds."""
    # One row of a corner is read by as many threads as it has 16 bytes, the widest load there is, and every thread
    # reads one such part per corner: more rows per thread take registers (84 instead of 61 for two, on 9.0), and what
    # hides the latency of reads is the number of warps. A block of 4 warps has 32 queries at 64 bytes a row: these are
    # neighbours, which read the same cells, through one L1 cache. At 512x1024 this still makes 2,688 programs.
    # The backward kernel adds rows of float32, four channels at a time: were it to read eight at a time, every row
    # would change hands through shared memory first (43 barriers instead of 18, and spills on 8.0 and 8.9).
    return Launch(blocks={"BLOCK": 4 * 32 * 16 // (width * itemsize)}, num_warps=4, num_stages=1)


def _arguments(
    value: Tensor, sizes: list[int], reference: Tensor | None, offsets: Tensor, logits: Tensor
) -> dict[str, Any]:
    """What both kernels take."""
    levels, points = logits.shape[3:]
    centers = offsets if reference is None else reference  # not read without a reference
    return {
        "value": value,
        "reference": centers,
        "offsets": offsets,
        "logits": logits,
        "sizes": tuple(map(float, sizes)),  # integers would be compiled in: one kernel per size of image
        "queries": offsets.shape[1],
        "value_strides": value.stride(),
        "reference_strides": centers.stride(),
        "offset_strides": offsets.stride(),
        "logit_strides": logits.stride(),
        "FUSED": reference is not None,
        "LEVELS": levels,
        "POINTS": points,
        "SAMPLES": triton.next_power_of_2(levels * points),
        "WIDTH": value.shape[3],
    }


def _run(kernel: Any, logits: Tensor, shape: Launch, arguments: dict[str, Any]) -> None:
    """A program per block of queries, head and image."""
    batch, queries, heads = logits.shape[:3]
    with torch.cuda.device_of(logits):
        launching = launch_arguments(kernel.__name__, shape, arguments["value"])
        kernel[triton.cdiv(queries, shape.blocks["BLOCK"]), heads, batch](**arguments, **launching)


def forward(value: Tensor, sizes: list[int], reference: Tensor | None, offsets: Tensor, logits: Tensor) -> Tensor:
    """Output "b q md" in the values' dtype. `sizes` are heights and widths in turn."""
    batch, queries, heads = logits.shape[:3]
    output = value.new_empty(batch, queries, heads * value.shape[3])
    if output.numel():
        arguments = _arguments(value, sizes, reference, offsets, logits) | {"output": output}
        _run(deformable_attention_forward, logits, launch(value.shape[3], value.element_size()), arguments)
    return output


def backward(
    gradient: Tensor,
    output: Tensor,
    value: Tensor,
    sizes: list[int],
    reference: Tensor | None,
    offsets: Tensor,
    logits: Tensor,
    *,
    scatter: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value (float32; empty without `scatter`), offsets and logits."""
    of_value = torch.zeros(value.shape if scatter else (0,), dtype=torch.float32, device=value.device)
    of_offsets, of_logits = (torch.empty(one.shape, dtype=one.dtype, device=one.device) for one in (offsets, logits))
    if output.numel():
        arguments = _arguments(value, sizes, reference, offsets, logits) | {
            "value_gradient": of_value,
            "offset_gradient": of_offsets,
            "logit_gradient": of_logits,
            "gradient": gradient,
            "output": output,
            "cells_of_image": value.shape[1],
            "gradient_strides": gradient.stride(),
            "SCATTER": scatter,
        }
        _run(deformable_attention_backward, logits, launch(value.shape[3], of_value.element_size()), arguments)
    return of_value, of_offsets, of_logits
