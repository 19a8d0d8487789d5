"""Masked attention: one kernel packs the masks into bits, then each head streams keys and values past its queries.

Why bits: the mask costs q x n x c products, half as many as the attention of all 8 heads of 32 channels together
(q x n x d x m x 2). Computed within each head, it would be computed 8 times, and the mask features, half as large as
keys and values together, would be read 8 times. As bits it takes n q / 8 bytes (0.4 MB of 50 at 1024x2048 and stride
8), and is kept for the backward pass. Empty masks must be known before the first key is read, which needs a separate
pass anyway.

Why splits: 1 image, 8 heads and 100 queries give only 8 programs. Therefore keys are split. Each split has its own
softmax with the logarithm of its sum, and a last kernel combines the splits.

The backward kernel computes all gradients of a split of keys. Those of keys and values are complete after one block of
queries, which 100 queries fit into; those of queries are summed over splits. Nothing is added atomically, keys and
values are read once, and there are five products; separate kernels for queries and keys would need seven.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# Compile-time arguments have other types for the compiler than for Python.

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from clouds.kernels._triton.launch import Launch
from clouds.kernels.tuning import launch_arguments

_WORD = 32  # keys per word of the mask, and per step of the kernels: one bit per logit
_PROGRAMS = 528  # four per multiprocessor of an H200 (132); fixed, so that results do not depend on the device
_SPAN = 128  # minimum keys per split: four steps, so that two loads are in flight while a third is used


@triton.jit
def masked_attention_pack(
    embed, features, words, queries, keys, channels,
    embed_b, embed_q, embed_c, features_b, features_c, features_n,
    QUERIES: tl.constexpr, CHANNELS: tl.constexpr, COMPUTE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute one word for a block of queries."""
    # Keys of the word and queries of the block
    word, b = tl.program_id(0), tl.program_id(2).to(tl.int64)
    bit = tl.arange(0, 32)
    n = word.to(tl.int64) * 32 + bit
    q = tl.program_id(1) * QUERIES + tl.arange(0, QUERIES)
    embed += b * embed_b + q[:, None] * embed_q
    features += b * features_b + n[None, :] * features_n
    # Mask logits "QUERIES 32", summed over channels
    logits = tl.zeros((QUERIES, 32), tl.float32)
    for start in range(0, channels, CHANNELS):
        c = start + tl.arange(0, CHANNELS)
        mask = (q < queries)[:, None] & (c < channels)[None, :]
        left = tl.load(embed + c[None, :] * embed_c, mask=mask, other=0.0).to(COMPUTE)
        mask = (c < channels)[:, None] & (n < keys)[None, :]
        right = tl.load(features + c.to(tl.int64)[:, None] * features_c, mask=mask, other=0.0).to(COMPUTE)
        logits = tl.dot(left, right, logits, input_precision=PRECISION)
    # Bits of the keys inside, one word per query "QUERIES"
    inside = (logits >= 0) & (n < keys)[None, :]
    bits = tl.sum(inside.to(tl.int32) << bit[None, :], 1)
    words += b * (tl.num_programs(0) + 1) * queries + q
    tl.store(words + word * queries, bits, mask=q < queries)
    # Union of all words; the order of "or" does not matter
    union = words + tl.num_programs(0) * queries
    tl.atomic_or(union, bits, mask=(q < queries) & (bits != 0), sem="relaxed")


@triton.jit
def _rows(head, n, count, stride_n, stride_d, WIDTH: tl.constexpr, COMPUTE: tl.constexpr):
    """Load rows of one head "n d"; 0 beyond the last."""
    place = head + n.to(tl.int64)[:, None] * stride_n + tl.arange(0, WIDTH)[None, :] * stride_d
    return tl.load(place, mask=(n < count)[:, None], other=0.0).to(COMPUTE)


@triton.jit
def _everywhere(words, present, queries, keys):
    """Whether each query has an empty mask; False for padding of the block."""
    return tl.load(words + tl.cdiv(keys, 32) * queries, mask=present, other=1) == 0


