"""Multi-scale deformable attention: a program takes all heads of some neighbouring queries, reads, weighs and sums.

A row of a tile is one head of one query. Heads run fastest, as in memory: the offsets and logits of neighbouring rows
lie side by side, and so do the rows of the output.

Nothing is kept between the steps: a softmax needs its largest logit and its sum, which a first pass over the logits
finds, and a location is a sum of two numbers. In the backward pass all of this is computed again.

The kernels have two modes. FUSED: `offsets` are in cells, from `reference` in 0..1, and `logits` go through a softmax.
Otherwise `offsets` are locations in 0..1 and `logits` are weights, and `reference` is not read.
"""

# Types of the kernel language are those of its compiler, not of Python.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from clouds.kernels._triton.launch import Launch
from clouds.kernels.tuning import launch_arguments


@triton.jit
def _softmax_terms(logits, present, SAMPLES: tl.constexpr):
    """Of each row's logits: the largest, and 1 over the sum of exp(logit - largest).

    They are read one by one: results of a tile of them would have another layout than the rows, and with them all that
    is read for these.
    """
    largest = tl.full(present.shape, float("-inf"), tl.float32)
    for sample in tl.static_range(SAMPLES):
        largest = tl.maximum(largest, tl.load(logits + sample, mask=present, other=0.0).to(tl.float32))
    total = tl.zeros_like(largest)
    for sample in tl.static_range(SAMPLES):
        total += tl.exp(tl.load(logits + sample, mask=present, other=0.0).to(tl.float32) - largest)
    return largest, 1 / total


@triton.jit
def _center(reference, strides, present, level, width, height, FUSED: tl.constexpr):
    """Where a row's offsets start, in cells from the first one's centre, and in how many cells they count."""
    x, y, unit_x, unit_y = -0.5, -0.5, width, height
    if FUSED:
        place = reference + level * strides[2]
        x += tl.load(place, mask=present, other=0.0).to(tl.float32) * width
        y += tl.load(place + strides[3], mask=present, other=0.0).to(tl.float32) * height
        unit_x, unit_y = 1.0, 1.0
    return x, y, unit_x, unit_y


@triton.jit
def _offset(offsets, present):
    """Offset (x, y) of one sample of each row, in one load."""
    place = offsets[:, None] + tl.arange(0, 2)[None, :]
    return tl.split(tl.load(place, mask=present[:, None], other=0.0).to(tl.float32))


@triton.jit
def _side(position, size):
    """Along one axis: the cell before a position, whether it and the one behind it exist, and the share of the latter.

    Compared as floats: far locations have no integer. A NaN has no cells, and its share is NaN.
    """
    low = tl.floor(position)
    near = (low >= -1) & (low < size)
    return tl.where(near, low, -1.0).to(tl.int32), near & (low >= 0), near & (low < size - 1), position - low


@triton.jit
def _corners(offsets, center, width, height, start, present):
    """The upper left of the four cells around a sample, which of them are to be read, and the shares of the others.

    `center` is where offsets start, and the unit in which they count. A cell that does not exist may have any number:
    it is not read.
    """
    x, y = _offset(offsets, present)
    left, has_left, has_right, across = _side(center[0] + x * center[2], width)
    top, has_top, has_bottom, down = _side(center[1] + y * center[3], height)
    has_top, has_bottom = has_top & present, has_bottom & present
    exist = (has_top & has_left, has_top & has_right, has_bottom & has_left, has_bottom & has_right)
    return start + top * tl.cast(width, tl.int32) + left, exist, across, down


@triton.jit
def _shares(weight, across, down):
    """Of a sample's weight, what each of its four cells counts."""
    above, below = weight * (1 - down), weight * down
    return above * (1 - across), above * across, below * (1 - across), below * across


@triton.jit
def _places(pointer, cell, width, stride):
    """Rows of the four cells around a position, of which `cell` is the upper left."""
    above = pointer + (cell * stride)[:, None]
    below = above + tl.cast(width, tl.int32) * stride
    return above, above + stride, below, below + stride


@triton.jit
def _read(place, exists):
    """Rows in float32, 0 for cells that do not exist: "BLOCK WIDTH"."""
    return tl.load(place, mask=exists[:, None], other=0.0).to(tl.float32)


