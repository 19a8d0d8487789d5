"""Bilinear values of maps at points (Kirillov et al., PointRend, CVPR 2020, section 3.1).

output[n, c, p] = sum over the four cells next to point p of (1 - |dx|) (1 - |dy|) maps[n, c, cell]

where cell centres are at (i + 0.5) / size and values outside the map are 0 (`align_corners=False`, zero padding).
Axis letters: n maps, c channels, h and w their cells, p points.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from clouds.kernels.backends import Backend, choose


def point_sample(
    maps: Float[Tensor, "n c h w"] | Bool[Tensor, "n c h w"],
    points: Float[Tensor, "n p 2"],
    *,
    backend: Backend = "auto",
) -> Float[Tensor, "n c p"]:
    """Sample every channel of each map at that map's points.

    Only `maps` gets gradients. On CUDA they are summed by atomic additions, whose last bits differ between runs; under
    `torch.use_deterministic_algorithms(True)` Triton uses a sorted sum instead. On CUDA "auto" selects Triton unless
    gradients are needed (see `clouds.kernels.backends`).

    Args:
        maps: bool or floating point, with any strides; Triton does not copy them.
        points: (x, y) in 0..1 within the map; points outside read 0, NaN and infinity give NaN.
        backend: see `clouds.kernels.backends`.

    Returns:
        Values in the promoted dtype of `maps` and `points`: float32 for bfloat16 maps at float32 points.

    Raises:
        ValueError: shapes or devices do not match, or Triton was requested and cannot run.
        TypeError: a dtype is neither floating nor, for maps, bool.
    """
    _check(maps, points)
    points = points.detach()
    doubles = torch.float64 in (maps.dtype, points.dtype)
    objection = "it computes in float32, and got float64" if doubles else None
    gradients = maps.requires_grad and torch.is_grad_enabled()
    form = choose("point_sample", backend, maps.device, objection=objection, gradients=gradients)
    if form == "triton":
        return _sample(maps, points)
    values = reference(maps, points)
    if form == "reference" or maps.device.type == "cpu":
        return values
    return values + (0 * points).sum(-1)[:, None]  # NaN where `reference` reads 0 on CUDA


def reference(
    maps: Float[Tensor, "n c h w"] | Bool[Tensor, "n c h w"], points: Float[Tensor, "n p 2"]
) -> Float[Tensor, "n c p"]:
    """The formula, with `grid_sample`, which on CUDA reads 0 in place of NaN at NaN and infinite points."""
    dtype = torch.promote_types(maps.dtype, points.dtype)
    grid = (2 * points.to(dtype) - 1)[:, :, None]
    return functional.grid_sample(maps.to(dtype), grid, align_corners=False)[..., 0]


def _check(maps: Tensor, points: Tensor) -> None:
    if maps.ndim != 4 or points.ndim != 3 or points.shape[2] != 2 or len(maps) != len(points):
        raise ValueError(
            f'point_sample: maps {tuple(maps.shape)} and points {tuple(points.shape)}; expected "n c h w" and "n p 2"'
        )
    if not maps.shape[2] * maps.shape[3]:
        raise ValueError(f"point_sample: maps {tuple(maps.shape)} have no cells; expected at least one")
    if maps.device != points.device:
        raise ValueError(f"point_sample: maps on {maps.device} and points on {points.device}; expected one device")
    if not (maps.dtype == torch.bool or maps.is_floating_point()) or not points.is_floating_point():
        raise TypeError(
            f"point_sample: maps of {maps.dtype} and points of {points.dtype}; expected floating point, or bool for "
            "maps"
        )


@torch.library.custom_op("clouds::point_sample", mutates_args=(), schema="(Tensor maps, Tensor points) -> Tensor")
def _sample(maps: Tensor, points: Tensor) -> Tensor:
    from clouds.kernels._triton.point_sample import forward

    return forward(maps, points)


@_sample.register_fake
def _(maps: Tensor, points: Tensor) -> Tensor:
    dtype = torch.promote_types(maps.dtype, points.dtype)
    return maps.new_empty(*maps.shape[:2], points.shape[1], dtype=dtype)


@torch.library.custom_op(
    "clouds::point_sample_backward",
    mutates_args=(),
    schema="(Tensor gradient, Tensor points, SymInt height, SymInt width, ScalarType dtype) -> Tensor",
)
def _gradient(gradient: Tensor, points: Tensor, height: int, width: int, dtype: torch.dtype) -> Tensor:
    """Gradient of the maps "n c height width", from the gradient of the values."""
    if torch.are_deterministic_algorithms_enabled():
        return scatter(gradient.float(), points.float(), (height, width)).to(dtype)
    from clouds.kernels._triton.point_sample import backward

    return backward(gradient, points, height, width).to(dtype)


@_gradient.register_fake
def _(
    gradient: Tensor, points: Tensor, height: int | torch.SymInt, width: int | torch.SymInt, dtype: torch.dtype
) -> Tensor:
    return gradient.new_empty(*gradient.shape[:2], height, width, dtype=dtype)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    maps, points = inputs
    ctx.save_for_backward(points)
    ctx.size, ctx.dtype = maps.shape[2:], maps.dtype


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    (points,) = ctx.saved_tensors
    return _gradient(gradient, points, *ctx.size, ctx.dtype), None


_sample.register_autograd(_differentiate, setup_context=_keep)


def scatter(
    gradient: Float[Tensor, "n c p"], points: Float[Tensor, "n p 2"], size: tuple[int, int]
) -> Float[Tensor, "n c h w"]:
    """Deterministic gradient of the maps in plain torch: contributions are sorted by cell, then summed."""
    # Low corner and fraction of each point "n p 2"
    height, width = size
    maps, channels, _ = gradient.shape
    position = points * points.new_tensor([width, height]) - 0.5
    low = position.floor()
    near = 1 - (position - low), position - low
    # Per corner: weight "n p", cell index "n p" and contribution "np c", added to the sums "nhw c"
    sums = gradient.new_zeros(maps * height * width, channels)
    owners = torch.arange(maps, device=points.device)[:, None] * (height * width)
    for right in (0, 1):
        for below in (0, 1):
            x, y = low[..., 0] + right, low[..., 1] + below
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            share = (near[right][..., 0] * near[below][..., 1]).masked_fill(~inside, 0)
            cells = torch.where(inside, y * width + x, 0).long() + owners
            values = (gradient * share[:, None]).transpose(1, 2).flatten(0, 1)
            sums.index_put_((cells.flatten(),), values, accumulate=True)
    return sums.unflatten(0, (maps, height, width)).permute(0, 3, 1, 2).contiguous()
