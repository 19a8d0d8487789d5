"""Attention of queries to one level's cells, each within its mask (Cheng et al., Mask2Former, CVPR 2022, 3.2).

output[b, m, q] = sum over keys n of softmax over n of (q[b, m, q] . k[b, m, n] / sqrt(d) + bias[b, q, n]) x v[b, m, n]
bias[b, q, n]   = 0 where mask_embed[b, q] . mask_features[b, :, n] >= 0, else -inf; 0 everywhere for an empty mask

NaN is outside the mask. All heads share the mask; it gets no gradient.
Axis letters: b images, m heads, q queries, n keys, d channels per head, c channels of mask features.
"""

import math
from importlib import import_module
from importlib.util import find_spec
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from clouds.kernels.backends import Backend, choose

_WIDTHS = (16, 32, 64, 128)
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_KEYS = 32  # per word of the packed mask


def masked_attention(
    q: Float[Tensor, "b m q d"],
    k: Float[Tensor, "b m n d"],
    v: Float[Tensor, "b m n d"],
    mask_embed: Float[Tensor, "b q c"],
    mask_features: Float[Tensor, "b c n"],
    *,
    backend: Backend | Literal["xformers"] = "auto",
) -> Float[Tensor, "b m q d"]:
    """Masked attention without a tensor of heads x queries x keys, forward or backward.

    Triton stores the mask as 1 bit per query and key, and needs no tensor of queries x keys either. "torch" is
    `scaled_dot_product_attention` with a boolean mask; "xformers" is its memory-efficient kernel with a bias. Both use
    one mask for all heads. On CUDA "auto" selects Triton for float32, and torch for bfloat16 and float16, which took
    less time (see `clouds.kernels.backends`).

    The Triton form sums in a fixed order, also in the backward pass, so it is deterministic; "auto" selects it under
    `torch.use_deterministic_algorithms(True)`.

    Args:
        q, k, v: queries, keys and values of one floating dtype, with any strides; they get gradients. Triton supports
            bfloat16, float16 and float32 with d of 16, 32, 64 or 128, and sums in float32.
        mask_embed, mask_features: their products are the mask logits; any strides; they get no gradients.
        backend: see `clouds.kernels.backends`; or "xformers", which needs CUDA.

    Raises:
        ValueError: shapes or devices do not match, there are no keys, or the requested backend cannot run.
        TypeError: q, k and v differ in dtype, or a dtype is not floating.
    """
    tensors = {"q": q, "k": k, "v": v, "mask_embed": mask_embed, "mask_features": mask_features}
    _check_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    _check_types(tensors)
    mask_embed, mask_features = mask_embed.detach(), mask_features.detach()
    if backend == "xformers":
        return _xformers(q, k, v, attention_mask(_mask_logits(mask_embed, mask_features)))
    chosen = choose("masked_attention", backend, q.device, objection=_objection(tensors), dtype=q.dtype)
    if chosen == "triton":
        return _attend(q, k, v, _pack(mask_embed, mask_features))[0]
    if chosen == "reference":
        return reference(q, k, v, mask_embed, mask_features)
    mask = attention_mask(_mask_logits(mask_embed, mask_features))
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def reference(
    q: Float[Tensor, "b m q d"],
    k: Float[Tensor, "b m n d"],
    v: Float[Tensor, "b m n d"],
    mask_embed: Float[Tensor, "b q c"],
    mask_features: Float[Tensor, "b c n"],
) -> Float[Tensor, "b m q d"]:
    """The formula."""
    # Mask "b 1 q n", logits "b m q n", weighted values "b m q d"
    mask = attention_mask(_mask_logits(mask_embed.detach(), mask_features.detach()))
    logits = q @ k.mT / math.sqrt(q.shape[-1])
    return logits.masked_fill(~mask, -torch.inf).softmax(-1) @ v


def attention_mask(mask_logits: Float[Tensor, "b q n"]) -> Bool[Tensor, "b 1 q n"]:
    """Keys that each query may attend to: those in its mask, or all if the mask is empty."""
    inside = mask_logits >= 0
    return (inside | ~inside.any(-1, keepdim=True))[:, None]


def _mask_logits(mask_embed: Tensor, mask_features: Tensor) -> Tensor:
    dtype = torch.promote_types(mask_embed.dtype, mask_features.dtype)
    return torch.bmm(mask_embed.to(dtype), mask_features.to(dtype))


def _xformers(q: Tensor, k: Tensor, v: Tensor, mask: Bool[Tensor, "b 1 q n"]) -> Tensor:
    obstacle = None
    if q.dtype not in _DTYPES:
        obstacle = f"it takes bfloat16, float16 and float32, got {q.dtype}"
    elif find_spec("xformers") is None:
        obstacle = "xformers is not installed"
    elif q.device.type != "cuda":
        obstacle = f"it needs tensors on a CUDA device, got {q.device}"
    if obstacle:
        raise ValueError(f"masked_attention: backend 'xformers' cannot run: {obstacle}; leave backend at 'auto'")
    attend = import_module("xformers.ops").memory_efficient_attention
    bias = attention_bias(mask, q.dtype).expand(-1, q.shape[1], -1, -1)
    attended = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_bias=bias)
    return attended.transpose(1, 2)