@triton.jit
def _logits(left, right, words, present, everywhere, start, queries, keys, scale, PRECISION: tl.constexpr):
    """Logits of 32 keys times log2(e), "q n", -inf outside the mask; and the mask."""
    bit = tl.arange(0, 32)[None, :]
    word = tl.load(words + start // 32 * queries, mask=present, other=0)[:, None]
    allowed = (((word >> bit) & 1) != 0) | (everywhere[:, None] & (start + bit < keys))
    logits = tl.dot(left, tl.trans(right), input_precision=PRECISION) * scale
    return tl.where(allowed, logits, float("-inf")), allowed


@triton.jit
def masked_attention_forward(
    q, k, v, words, parts, part_totals, heads, queries, keys, span, scale,
    q_b, q_m, q_n, q_d, k_b, k_m, k_n, k_d, v_b, v_m, v_n, v_d,
    QUERIES: tl.constexpr, WIDTH: tl.constexpr, COMPUTE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attention of a block of queries to one split of the keys, and log2 of its sum of exponentials."""
    # Head, queries and keys of this program
    split, owner = tl.program_id(0), tl.program_id(2).to(tl.int64)
    b, m = owner // heads, owner % heads
    row = tl.program_id(1) * QUERIES + tl.arange(0, QUERIES)
    present = row < queries
    k += b * k_b + m * k_m
    v += b * v_b + m * v_m
    words += b * (tl.cdiv(keys, 32) + 1) * queries + row
    everywhere = _everywhere(words, present, queries, keys)
    # Queries "QUERIES WIDTH"; running maximum and sum "QUERIES", output "QUERIES WIDTH" (online softmax)
    left = _rows(q + b * q_b + m * q_m, row, queries, q_n, q_d, WIDTH, COMPUTE)
    largest = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    output = tl.zeros((QUERIES, WIDTH), tl.float32)
    for start in range(split * span, tl.minimum(keys, (split + 1) * span), 32):
        # Logits of 32 keys "QUERIES 32"
        n = start + tl.arange(0, 32)
        right = _rows(k, n, keys, k_n, k_d, WIDTH, COMPUTE)
        logits, _ = _logits(left, right, words, present, everywhere, start, queries, keys, scale, PRECISION)
        # New maximum; rescale earlier sums to it
        larger = tl.maximum(largest, tl.max(logits, 1))
        base = tl.where(larger == float("-inf"), 0.0, larger)  # no key so far: -inf - -inf would be NaN
        share, kept = tl.exp2(logits - base[:, None]), tl.exp2(largest - base)
        total = total * kept + tl.sum(share, 1)
        # Add weighted values "QUERIES WIDTH"
        values = _rows(v, n, keys, v_n, v_d, WIDTH, COMPUTE)
        output = tl.dot(share.to(COMPUTE), values, output * kept[:, None], input_precision=PRECISION)
        largest = larger
    # Store the normalised output and log2 of the sum; -inf for splits without keys inside the mask
    some = tl.where(total == 0, 1.0, total)
    place = (owner * tl.num_programs(0) + split) * queries + row
    tl.store(part_totals + place, tl.where(total == 0, float("-inf"), largest + tl.log2(some)), mask=present)
    place = place[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    tl.store(parts + place, output / some[:, None], mask=present[:, None])


@triton.jit
def masked_attention_combine(
    parts, part_totals, output, totals, heads, queries, splits,
    QUERIES: tl.constexpr, SPLITS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Combine splits "s q d", weighted by their sums: output "b q m d", and log2 of the total sum."""
    # Sums of the splits "SPLITS QUERIES" as log2
    owner = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    split, d = tl.arange(0, SPLITS), tl.arange(0, WIDTH)
    present = (split < splits)[:, None] & (row < queries)[None, :]
    place = (owner * splits + split)[:, None] * queries + row[None, :]
    part_total = tl.load(part_totals + place, mask=present, other=0.0)
    part_total = tl.where((split < splits)[:, None], part_total, float("-inf"))
    # Weights of the splits "SPLITS QUERIES"
    largest = tl.max(part_total, 0)
    share = tl.exp2(part_total - largest[None, :])  # NaN if every logit is -inf, as in softmax
    # Outputs of the splits "SPLITS QUERIES WIDTH", averaged to "QUERIES WIDTH"
    part = tl.load(parts + place[:, :, None] * WIDTH + d[None, None, :], mask=present[:, :, None], other=0.0)
    total = tl.sum(share, 0)
    result = tl.sum(share[:, :, None] * part, 0) / total[:, None]
    tl.store(totals + owner * queries + row, largest + tl.log2(total), mask=row < queries)
    place = ((owner // heads * queries + row) * heads + owner % heads)[:, None] * WIDTH + d[None, :]
    tl.store(output + place, result.to(output.dtype.element_ty), mask=(row < queries)[:, None])


@triton.jit
def _store_key_gradient(gradient, place, value, mask, ADD: tl.constexpr):
    if ADD:
        value += tl.load(gradient + place, mask=mask, other=0.0)
    tl.store(gradient + place, value.to(gradient.dtype.element_ty), mask=mask)


@triton.jit
def masked_attention_backward(
    q, k, v, gradient, words, totals, deltas, q_parts, k_gradient, v_gradient,
    first, heads, queries, keys, span, scale,
    q_b, q_m, q_n, q_d, k_b, k_m, k_n, k_d, v_b, v_m, v_n, v_d, gradient_b, gradient_m, gradient_n, gradient_d,
    QUERIES: tl.constexpr, WIDTH: tl.constexpr, COMPUTE: tl.constexpr, PRECISION: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """Gradients between a block of queries, starting at `first`, and one split of the keys.

    Gradients of keys and values "b n m d" are stored, or with ADD added; those of queries are "s b q m d".
    """
    split, owner = tl.program_id(0), tl.program_id(1).to(tl.int64)  # head, queries and keys of this program
    b, m = owner // heads, owner % heads
    row = first + tl.arange(0, QUERIES)
    present, d = row < queries, tl.arange(0, WIDTH)
    k += b * k_b + m * k_m
    v += b * v_b + m * v_m
    words += b * (tl.cdiv(keys, 32) + 1) * queries + row
    everywhere = _everywhere(words, present, queries, keys)
    # Queries and the output's gradient "QUERIES WIDTH"; log2 sums and softmax terms "QUERIES 1"
    left = _rows(q + b * q_b + m * q_m, row, queries, q_n, q_d, WIDTH, COMPUTE)
    of_output = _rows(gradient + b * gradient_b + m * gradient_m, row, queries, gradient_n, gradient_d, WIDTH, COMPUTE)
    total = tl.load(totals + owner * queries + row, mask=present, other=0.0)[:, None]
    delta = tl.load(deltas + owner * queries + row, mask=present, other=0.0)[:, None]
    of_queries = tl.zeros((QUERIES, WIDTH), tl.float32)
    for start in range(split * span, tl.minimum(keys, (split + 1) * span), 32):
        n = start + tl.arange(0, 32)  # recompute attention weights "QUERIES 32"
        right = _rows(k, n, keys, k_n, k_d, WIDTH, COMPUTE)
        logits, allowed = _logits(left, right, words, present, everywhere, start, queries, keys, scale, PRECISION)
        share = tl.exp2(logits - total)
        place = ((b * keys + n) * heads + m)[:, None] * WIDTH + d[None, :]  # gradient of the values "32 WIDTH"
        exists = (n < keys)[:, None]
        of_values = tl.dot(tl.trans(share.to(COMPUTE)), of_output, input_precision=PRECISION)
        _store_key_gradient(v_gradient, place, of_values, exists, ADD)
        values = _rows(v, n, keys, v_n, v_d, WIDTH, COMPUTE)  # gradients of weights and logits "QUERIES 32"
        of_shares = tl.dot(of_output, tl.trans(values), input_precision=PRECISION)
        of_logits = tl.where(allowed, share * (of_shares - delta), 0.0).to(COMPUTE)
        # Gradients of the keys "32 WIDTH" and the queries "QUERIES WIDTH"; ln(2) undoes the base 2
        of_keys = tl.dot(tl.trans(of_logits), left, input_precision=PRECISION) * (scale * 0.6931471805599453)
        _store_key_gradient(k_gradient, place, of_keys, exists, ADD)
        of_queries = tl.dot(of_logits, right, of_queries, input_precision=PRECISION)
    batch = tl.num_programs(1) // heads  # store the queries' gradient of this split
    place = (((split * batch + b) * queries + row) * heads + m)[:, None] * WIDTH + d[None, :]
    tl.store(q_parts + place, of_queries * (scale * 0.6931471805599453), mask=present[:, None])


def attend_launch(queries: int, width: int, dtype: torch.dtype, *, backward: bool) -> Launch:
    """Launch of the forward or the backward kernel.

    A block of all 100 queries reads keys and values once. In bfloat16 with width 32 it takes 127 registers in each of
    128 threads on 9.0, so that four programs share a multiprocessor. Larger rows, and float32 with its products in
    three parts, take more. Blocks of 16 KB of queries do not spill; in the backward pass, with five products, blocks
    of 8 KB hardly spill. With rows of 512 bytes, two loads in flight fit into the 99 KB of 8.9, but not three.
    """
    row = width * dtype.itemsize
    most = min(128, (8192 if backward else 16384) // row)
    block = min(most, max(16, triton.next_power_of_2(queries)))
    warps, stages = 8 if backward or row > 64 else 4, 2 if backward or row > 256 else 3
    return Launch(blocks={"QUERIES": block}, num_warps=warps, num_stages=stages)


def pack_launch(queries: int) -> Launch:
    """Launch of the packing kernel: with 128 queries per block, each mask feature is read once.

    The levels of 1024x2048 give 1024, 256 and 64 programs. 32 channels at a time in 8 warps, because float32 spills
    otherwise.
    """
    block = min(128, max(16, triton.next_power_of_2(queries)))
    return Launch(blocks={"QUERIES": block, "CHANNELS": 32}, num_warps=8, num_stages=3)


def combine_launch(splits: int, width: int) -> Launch:
    """Launch of the combining kernel: at most 4,096 numbers per tile, 32 per thread, all loaded at once."""
    splits = triton.next_power_of_2(splits)
    return Launch(blocks={"QUERIES": max(1, 4096 // (splits * width)), "SPLITS": splits}, num_warps=4, num_stages=1)


def _spans(keys: int, programs: int) -> tuple[int, int]:
    """Keys per split (whole words) and number of splits, given the number of `programs` without splitting."""
    wanted = min(64, triton.cdiv(_PROGRAMS, programs))
    span = max(_SPAN, triton.cdiv(triton.cdiv(keys, wanted), _WORD) * _WORD)
    return span, triton.cdiv(keys, span)


def _computing(dtype: torch.dtype) -> dict[str, Any]:
    """Dtype and precision of products: float32 as three TF32 products; always float32 in the interpreter.

    The interpreter does not support bfloat16 arithmetic.
    """
    types = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}
    return {"COMPUTE": tl.float32 if knobs.runtime.interpret else types[dtype], "PRECISION": "tf32x3"}


def _strides(axes: str, **tensors: Tensor) -> dict[str, int]:
    return {
        f"{name}_{axis}": stride
        for name, tensor in tensors.items()
        for axis, stride in zip(axes, tensor.stride(), strict=True)
    }


def pack(mask_embed: Tensor, mask_features: Tensor) -> Tensor:
    """Masks of queries "b q c" over keys "b c n" as bits, int32 "b w+1 q"; the last word is the union of all."""
    batch, queries, channels = mask_embed.shape
    keys = mask_features.shape[2]
    count = triton.cdiv(keys, _WORD)
    words = mask_embed.new_zeros(batch, count + 1, queries, dtype=torch.int32)
    if words.numel():
        launch = pack_launch(queries)
        grid = (count, triton.cdiv(queries, launch.blocks["QUERIES"]), batch)
        with torch.cuda.device_of(words):
            masked_attention_pack[grid](
                mask_embed, mask_features, words, queries, keys, channels,
                *mask_embed.stride(), *mask_features.stride(),
                **_computing(torch.promote_types(mask_embed.dtype, mask_features.dtype)),
                **launch_arguments("masked_attention_pack", launch, mask_features),
            )  # fmt: skip
    return words


def _arguments(q: Tensor, k: Tensor, v: Tensor, words: Tensor, span: int) -> dict[str, Any]:
    """Arguments of the forward and backward kernels."""
    sizes = {"heads": q.shape[1], "queries": q.shape[2], "keys": k.shape[2], "span": span}
    scale = math.log2(math.e) / math.sqrt(q.shape[3])
    tensors = {"q": q, "k": k, "v": v}
    rest = {"words": words, "scale": scale, "WIDTH": q.shape[3], **_computing(q.dtype)}
    return {**tensors, **sizes, **_strides("bmnd", **tensors), **rest}


def forward(q: Tensor, k: Tensor, v: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """Output "b m q d", stored as "b q m d", and log2 of the sum of exponentials, "b m q"."""
    batch, heads, queries, width = q.shape
    output = q.new_empty(batch, queries, heads, width)
    totals = q.new_empty(batch, heads, queries, dtype=torch.float32)
    if output.numel():
        launch = attend_launch(queries, width, q.dtype, backward=False)
        blocks = triton.cdiv(queries, launch.blocks["QUERIES"])
        span, splits = _spans(k.shape[2], batch * heads * blocks)
        parts = q.new_empty(batch * heads, splits, queries, width, dtype=torch.float32)
        part_totals = parts.new_empty(parts.shape[:3])
        arguments = _arguments(q, k, v, words, span)
        combining = combine_launch(splits, width)
        tiles = triton.cdiv(queries, combining.blocks["QUERIES"])
        with torch.cuda.device_of(q):
            masked_attention_forward[(splits, blocks, batch * heads)](
                parts=parts,
                part_totals=part_totals,
                **arguments,
                **launch_arguments("masked_attention_forward", launch, q),
            )
            masked_attention_combine[(tiles, batch * heads)](
                parts,
                part_totals,
                output,
                totals,
                heads,
                queries,
                splits,
                WIDTH=width,
                **launch_arguments("masked_attention_combine", combining, q),
            )
    return output.transpose(1, 2), totals


def backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, words: Tensor, output: Tensor, totals: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, stored as "b q m d" and "b n m d"."""
    batch, heads, queries, width = q.shape
    keys = k.shape[2]
    launch = attend_launch(queries, width, q.dtype, backward=True)
    firsts = range(0, queries, launch.blocks["QUERIES"])
    # Later blocks of queries add to the stored gradients, in fixed order and then in float32.
    dtype = k.dtype if len(firsts) <= 1 else torch.float32
    make = torch.empty if len(firsts) else torch.zeros
    of_keys, of_values = (make(batch, keys, heads, width, dtype=dtype, device=k.device) for _ in range(2))
    span, splits = _spans(keys, max(1, batch * heads))
    parts = make(splits, batch, queries, heads, width, dtype=torch.float32, device=q.device)
    deltas = (gradient.float() * output.float()).sum(-1).contiguous()
    if k.numel():
        arguments = _arguments(q, k, v, words, span) | _strides("bmnd", gradient=gradient)
        for first in firsts:
            with torch.cuda.device_of(q):
                masked_attention_backward[(splits, batch * heads)](
                    gradient=gradient, totals=totals, deltas=deltas, q_parts=parts, k_gradient=of_keys,
                    v_gradient=of_values, first=first, ADD=first > 0, **arguments,
                    **launch_arguments("masked_attention_backward", launch, q),
                )  # fmt: skip
    gradients = parts.sum(0), of_keys, of_values
    of_q, of_k, of_v = (one.to(q.dtype).transpose(1, 2) for one in gradients)
    return of_q, of_k, of_v
