"""Bilinear point sampling: each program handles a tile of points and channels of one map."""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
# (Triton's types are those of its compiler, not of Python)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from clouds.kernels._triton.launch import Launch
from clouds.kernels.tuning import launch_arguments

# The latency of scattered loads limits the kernel, not their bytes. Each thread has 4 corners x 8 channels in flight,
# and these channels share the arithmetic of a point. 12544 points of 100 queries give 98 x 13 programs. A tile with
# points first takes fewer registers under Triton 3.6 (62 instead of 72, on 9.0), but more under 3.9 (72 instead of 66),
# and more instructions.
MANY_CHANNELS = Launch(blocks={"POINTS": 128, "CHANNELS": 8}, num_warps=4, num_stages=1)
# Masks with their own points have one channel; each gives 98 programs, which is enough.
ONE_CHANNEL = Launch(blocks={"POINTS": 128, "CHANNELS": 1}, num_warps=4, num_stages=1)


@triton.jit
def _corner(x, y, height, width):
    """Whether a cell is inside the map, and its row and column; (x, y) are integers as floats, or NaN (outside)."""
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return inside, tl.where(inside, y, 0).to(tl.int32), tl.where(inside, x, 0).to(tl.int32)


@triton.jit
def _near(fraction, FAR: tl.constexpr):
    """Weight of the near or the far cell."""
    return fraction if FAR else 1 - fraction


@triton.jit
def _tile(channels, count, POINTS: tl.constexpr, CHANNELS: tl.constexpr):
    """Map, channels and points of this program."""
    tiles = tl.cdiv(count, POINTS)
    groups = tl.cdiv(channels, CHANNELS)
    program = tl.program_id(0)
    n = (program // (tiles * groups)).to(tl.int64)
    c = (program // tiles) % groups * CHANNELS + tl.arange(0, CHANNELS)
    p = program % tiles * POINTS + tl.arange(0, POINTS)
    return n, c, p


@triton.jit
def _position(points, n, p, count, point_n, point_p, point_d, height, width):
    """Load points, in cells from the first cell's centre."""
    place = points + n * point_n + p.to(tl.int64) * point_p
    x = tl.load(place, mask=p < count, other=0).to(tl.float32) * width - 0.5
    y = tl.load(place + point_d, mask=p < count, other=0).to(tl.float32) * height - 0.5
    return x, y


@triton.jit
def point_sample_forward(
    maps,
    points,
    output,
    channels,
    height,
    width,
    count,
    map_n,
    map_c,
    map_y,
    map_x,
    point_n,
    point_p,
    point_d,
    POINTS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    # Low corner and fraction of each point "POINTS"
    n, c, p = _tile(channels, count, POINTS, CHANNELS)
    x, y = _position(points, n, p, count, point_n, point_p, point_d, height, width)
    left, top = tl.floor(x), tl.floor(y)
    across, down = x - left, y - top
    # Weighted sum over the four corners "CHANNELS POINTS"
    planes = (maps + n * map_n + c.to(tl.int64) * map_c)[:, None]
    wanted = (c < channels)[:, None] & (p < count)[None, :]
    total = tl.zeros((CHANNELS, POINTS), tl.float32)
    for corner in tl.static_range(4):
        inside, line, column = _corner(left + corner % 2, top + corner // 2, height, width)
        place = planes + (line.to(tl.int64) * map_y + column.to(tl.int64) * map_x)[None, :]
        value = tl.load(place, mask=wanted & inside[None, :], other=0).to(tl.float32)
        share = _near(across, corner % 2) * _near(down, corner // 2)
        total += value * share[None, :]
    # Store the values
    place = output + (n * channels + c)[:, None] * count + p[None, :]
    tl.store(place, total.to(output.dtype.element_ty), mask=wanted)


@triton.jit
def point_sample_backward(
    gradient,
    points,
    sums,
    channels,
    height,
    width,
    count,
    gradient_n,
    gradient_c,
    gradient_p,
    point_n,
    point_p,
    point_d,
    POINTS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    # Low corner and fraction of each point "POINTS"
    n, c, p = _tile(channels, count, POINTS, CHANNELS)
    x, y = _position(points, n, p, count, point_n, point_p, point_d, height, width)
    left, top = tl.floor(x), tl.floor(y)
    across, down = x - left, y - top
    # Gradient of the values "CHANNELS POINTS"
    wanted = (c < channels)[:, None] & (p < count)[None, :]
    place = gradient + (n * gradient_n + c.to(tl.int64) * gradient_c)[:, None] + (p.to(tl.int64) * gradient_p)[None, :]
    value = tl.load(place, mask=wanted, other=0).to(tl.float32)
    # Add its weighted parts to the four corners, atomically
    planes = (sums + (n * channels + c) * height * width)[:, None]
    for corner in tl.static_range(4):
        inside, line, column = _corner(left + corner % 2, top + corner // 2, height, width)
        share = _near(across, corner % 2) * _near(down, corner // 2)
        place = planes + (line * width + column)[None, :]
        tl.atomic_add(place, value * share[None, :], mask=wanted & inside[None, :], sem="relaxed")


def forward(maps: Tensor, points: Tensor) -> Tensor:
    """Values "n c p" of maps "n c h w" at points "n p 2"."""
    dtype = torch.promote_types(maps.dtype, points.dtype)
    output = maps.new_empty(*maps.shape[:2], points.shape[1], dtype=dtype)
    raw = maps.view(torch.uint8) if maps.dtype == torch.bool else maps
    channels, height, width = maps.shape[1:]
    launch, programs = _grid(output)
    if programs:
        sizes = (channels, height, width, points.shape[1])
        strides = (*maps.stride(), *points.stride())
        arguments = launch_arguments("point_sample_forward", launch, maps)
        with torch.cuda.device_of(maps):
            point_sample_forward[(programs,)](raw, points, output, *sizes, *strides, **arguments)
    return output


def backward(gradient: Tensor, points: Tensor, height: int, width: int) -> Tensor:
    """Gradient "n c height width" of the maps in float32, from the gradient of the values "n c p"."""
    sums = gradient.new_zeros(*gradient.shape[:2], height, width, dtype=torch.float32)
    launch, programs = _grid(gradient)
    if programs:
        sizes = (gradient.shape[1], height, width, points.shape[1])
        strides = (*gradient.stride(), *points.stride())
        arguments = launch_arguments("point_sample_backward", launch, gradient)
        with torch.cuda.device_of(gradient):
            point_sample_backward[(programs,)](gradient, points, sums, *sizes, *strides, **arguments)
    return sums


def _grid(values: Tensor) -> tuple[Launch, int]:
    """Launch and number of programs for values "n c p"."""
    maps, channels, count = values.shape
    launch = ONE_CHANNEL if channels == 1 else MANY_CHANNELS
    tiles = triton.cdiv(channels, launch.blocks["CHANNELS"]) * triton.cdiv(count, launch.blocks["POINTS"])
    return launch, maps * tiles
