"""Mask pooling: the mean of a map under each mask (Ghiasi et al., OpenSeg, ECCV 2022; Xu et al., ODISE, CVPR 2023).

pooled[b, q, c] = sum over pixels n of inside[b, q, n] x features[b, c, n] / (sum over n of inside[b, q, n] + 1e-8)

A pixel is inside if the mask's logit, resized bilinearly to the features (`align_corners=False`), is above 0. Torch
resizes for all backends, so that they agree on the pixels inside. Resized logits are small, because sizes differ only
if the features are coarser. Triton needs no other tensor of [queries x pixels].

Axis letters: b images, q masks, c channels, h and w cells of the features, hm and wm of the masks, n = h x w.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from clouds.kernels.backends import Backend, choose

_EPSILON = 1e-8  # makes the mean of an empty mask 0, as published


def mask_pool(
    features: Float[Tensor, "b c h w"], mask_logits: Float[Tensor, "b q hm wm"], *, backend: Backend = "auto"
) -> Float[Tensor, "b q c"]:
    """Mean of `features` over the pixels inside each mask; 0 for an empty mask.

    Only the features get gradients. Triton sums in float32 without atomic additions, so forward and backward are
    deterministic. On CUDA "auto" selects it unless gradients are needed (see `clouds.kernels.backends`).

    Args:
        features: any floating dtype and strides; not copied on CUDA.
        mask_logits: any floating dtype; logits above 0 are inside, NaN is outside.
        backend: see `clouds.kernels.backends`.

    Returns:
        Means in the features' dtype.

    Raises:
        TypeError: an input does not have a floating dtype.
        ValueError: shapes or devices do not match, or Triton was requested and cannot run.
    """
    _check(features, mask_logits)
    objection = "it computes in float32, and got float64" if features.dtype == torch.float64 else None
    gradients = features.requires_grad and torch.is_grad_enabled()
    if choose("mask_pool", backend, features.device, objection=objection, gradients=gradients) == "triton":
        return _pool(features, _resized(mask_logits.detach(), (features.shape[-2], features.shape[-1])))[0]
    return reference(features, mask_logits)


def reference(features: Float[Tensor, "b c h w"], mask_logits: Float[Tensor, "b q hm wm"]) -> Float[Tensor, "b q c"]:
    """The formula as one matrix product; float16 is summed in float32, because its range is too small."""
    # Pixels inside "b q n", sums of features "b q c", means
    inside = inside_of(mask_logits, (features.shape[-2], features.shape[-1]))
    work = torch.float32 if features.dtype == torch.float16 else features.dtype
    total = inside.to(work) @ features.flatten(2).mT.to(work)
    return (total / (inside.sum(-1, keepdim=True) + _EPSILON)).to(features.dtype)


def inside_of(mask_logits: Float[Tensor, "b q hm wm"], size: tuple[int, int]) -> Bool[Tensor, "b q n"]:
    """Whether each of the n = height x width pixels is inside each mask: bilinearly resized logits above 0."""
    return (_resized(mask_logits, size) > 0).flatten(2)


def _resized(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(mask_logits.shape[-2:]) == size:
        return mask_logits
    maps = mask_logits.flatten(0, 1)[:, None]  # torch resizes an empty batch, but no images without channels
    resized = functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    return resized[:, 0].unflatten(0, mask_logits.shape[:2])


@torch.library.custom_op(
    "clouds::mask_pool", mutates_args=(), schema="(Tensor features, Tensor mask_logits) -> (Tensor, Tensor)"
)
def _pool(features: Tensor, mask_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Means, and the number of pixels inside each mask as float32 "b q"."""
    from clouds.kernels._triton.mask_pool import forward

    total, counts = forward(features, mask_logits)
    return (total / (counts + _EPSILON)[..., None]).to(features.dtype), counts


@_pool.register_fake
def _(features: Tensor, mask_logits: Tensor) -> tuple[Tensor, Tensor]:
    batch, queries = mask_logits.shape[:2]
    counts = features.new_empty(batch, queries, dtype=torch.float32)
    return features.new_empty(batch, queries, features.shape[1]), counts


@torch.library.custom_op(
    "clouds::mask_pool_backward",
    mutates_args=(),
    schema="(Tensor gradient, Tensor mask_logits, Tensor counts) -> Tensor",
)
def _spread(gradient: Tensor, mask_logits: Tensor, counts: Tensor) -> Tensor:
    """Gradient of the features, from the gradient of the means."""
    from clouds.kernels._triton.mask_pool import backward

    return backward(gradient.float() / (counts + _EPSILON)[..., None], mask_logits, gradient.dtype)


@_spread.register_fake
def _(gradient: Tensor, mask_logits: Tensor, counts: Tensor) -> Tensor:
    return gradient.new_empty(gradient.shape[0], gradient.shape[2], *mask_logits.shape[2:])


def _keep(
    ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]
) -> None:
    ctx.save_for_backward(inputs[1], output[1])
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor, _: Tensor | None) -> tuple[Tensor, None]:
    return _spread(gradient, *ctx.saved_tensors), None  # pyright: ignore[reportAttributeAccessIssue]


_pool.register_autograd(_differentiate, setup_context=_keep)


def _check(features: Tensor, mask_logits: Tensor) -> None:
    shapes = tuple(features.shape), tuple(mask_logits.shape)
    if {len(shape) for shape in shapes} != {4} or shapes[0][0] != shapes[1][0] or 0 in shapes[0][2:] + shapes[1][2:]:
        raise ValueError(
            f'mask_pool: features {shapes[0]} and mask_logits {shapes[1]}; expected "b c h w" and "b q hm wm" with at '
            "least one cell"
        )
    if features.device != mask_logits.device:
        raise ValueError(
            f"mask_pool: features on {features.device} and mask_logits on {mask_logits.device}; expected one device"
        )
    if not (features.is_floating_point() and mask_logits.is_floating_point()):
        raise TypeError(
            f"mask_pool: features of {features.dtype} and mask_logits of {mask_logits.dtype}; expected floating dtypes"
        )
