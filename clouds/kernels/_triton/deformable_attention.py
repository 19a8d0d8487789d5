"""Multi-scale deformable attention: each program samples, weighs and sums for all heads of some neighbouring queries.

A row of a tile is one head of one query. Heads run fastest, as in memory, so offsets, logits and outputs of
neighbouring rows are contiguous.

No intermediates are stored. A first pass over the logits finds the maximum and the sum for the softmax; locations are
cheap to compute. The backward pass recomputes both.

The kernels have two modes. FUSED: `offsets` are in cells relative to `reference` (0..1), and `logits` go through a
softmax. Otherwise `offsets` are locations in 0..1, `logits` are weights, and `reference` is not read.
"""

# Triton's types are those of its compiler, not of Python.
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
    """Maximum of each row's logits, and 1 / sum of exp(logit - maximum).

    Logits are loaded one by one. Reducing a tile would give the results another layout than the rows, and that layout
    would spread to all loads of the rows.
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
    """Origin of a row's offsets, in cells from the first cell's centre, and the offsets' unit in cells."""
    x, y, unit_x, unit_y = -0.5, -0.5, width, height
    if FUSED:
        place = reference + level * strides[2]
        x += tl.load(place, mask=present, other=0.0).to(tl.float32) * width
        y += tl.load(place + strides[3], mask=present, other=0.0).to(tl.float32) * height
        unit_x, unit_y = 1.0, 1.0
    return x, y, unit_x, unit_y


@triton.jit
def _offset(offsets, present):
    """Load the offset (x, y) of one sample of each row."""
    place = offsets[:, None] + tl.arange(0, 2)[None, :]
    return tl.split(tl.load(place, mask=present[:, None], other=0.0).to(tl.float32))


@triton.jit
def _side(position, size):
    """Along one axis: the low cell, whether the low and high cells exist, and the weight of the high cell.

    Comparisons use floats, because far locations overflow integers. NaN has no cells, and a NaN weight.
    """
    low = tl.floor(position)
    near = (low >= -1) & (low < size)
    return tl.where(near, low, -1.0).to(tl.int32), near & (low >= 0), near & (low < size - 1), position - low


@triton.jit
def _corners(offsets, center, width, height, start, present):
    """Upper left of a sample's four cells, which of the four exist, and the weights of the right and lower cells.

    `center` holds origin and unit of the offsets. Cells that do not exist may have any index; they are not loaded.
    """
    # Position in cells and corners along x, then along y
    x, y = _offset(offsets, present)
    left, has_left, has_right, across = _side(center[0] + x * center[2], width)
    top, has_top, has_bottom, down = _side(center[1] + y * center[3], height)
    # Existing corners: upper left, upper right, lower left, lower right
    has_top, has_bottom = has_top & present, has_bottom & present
    exist = (has_top & has_left, has_top & has_right, has_bottom & has_left, has_bottom & has_right)
    return start + top * tl.cast(width, tl.int32) + left, exist, across, down


@triton.jit
def _shares(weight, across, down):
    """Weights of a sample's four cells."""
    above, below = weight * (1 - down), weight * down
    return above * (1 - across), above * across, below * (1 - across), below * across


@triton.jit
def _places(pointer, cell, width, stride):
    """Pointers to the rows of the four cells around a position; `cell` is the upper left."""
    above = pointer + (cell * stride)[:, None]
    below = above + tl.cast(width, tl.int32) * stride
    return above, above + stride, below, below + stride


@triton.jit
def _read(place, exists):
    """Load rows as float32 "BLOCK WIDTH"; 0 for cells that do not exist."""
    return tl.load(place, mask=exists[:, None], other=0.0).to(tl.float32)


@triton.jit
def _read_four(places, exist):
    """Load the rows of a sample's four cells."""
    return (
        _read(places[0], exist[0]),
        _read(places[1], exist[1]),
        _read(places[2], exist[2]),
        _read(places[3], exist[3]),
    )


@triton.jit
def _rows(queries, heads, BLOCK: tl.constexpr):
    """Rows of this program: global index, query, head, image, and whether they exist. Heads run fastest."""
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
    # Pointers to the first sample of each row "BLOCK", and to channels of each row "BLOCK WIDTH"
    item, query, head, batch, present = _rows(queries, heads, BLOCK)
    channel = tl.arange(0, WIDTH)[None, :]
    value += batch * value_strides[0] + (head * value_strides[2])[:, None] + channel * value_strides[3]
    reference += batch * reference_strides[0] + query * reference_strides[1]
    offsets += item * (LEVELS * POINTS * 2)
    logits += item * (LEVELS * POINTS)
    # Softmax terms "BLOCK"
    if FUSED:
        largest, factor = _softmax_terms(logits, present, LEVELS * POINTS)
    # Sum over levels and points "BLOCK WIDTH"
    total = tl.zeros((BLOCK, WIDTH), tl.float32)
    start = 0
    for level in tl.static_range(LEVELS):
        height, width = sizes[2 * level], sizes[2 * level + 1]
        center = _center(reference, reference_strides, present, level, width, height, FUSED)
        for point in range(POINTS):
            # Weight of the sample "BLOCK", without the softmax's denominator
            sample = level * POINTS + point
            weight = tl.load(logits + sample, mask=present, other=0.0).to(tl.float32)
            if FUSED:
                weight = tl.exp(weight - largest)
            # Four cells and their weights; load and accumulate their rows
            cell, exist, across, down = _corners(offsets + 2 * sample, center, width, height, start, present)
            shares = _shares(weight, across, down)
            places = _places(value, cell, width, STRIDE)
            rows = _read_four(places, exist)
            for corner in tl.static_range(4):
                total += shares[corner][:, None] * rows[corner]
        start += tl.cast(height, tl.int32) * tl.cast(width, tl.int32)
    # Divide by the softmax's denominator and store
    if FUSED:
        total *= factor[:, None]
    tl.store(output + (item * WIDTH)[:, None] + channel, total, mask=present[:, None])


