"""Gathers short rows at random: the upper bound for the loads of `deformable_attention`."""

# pyright: reportArgumentType=false
# (`triton.jit` functions are not typed)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from clouds.kernels._triton.launch import Launch

# 256 rows of 64 bytes give 8 loads of 16 bytes in flight in each of 128 threads.
LAUNCH = Launch(blocks={"BLOCK": 256}, num_warps=4, num_stages=1)
_PROGRAMS = 2112  # 16 per multiprocessor of an H200 (132)
_STEPS = 16
_WIDTH = 32


@triton.jit
def gather_forward(table, sums, rows, steps, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Sum `steps` random rows for each element of a block, then over the block; indices are linear congruential."""
    # State of each element's random generator "BLOCK"
    state = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.uint32)
    channel = tl.arange(0, WIDTH)
    # Sums of rows "BLOCK WIDTH"
    total = tl.zeros([BLOCK, WIDTH], tl.float32)
    for _ in range(steps):
        state = state * 1664525 + 1013904223  # Numerical Recipes; only the high bits are random
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
