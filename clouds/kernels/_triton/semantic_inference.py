"""One kernel resizes, activates and merges maps, and finds the best class, for a tile of pixels per program."""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportOperatorIssue=false, reportAssignmentType=false
# (`triton.jit` functions are not typed)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from attrs import frozen
from torch import Tensor
from triton import knobs

from clouds.kernels._triton.launch import Launch
from clouds.kernels.tuning import launch_arguments

NONE, SIGMOID, SOFTMAX = 0, 1, 2
_ROWS = 4  # rows of pixels between the same two rows of cells, at stride 4


@triton.jit
def semantic_inference_forward(
    maps, classes, out, row_index, row_weight, column_index, column_weight, queries, labels, height, width, lead,
    map_stride, row_stride, column_stride, query_stride, class_stride,
    ROW_TAPS: tl.constexpr, COLUMN_TAPS: tl.constexpr, ROWS: tl.constexpr, ACTIVATION: tl.constexpr,
    SCORES: tl.constexpr, PRECISION: tl.constexpr, FAST: tl.constexpr,
    BLOCK_X: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    top = tl.program_id(1) * ROWS - lead  # tile of ROWS x BLOCK_X pixels
    left = tl.program_id(0) * BLOCK_X
    k = tl.arange(0, BLOCK_K)
    # Merged scores "pixels BLOCK_K"; running maximum and sum of the softmax "pixels"
    merged = tl.zeros([ROWS * BLOCK_X, BLOCK_K], tl.float32)
    highest = tl.full([ROWS * BLOCK_X], float("-inf"), tl.float32)
    total = tl.zeros([ROWS * BLOCK_X], tl.float32)
    for start in range(0, queries, BLOCK_Q):
        # Resized logits of some queries "BLOCK_Q pixels"
        q = start + tl.arange(0, BLOCK_Q)
        values = _resampled(
            maps + q[:, None].to(tl.int64) * map_stride, (q < queries)[:, None], row_index, row_weight, column_index,
            column_weight, top, left, height, width, row_stride, column_stride, ROW_TAPS, COLUMN_TAPS, ROWS, BLOCK_X,
        )  # fmt: skip
        values = tl.reshape(values, [BLOCK_Q, ROWS * BLOCK_X])
        if ACTIVATION == 0:  # the maps are scores, and a block holds all classes
            merged = tl.trans(values)
        else:
            # Mask probabilities "BLOCK_Q pixels"
            if ACTIVATION == 1:
                values = _sigmoid(values, FAST)
            else:
                values, highest, total, share = _softmax(values, (q < queries)[:, None], highest, total)
                merged *= share[:, None]
            # Class probabilities "BLOCK_Q BLOCK_K", merged by a matrix product
            of_query = classes + q[:, None] * query_stride + k[None, :] * class_stride
            shares = tl.load(of_query, (q < queries)[:, None] & (k < labels)[None, :], other=0.0).to(tl.float32)
            merged = tl.dot(tl.trans(values), shares, merged, input_precision=PRECISION)
    # Softmax denominator, then scores or best classes
    if ACTIVATION == 2:
        merged /= tl.where(queries > 0, total, 1.0)[:, None]
    _store(out, merged, labels, top, left, height, width, BLOCK_X, SCORES)


@triton.jit
def _store(out, merged, labels, top, left, height, width, BLOCK_X: tl.constexpr, SCORES: tl.constexpr):
    """Store scores "pixels classes" of a tile, or the best class of each pixel."""
    pixel, k = tl.arange(0, merged.shape[0]), tl.arange(0, merged.shape[1])
    y, x = top + pixel // BLOCK_X, left + pixel % BLOCK_X
    inside = (y >= 0) & (y < height) & (x < width)
    place = out + y.to(tl.int64) * width + x
    if SCORES:
        area = k[None, :].to(tl.int64) * height * width
        tl.store(place[:, None] + area, merged, inside[:, None] & (k < labels)[None, :])
    else:
        merged = tl.where(merged != merged, float("inf"), merged)  # NaN beats every number, as in torch
        merged = tl.where((k < labels)[None, :], merged, float("-inf"))
        tl.store(place, tl.argmax(merged, 1, tie_break_left=True).to(tl.uint8), inside)


@triton.jit
def _resampled(
    maps, exists, row_index, row_weight, column_index, column_weight, top, left, height, width, row_stride,
    column_stride, ROW_TAPS: tl.constexpr, COLUMN_TAPS: tl.constexpr, ROWS: tl.constexpr, BLOCK_X: tl.constexpr,
):  # fmt: skip
    """Resize maps (pointers "n 1") to a tile "n ROWS BLOCK_X": columns first, once for all rows."""
    y = top + tl.arange(0, ROWS)
    x = left + tl.arange(0, BLOCK_X)
    between = tl.maximum(top, 0) * ROW_TAPS  # all rows of the tile share their cells
    values = tl.zeros([maps.shape[0], ROWS, BLOCK_X], tl.float32)
    for i in tl.static_range(ROW_TAPS):
        # One row of cells, resized along columns "n BLOCK_X"
        row = maps + tl.load(row_index + between + i).to(tl.int64) * row_stride
        line = tl.zeros([maps.shape[0], BLOCK_X], tl.float32)
        for j in tl.static_range(COLUMN_TAPS):
            column = tl.load(column_index + x * COLUMN_TAPS + j, x < width, other=0)
            share = tl.load(column_weight + x * COLUMN_TAPS + j, x < width, other=0.0)
            cells = tl.load(row + column[None, :] * column_stride, exists & (x < width)[None, :], other=0.0)
            line += share[None, :] * cells.to(tl.float32)
        # Its weighted contribution to all rows of the tile "n ROWS BLOCK_X"
        share = tl.load(row_weight + y * ROW_TAPS + i, (y >= 0) & (y < height), other=0.0)
        values += share[None, :, None] * line[:, None, :]
    return values


@triton.jit
def _sigmoid(values, FAST: tl.constexpr):
    """Sigmoid of logits.

    FAST: sigmoid(x) = 0.5 + 0.5 tanh(x / 2), one special function instead of two. `tanh.approx.f32` has a relative
    error of at most 2^-11 (PTX ISA), so a probability has an error of at most 2^-12.
    """
    if FAST:
        tanh: tl.constexpr = "tanh.approx.f32 $0, $1;"
        half = tl.inline_asm_elementwise(tanh, "=f,f", [0.5 * values], dtype=tl.float32, is_pure=True, pack=1)
        return 0.5 + 0.5 * half
    return 1 / (1 + tl.exp(-values))


@triton.jit
def _softmax(values, exists, highest, total):
    """One step of an online softmax over queries: exp(logit - highest) of logits "queries pixels".

    Also returns the highest logit and the sum so far, and the factor that rescales earlier sums.
    """
    values = tl.where(exists, values, float("-inf"))
    before, highest = highest, tl.maximum(highest, tl.max(values, 0))
    base = tl.where(highest == float("-inf"), 0.0, highest)  # avoids exp(-inf + inf) if all logits so far are -inf
    values, share = tl.exp(values - base[None, :]), tl.exp(before - base)
    return values, highest, total * share + tl.sum(values, 0), share


@frozen(kw_only=True, eq=False)
class Table:
    """Source cells and weights of each pixel along one axis: contiguous "pixels taps" on the device.

    Attributes:
        index: indices of the cells, int64.
        weight: weights of the cells, float32.
        together: size of the groups of consecutive pixels that share their cells.
        lead: offset of the groups: pixels missing from the first one.
    """

    index: Tensor
    weight: Tensor
    together: int = 1
    lead: int = 0


def merge(
    class_probabilities: Tensor,
    mask_logits: Tensor,
    rows: Table,
    columns: Table,
    *,
    softmax: bool,
    scores: bool,
) -> Tensor:
    """Merge masks to labels "y x" or scores "k y x"; `rows` and `columns` hold the source cells of each pixel."""
    return _run(mask_logits, class_probabilities, rows, columns, SOFTMAX if softmax else SIGMOID, scores)


def resize(maps: Tensor, rows: Table, columns: Table, *, scores: bool) -> Tensor:
    """Resize scores "k h w" to labels "y x" or scores "k y x"."""
    return _run(maps, None, rows, columns, NONE, scores)


def _run(maps: Tensor, classes: Tensor | None, rows: Table, columns: Table, activation: int, scores: bool) -> Tensor:
    queries, (height, width) = len(maps), (len(rows.index), len(columns.index))
    labels = queries if classes is None else classes.shape[1]
    shape, dtype = ((labels, height, width), torch.float32) if scores else ((height, width), torch.uint8)
    out = torch.empty(shape, dtype=dtype, device=maps.device)
    taps = rows.index.shape[1] * columns.index.shape[1]
    launch = choose_launch(queries, labels, rows.together, taps, activation)
    grid = (triton.cdiv(width, launch.blocks["BLOCK_X"]), triton.cdiv(height + rows.lead, rows.together))
    table = maps if classes is None else classes
    with torch.cuda.device_of(maps):
        semantic_inference_forward[grid](
            maps,
            table,
            out,
            rows.index,
            rows.weight,
            columns.index,
            columns.weight,
            queries,
            labels,
            height,
            width,
            rows.lead,
            *maps.stride(),
            *table.stride()[-2:],
            ROW_TAPS=rows.index.shape[1],
            COLUMN_TAPS=columns.index.shape[1],
            ROWS=rows.together,
            ACTIVATION=activation,
            SCORES=scores,
            PRECISION=precision(maps.dtype),
            FAST=maps.element_size() == 2 and not knobs.runtime.interpret,  # the interpreter has no inline assembly
            **launch_arguments("semantic_inference_forward", launch, maps),
        )
    return out


def precision(dtype: torch.dtype) -> str:
    """Precision of products: three TF32 products for float32 maps, one for 16-bit maps, which round as much as TF32."""
    return "tf32x3" if dtype == torch.float32 else "tf32"


def choose_launch(queries: int, labels: int, rows: int, taps: int, activation: int) -> Launch:
    """The tile of a program: pixels (in `rows` rows) x classes, 16 queries at a time.

    16 queries are the minimum of matrix units, and waste least of 100. 4 warps with 128 pixels hold the scores of 19
    classes in 32 registers per thread. Five programs then share a multiprocessor (93 registers in all for bfloat16) and
    hide each other's loads. 64 pixels are the minimum of Hopper's matrix units. Scores that are only resized form one
    block. If rows do not share cells, or there are more taps than in one resize, half as many pixels leave registers
    for the loads of all taps, which the compiler schedules first.
    """
    block_k = max(16, triton.next_power_of_2(labels))
    block_q = 16 if activation != NONE else max(16, triton.next_power_of_2(queries))
    widest = max(block_k, block_q)
    pixels = 128 if widest <= 32 and rows > 1 and taps <= 4 else 64
    if taps > 4 and widest > 128:  # 64 pixels spill: 140 bytes on 8.9, and 264 to 592 under Triton 3.6
        pixels = 32
    if activation == NONE:
        pixels = min(64, 4096 // block_q)
    blocks = {"BLOCK_X": pixels // rows, "BLOCK_Q": block_q, "BLOCK_K": block_k}
    return Launch(blocks=blocks, num_warps=4 if widest <= 64 else 8, num_stages=2)


def together(index: Tensor) -> tuple[int, int]:
    """Size and offset of the groups of rows that share their source cells: (rows, lead).

    Cells are loaded once per group: 4 rows at the stride of the released heads, single rows at other scales.
    """
    changes = (index[1:] != index[:-1]).any(1).nonzero().flatten() + 1
    lead = -int(changes[0]) % _ROWS if len(changes) else 0
    return (_ROWS, lead) if bool(((changes + lead) % _ROWS == 0).all()) else (1, 0)
