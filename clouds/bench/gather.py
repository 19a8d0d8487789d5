"""Gathers of short rows at random, which is all that this does: the ceiling of what `deformable_attention` reads."""

# pyright: reportArgumentType=false
# (what `triton.jit` makes of a function is not typed)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from clouds.kernels._triton.launch import Launch

# 256 rows of 64 bytes are 8 loads of 16 bytes in flight in each of 128 threads.
LAUNCH = Launch(blocks={"BLOCK": 256}, num_warps=4, num_stages=1)
_PROGRAMS = 2112  # 16 for each of an H200's 132 multiprocessors
_STEPS = 16
_WIDTH = 32


@triton.jit
def gather_forward(table, sums, rows, steps, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Sums of `steps` rows for each place of a block, then over the block; rows are those of a linear congruence."""
    state = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.uint32)
    channel = tl.arange(0, WIDTH)
    total = tl.zeros([BLOCK, WIDTH], tl.float32)
    for _ in range(steps):
        state = state * 1664525 + 1013904223  # Numerical Recipes; of its bits the high ones are the random ones
        row = (state >> 8).to(tl.int32) & (rows - 1)
        total += tl.load(table + row[:, None] * WIDTH + channel[None, :]).to(tl.float32)
    tl.store(sums + tl.program_id(0) * WIDTH + channel, tl.sum(total, 0))


def forward(table: Tensor, *, programs: int = _PROGRAMS, steps: int = _STEPS) -> Tensor:
    """Sums "programs 32" of rows of a contiguous table "r 32", with r a power of two."""
    sums = table.new_empty(programs, _WIDTH, dtype=torch.float32)
    with torch.cuda.device_of(table):
        gather_forward[(programs,)](table, sums, len(table), steps, WIDTH=_WIDTH, **LAUNCH.arguments())
    return sums


def gathered_bytes(itemsize: int = 2) -> int:
    """Bytes that `forward` reads from the table."""
    return _PROGRAMS * LAUNCH.blocks["BLOCK"] * _STEPS * _WIDTH * itemsize