@triton.jit
def _dot(row, other):
    return tl.sum(row * other, 1)


@triton.jit
def _gradients(row, rows, across, down, weight, unit_x, unit_y):
    """Gradients of a sample's weight and offset, from products of the output's gradient with the four rows."""
    # Products with the four cells "BLOCK"
    top_left, top_right = _dot(row, rows[0]), _dot(row, rows[1])
    bottom_left, bottom_right = _dot(row, rows[2]), _dot(row, rows[3])
    # Interpolated product is the weight's gradient; its slopes along x and y give the offset's
    above, below = top_left + across * (top_right - top_left), bottom_left + across * (bottom_right - bottom_left)
    along_x = (1 - down) * (top_right - top_left) + down * (bottom_right - bottom_left)
    return above + down * (below - above), weight * along_x * unit_x, weight * (below - above) * unit_y


@triton.jit
def _add(places, shares, row, exist):
    """Add a row, times each cell's weight, to the rows of four cells, atomically."""
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
    """Gradients of offsets and logits, and with SCATTER of values (added in float32), from the output's "b q (m d)".

    The softmax needs the weighted mean of its weights' gradients, which equals the product of the output with its
    gradient. Additions to the values' gradient have no fixed order.
    """
    item, query, head, batch, present = _rows(queries, heads, BLOCK)  # pointers of rows "BLOCK WIDTH"
    channel = tl.arange(0, WIDTH)[None, :]
    value += batch * value_strides[0] + (head * value_strides[2])[:, None] + channel * value_strides[3]
    value_gradient += batch * cells_of_image * heads * WIDTH + (head * WIDTH)[:, None] + channel
    reference += batch * reference_strides[0] + query * reference_strides[1]
    offsets += item * (LEVELS * POINTS * 2)
    logits += item * (LEVELS * POINTS)
    offset_gradient += item * (LEVELS * POINTS * 2)
    logit_gradient += item * (LEVELS * POINTS)
    gradient += batch * gradient_strides[0] + query[:, None].to(tl.int64) * gradient_strides[1]
    # Gradient of the output "BLOCK WIDTH"; softmax terms and weighted mean "BLOCK"
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
            # Gradients of logit and offset "BLOCK"
            of_weight, of_x, of_y = _gradients(row, rows, across, down, weight, center[2], center[3])
            of_logit = weight * (of_weight - mean) if FUSED else of_weight
            _store_sample(offset_gradient, logit_gradient, sample, present, of_x, of_y, of_logit)
            if SCATTER:  # gradient of the values, added to the four cells
                _add(_places(value_gradient, cell, width, heads * WIDTH), _shares(weight, across, down), row, exist)
        start += tl.cast(height, tl.int32) * tl.cast(width, tl.int32)


def launch(width: int, itemsize: int) -> Launch:
    """Launch of either kernel; `itemsize` is that of the loaded values (forward) or the added float32 (backward)."""
    # Each thread loads 16 bytes (the widest load) of one row per corner. More rows per thread would take registers (64
    # for one row, on 9.0), while only the number of warps hides the latency of loads. A block of 4 warps has 32 rows of
    # 64 bytes: 8 heads of 4 neighbouring queries, which share cells in the L1 cache. At 512x1024 this gives 2,688
    # programs. The backward kernel adds float32 rows, four channels per thread; loading eight at a time would
    # redistribute every row through shared memory.
    return Launch(blocks={"BLOCK": 4 * 32 * 16 // (width * itemsize)}, num_warps=4, num_stages=1)


def _arguments(
    value: Tensor, sizes: list[int], reference: Tensor | None, offsets: Tensor, logits: Tensor
) -> dict[str, Any]:
    """Arguments of both kernels."""
    levels, points = logits.shape[3:]
    centers = offsets if reference is None else reference  # not read without a reference
    return {
        "value": value,
        "reference": centers,
        "offsets": offsets.contiguous(),
        "logits": logits.contiguous(),
        "sizes": tuple(map(float, sizes)),  # integers may be specialised: one kernel per image size
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
    """Launch one program per image and block of rows; a row is one query and head."""
    batch, queries, heads = logits.shape[:3]
    with torch.cuda.device_of(logits):
        launching = launch_arguments(kernel.__name__, shape, arguments["value"])
        kernel[triton.cdiv(queries * heads, shape.blocks["BLOCK"]), batch](**arguments, **launching)


def forward(value: Tensor, sizes: list[int], reference: Tensor | None, offsets: Tensor, logits: Tensor) -> Tensor:
    """Output "b q md" in the values' dtype. `sizes` alternates heights and widths."""
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
