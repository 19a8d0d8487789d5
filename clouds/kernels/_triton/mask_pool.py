"""Sums of features under binarised masks: masks are computed from logits in registers and used in matrix products.

Forward, each program sums some hundred pixels for a tile of masks and channels; a second, small sum adds the programs'
results in fixed order. Backward, each program handles a tile of channels and pixels and loops over masks.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# (`triton.jit` functions are not typed)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from clouds.kernels._triton.launch import Launch
from clouds.kernels.tuning import launch_arguments

# 128 masks cover the 100 of the released heads, so that features are read once. Masks are read from the L2 cache once
# per 64 channels: with 128 channels the sums take 64 registers per thread, and spill with the addresses of both tiles.
FORWARD = Launch(blocks={"BLOCK_Q": 128, "BLOCK_C": 64, "BLOCK_N": 32}, num_warps=8, num_stages=3)
# The split of float32 numbers takes more registers: 32 pixels at a time spill on compute capability 8.9.
FORWARD_FLOAT32 = Launch(blocks={"BLOCK_Q": 128, "BLOCK_C": 64, "BLOCK_N": 16}, num_warps=8, num_stages=3)
# As many sums, but long along the pixels, which are written once. 32 masks at a time waste little of 100; 16 would
# waste less, but wait twice as often.
BACKWARD = Launch(blocks={"BLOCK_Q": 32, "BLOCK_C": 64, "BLOCK_N": 128}, num_warps=8, num_stages=2)
_PROGRAMS = 256  # about two per multiprocessor of 132; more enlarge the second sum
_LEAST_PIXELS = 256  # per program; fewer do not pay for its start and for writing its sums


@triton.jit
def mask_pool_forward(
    features, masks, totals, counts, queries, channels, pixels, width, share, batch_stride, channel_stride, row_stride,
    column_stride, mask_batch_stride, mask_stride, mask_row_stride, mask_column_stride, FLAT: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    # Masks and channels of this tile, pointers to their first pixels
    part, parts, image = tl.program_id(0), tl.num_programs(0), tl.program_id(2).to(tl.int64)
    tiles = tl.cdiv(channels, BLOCK_C)
    q = tl.program_id(1) // tiles * BLOCK_Q + tl.arange(0, BLOCK_Q)
    c = tl.program_id(1) % tiles * BLOCK_C + tl.arange(0, BLOCK_C)
    maps = features + image * batch_stride + c[None, :].to(tl.int64) * channel_stride
    logits = masks + image * mask_batch_stride + q[:, None].to(tl.int64) * mask_stride
    # Sums "BLOCK_Q BLOCK_C" and pixel counts "BLOCK_Q" over this program's share of the pixels
    total = tl.zeros([BLOCK_Q, BLOCK_C], tl.float32)
    count = tl.zeros([BLOCK_Q], tl.float32)
    for start in range(part * share, tl.minimum(part * share + share, pixels), BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        known = n < tl.minimum(part * share + share, pixels)
        # Binarised masks "BLOCK_Q BLOCK_N"
        of_mask = logits + _offset(n, width, mask_row_stride, mask_column_stride, FLAT)[None, :]
        inside = tl.load(of_mask, (q < queries)[:, None] & known[None, :], other=0.0).to(tl.float32) > 0
        inside = inside.to(tl.float32)
        # Features "BLOCK_N BLOCK_C", added to the sums by a matrix product
        of_feature = maps + _offset(n, width, row_stride, column_stride, FLAT)[:, None]
        values = tl.load(of_feature, known[:, None] & (c < channels)[None, :], other=0.0).to(tl.float32)
        total = tl.dot(inside, values, total, input_precision=PRECISION)
        count += tl.sum(inside, 1)
    # Store partial sums; counts by one tile of channels only
    row = (image * parts + part) * queries + q
    tl.store(totals + row[:, None] * channels + c[None, :], total, (q < queries)[:, None] & (c < channels)[None, :])
    if tl.program_id(1) % tiles == 0:
        tl.store(counts + row, count, q < queries)


@triton.jit
def mask_pool_backward(
    gradients, masks, out, queries, channels, pixels, width, mask_batch_stride, mask_stride, mask_row_stride,
    mask_column_stride, FLAT: tl.constexpr, PRECISION: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    # Channels and pixels of this tile
    image = tl.program_id(2).to(tl.int64)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    logits = masks + image * mask_batch_stride + _offset(n, width, mask_row_stride, mask_column_stride, FLAT)[None, :]
    # Gradient of the features "BLOCK_C BLOCK_N", summed over masks
    total = tl.zeros([BLOCK_C, BLOCK_N], tl.float32)
    for start in range(0, queries, BLOCK_Q):
        q = start + tl.arange(0, BLOCK_Q)
        # Binarised masks "BLOCK_Q BLOCK_N"
        of_mask = logits + q[:, None].to(tl.int64) * mask_stride
        inside = tl.load(of_mask, (q < queries)[:, None] & (n < pixels)[None, :], other=0.0).to(tl.float32) > 0
        # Gradients of the sums "BLOCK_C BLOCK_Q"
        of_query = gradients + (image * queries + q)[None, :] * channels + c[:, None]
        shares = tl.load(of_query, (q < queries)[None, :] & (c < channels)[:, None], other=0.0)
        total = tl.dot(shares, inside.to(tl.float32), total, input_precision=PRECISION)
    place = out + (image * channels + c)[:, None] * pixels + n[None, :]
    tl.store(place, total.to(out.dtype.element_ty), (c < channels)[:, None] & (n < pixels)[None, :])


@triton.jit
def _offset(n, width, row_stride, column_stride, FLAT: tl.constexpr):
    """Memory offset of pixel n; FLAT if rows are contiguous, as in all maps except cropped ones."""
    if FLAT:
        return n.to(tl.int64) * column_stride
    return (n // width).to(tl.int64) * row_stride + n % width * column_stride


def forward(features: Tensor, mask_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the features inside each mask "b q c", and the numbers of pixels inside "b q"; both float32."""
    batch, channels, height, width = features.shape
    queries, pixels = mask_logits.shape[1], height * width
    launch = FORWARD_FLOAT32 if features.dtype == torch.float32 else FORWARD
    tiles = triton.cdiv(channels, launch.blocks["BLOCK_C"]) * triton.cdiv(queries, launch.blocks["BLOCK_Q"])
    if not batch * tiles:
        return features.new_zeros(batch, queries, channels).float(), features.new_zeros(batch, queries).float()
    parts = max(1, min(_PROGRAMS // (batch * tiles), pixels // _LEAST_PIXELS))
    totals = features.new_empty(batch, parts, queries, channels, dtype=torch.float32)
    counts = features.new_empty(batch, parts, queries, dtype=torch.float32)
    with torch.cuda.device_of(features):
        mask_pool_forward[(parts, tiles, batch)](
            features, mask_logits, totals, counts, queries, channels, pixels, width, triton.cdiv(pixels, parts),
            *features.stride(), *mask_logits.stride(), FLAT=_is_flat(features) and _is_flat(mask_logits),
            PRECISION=precision(features.dtype), **launch_arguments("mask_pool_forward", launch, features),
        )  # fmt: skip
    return totals.sum(1), counts.sum(1)


def backward(gradients: Tensor, mask_logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Gradient of the features "b c h w", from the gradient of the sums "b q c"."""
    (batch, queries, channels), (height, width) = gradients.shape, mask_logits.shape[2:]
    out = gradients.new_empty(batch, channels, height, width, dtype=dtype)
    if out.numel():
        blocks = BACKWARD.blocks
        grid = (triton.cdiv(height * width, blocks["BLOCK_N"]), triton.cdiv(channels, blocks["BLOCK_C"]), batch)
        with torch.cuda.device_of(out):
            mask_pool_backward[grid](
                gradients.contiguous(), mask_logits, out, queries, channels, height * width, width,
                *mask_logits.stride(), FLAT=_is_flat(mask_logits), PRECISION=precision(dtype),
                **launch_arguments("mask_pool_backward", BACKWARD, out),
            )  # fmt: skip
    return out


def precision(dtype: torch.dtype) -> str:
    """TF32 represents all bfloat16 and float16 numbers; float32 numbers are multiplied as three TF32 products."""
    return "tf32x3" if dtype == torch.float32 else "tf32"


def _is_flat(maps: Tensor) -> bool:
    return maps.stride(2) == maps.shape[3] * maps.stride(3)