@triton.jit
def _read_four(places, exist):
    """Rows of the four cells of a sample."""
    return (
        _read(places[0], exist[0]),
        _read(places[1], exist[1]),
        _read(places[2], exist[2]),
        _read(places[3], exist[3]),
    )


@triton.jit
def _rows(queries, heads, BLOCK: tl.constexpr):
    """Rows of this program: number within all images, query, head, image, and whether they exist. Heads run fastest."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    batch = tl.program_id(1).to(tl.int64)
    return batch * queries * heads + row, row // heads, row % heads, batch, row < queries * heads


@triton.jit(do_not_specialize=["queries"])
def deformable_attention_forward(
    output, value, reference, offsets, logits, sizes, queries, heads, value_strides, reference_strides,
    FUSED: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr, STRIDE: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """output "b q m d" of value "b s m d", reference "b q l 2", offsets "b q m l p 2" and logits "b q m l p"."""
    item, query, head, batch, present = _rows(queries, heads, BLOCK)
    channel = tl.arange(0, WIDTH)[None, :]
    value += batch * value_strides[0] + (head * value_strides[2])[:, None] + channel * value_strides[3]
    reference += batch * reference_strides[0] + query * reference_strides[1]
    offsets += item * (LEVELS * POINTS * 2)
    logits += item * (LEVELS * POINTS)
    if FUSED:
        largest, factor = _softmax_terms(logits, present, LEVELS * POINTS)
    total = tl.zeros((BLOCK, WIDTH), tl.float32)
    start = 0
    for level in tl.static_range(LEVELS):
        height, width = sizes[2 * level], sizes[2 * level + 1]
        center = _center(reference, reference_strides, present, level, width, height, FUSED)
        for point in range(POINTS):
            sample = level * POINTS + point
            weight = tl.load(logits + sample, mask=present, other=0.0).to(tl.float32)
            if FUSED:
                weight = tl.exp(weight - largest)
            cell, exist, across, down = _corners(offsets + 2 * sample, center, width, height, start, present)
            shares = _shares(weight, across, down)
            places = _places(value, cell, width, STRIDE)
            rows = _read_four(places, exist)
            for corner in tl.static_range(4):
                total += shares[corner][:, None] * rows[corner]
        start += tl.cast(height, tl.int32) * tl.cast(width, tl.int32)
    if FUSED:
        total *= factor[:, None]
    tl.store(output + (item * WIDTH)[:, None] + channel, total, mask=present[:, None])


@triton.jit
def _dot(row, other):
    return tl.sum(row * other, 1)


@triton.jit
def _gradients(row, rows, across, down, weight, unit_x, unit_y):
    """Of a sample's weight and offset, from the products of the output's gradient with its four rows."""
    top_left, top_right = _dot(row, rows[0]), _dot(row, rows[1])
    bottom_left, bottom_right = _dot(row, rows[2]), _dot(row, rows[3])
    above, below = top_left + across * (top_right - top_left), bottom_left + across * (bottom_right - bottom_left)
    along_x = (1 - down) * (top_right - top_left) + down * (bottom_right - bottom_left)
    return above + down * (below - above), weight * along_x * unit_x, weight * (below - above) * unit_y


@triton.jit
def _add(places, shares, row, exist):
    """Adds the shares of a row to the rows of four cells."""
    for corner in tl.static_range(4):
        add = shares[corner][:, None] * row
        tl.atomic_add(places[corner], add, mask=exist[corner][:, None], sem="relaxed")


@triton.jit
def _store_sample(offset_gradient, logit_gradient, sample, present, of_x, of_y, of_logit):
    tl.store(logit_gradient + sample, of_logit, mask=present)
    tl.store(offset_gradient + 2 * sample, of_x, mask=present)
    tl.store(offset_gradient + 2 * sample + 1, of_y, mask=present)


@triton.jit(do_not_specialize=["queries", "cells_of_image"])
def deformable_attention_backward(
    value_gradient, offset_gradient, logit_gradient, gradient, output, value, reference, offsets, logits, sizes,
    queries, heads, cells_of_image, value_strides, reference_strides, gradient_strides,
    FUSED: tl.constexpr, SCATTER: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr, STRIDE: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients from that of the output, "b q (m d)"; those of the values are added, in float32, where SCATTER.

    The softmax needs the mean of its weights' gradients: it is the product of the output with its gradient. The order
    of additions to the values' is the device's.
    """
    item, query, head, batch, present = _rows(queries, heads, BLOCK)
    channel = tl.arange(0, WIDTH)[None, :]
    value += batch * value_strides[0] + (head * value_strides[2])[:, None] + channel * value_strides[3]
    value_gradient += batch * cells_of_image * heads * WIDTH + (head * WIDTH)[:, None] + channel
    reference += batch * reference_strides[0] + query * reference_strides[1]
    offsets += item * (LEVELS * POINTS * 2)
    logits += item * (LEVELS * POINTS)
    offset_gradient += item * (LEVELS * POINTS * 2)
    logit_gradient += item * (LEVELS * POINTS)
    gradient += batch * gradient_strides[0] + query[:, None].to(tl.int64) * gradient_strides[1]
    row = _read(gradient + (head[:, None] * WIDTH + channel) * gradient_strides[2], present)
    if FUSED:
        largest, factor = _softmax_terms(logits, present, LEVELS * POINTS)
        mean = _dot(row, _read(output + (item * WIDTH)[:, None] + channel, present))
    start = 0
    for level in tl.static_range(LEVELS):
        height, width = sizes[2 * level], sizes[2 * level + 1]
        center = _center(reference, reference_strides, present, level, width, height, FUSED)
        for point in range(POINTS):
            sample = level * POINTS + point
            weight = tl.load(logits + sample, mask=present, other=0.0).to(tl.float32)
            if FUSED:
                weight = tl.exp(weight - largest) * factor
            cell, exist, across, down = _corners(offsets + 2 * sample, center, width, height, start, present)
            rows = _read_four(_places(value, cell, width, STRIDE), exist)
            of_weight, of_x, of_y = _gradients(row, rows, across, down, weight, center[2], center[3])
            of_logit = weight * (of_weight - mean) if FUSED else of_weight
            _store_sample(offset_gradient, logit_gradient, sample, present, of_x, of_y, of_logit)
            if SCATTER:
                _add(_places(value_gradient, cell, width, heads * WIDTH), _shares(weight, across, down), row, exist)
        start += tl.cast(height, tl.int32) * tl.cast(width, tl.int32)