def attention_bias(mask: Bool[Tensor, "b 1 q n"], dtype: torch.dtype) -> Float[Tensor, "b 1 q n"]:
    """0 where a query may attend, else -inf; rows are aligned to 8 elements, as xformers requires."""
    *shape, keys = mask.shape
    bias = torch.full((*shape, keys + -keys % 8), -torch.inf, dtype=dtype, device=mask.device)[..., :keys]
    return bias.masked_fill_(mask, 0)


def _check_shapes(shapes: dict[str, tuple[int, ...]]) -> None:
    batch, heads, queries, width = shapes["q"] if len(shapes["q"]) == 4 else (-1,) * 4
    keys, channels = shapes["k"][2:3], shapes["mask_embed"][2:3]
    expected = {
        "q": (batch, heads, queries, width),
        "k": (batch, heads, *keys, width),
        "v": (batch, heads, *keys, width),
        "mask_embed": (batch, queries, *channels),
        "mask_features": (batch, *channels, *keys),
    }
    if shapes != expected:
        raise ValueError(
            f'masked_attention: shapes {shapes}; expected q "b m q d", k and v "b m n d", mask_embed "b q c" and '
            'mask_features "b c n"'
        )
    if keys == (0,):
        raise ValueError(f"masked_attention: k {shapes['k']} has no keys to attend to; expected at least one")


def _check_types(tensors: dict[str, Tensor]) -> None:
    devices = {name: str(tensor.device) for name, tensor in tensors.items()}
    if len(set(devices.values())) > 1:
        raise ValueError(f"masked_attention: tensors on {devices}; expected one device")
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    if not dtypes["q"] == dtypes["k"] == dtypes["v"] or not all(one.is_floating_point for one in dtypes.values()):
        raise TypeError(
            f"masked_attention: types {dtypes}; expected one floating point type for q, k and v, and floating point "
            "for mask_embed and mask_features; convert them with .to()"
        )


def _objection(tensors: dict[str, Tensor]) -> str | None:
    """Why the Triton kernels do not support these arguments, or None."""
    other = {name: tensor.dtype for name, tensor in tensors.items() if tensor.dtype not in _DTYPES}
    if other:
        return f"it takes bfloat16, float16 and float32, got {other}"
    width = tensors["q"].shape[-1]
    return None if width in _WIDTHS else f"it takes heads of 16, 32, 64 or 128 channels, got {width}"


@torch.library.custom_op("clouds::masked_attention_pack", mutates_args=())
def _pack(mask_embed: Tensor, mask_features: Tensor) -> Tensor:
    """Masks as int32 "b w+1 q": word w holds keys 32 w to 32 w + 31, lowest bit first; the last word is their union.

    The union is 0 for an empty mask. Queries are contiguous because a block of queries reads one word each.
    """
    from clouds.kernels._triton.masked_attention import pack

    return pack(mask_embed, mask_features)


@_pack.register_fake
def _(mask_embed: Tensor, mask_features: Tensor) -> Tensor:
    batch, queries, _ = mask_embed.shape
    words = (mask_features.shape[2] + _KEYS - 1) // _KEYS
    return mask_embed.new_empty(batch, words + 1, queries, dtype=torch.int32)


@torch.library.custom_op("clouds::masked_attention", mutates_args=())
def _attend(q: Tensor, k: Tensor, v: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """The output, and for the backward pass log2 of each query's sum of exp(logit), float32 "b m q"."""
    from clouds.kernels._triton.masked_attention import forward

    return forward(q, k, v, words)


@_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    return _like(q), q.new_empty(q.shape[:3], dtype=torch.float32)


@torch.library.custom_op("clouds::masked_attention_backward", mutates_args=())
def _attend_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, words: Tensor, output: Tensor, total: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    from clouds.kernels._triton.masked_attention import backward

    return backward(gradient, q, k, v, words, output, total)


@_attend_backward.register_fake
def _(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, words: Tensor, output: Tensor, total: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return _like(q), _like(k), _like(v)


def _like(x: Tensor) -> Tensor:
    """Allocate like the kernels: heads of a query or key are contiguous, so that concatenation copies nothing."""
    batch, heads, length, width = x.shape
    return x.new_empty(batch, length, heads, width).transpose(1, 2)


def _keep(ctx, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx, gradient: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor, Tensor, None]:
    return *_attend_backward(gradient, *ctx.saved_tensors), None


_attend.register_autograd(_differentiate, setup_context=_keep)