def launch(width: int, itemsize: int) -> Launch:
    """Of either kernel: `itemsize` bytes per channel in the values that it reads, or in the float32 that it adds."""
    # One row of a corner is read by as many threads as it has 16 bytes, the widest load there is, and every thread
    # reads one such part per corner: more rows per thread take registers (64 for one, on 9.0), and what hides the
    # latency of reads is the number of warps. A block of 4 warps has 32 rows of 64 bytes: the 8 heads of 4 neighbouring
    # queries, which read neighbouring cells through one L1 cache. At 512x1024 this still makes 2,688 programs.
    # The backward kernel adds rows of float32, four channels at a time: were it to read eight at a time, every row
    # would change hands through shared memory first.
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
        "offsets": offsets.contiguous(),
        "logits": logits.contiguous(),
        "sizes": tuple(map(float, sizes)),  # integers would be compiled in: one kernel per size of image
        "queries": logits.shape[1],
        "heads": logits.shape[2],
        "value_strides": value.stride(),
        "reference_strides": centers.stride(),
        "FUSED": reference is not None,
        "LEVELS": levels,
        "POINTS": points,
        "STRIDE": value.stride(1),
        "WIDTH": value.shape[3],
    }


def _run(kernel: Any, logits: Tensor, shape: Launch, arguments: dict[str, Any]) -> None:
    """A program per block of rows, one row of the output for each query and head, and image."""
    batch, queries, heads = logits.shape[:3]
    with torch.cuda.device_of(logits):
        launching = launch_arguments(kernel.__name__, shape, arguments["value"])
        kernel[triton.cdiv(queries * heads, shape.blocks["BLOCK"]), batch](**arguments, **launching)


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
