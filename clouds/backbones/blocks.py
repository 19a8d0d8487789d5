"""The blocks of plain ViTs and ConvNeXts, for adapters and gradient checkpointing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clouds.core.contract.adaptation import Block, Projection, activity

_ROLES = {"q_proj": ("q",), "k_proj": ("k",), "v_proj": ("v",), "qkv": ("q", "k", "v")}


def vit_blocks(vit: Any) -> tuple[Block, ...]:
    """The blocks of a timm ViT; their features are tokens "b n c"."""
    return tuple(_block(one, vit.embed_dim, vit.num_prefix_tokens) for one in vit.blocks)


def convnext_blocks(stages: Iterable[Any]) -> tuple[Block, ...]:
    """The blocks of all stages of a ConvNeXt (timm's, or ours); their features are maps "b c h w"."""
    return tuple(_block(one, one.conv_dw.out_channels, 0) for stage in stages for one in stage.blocks)


def call_qkv(vit: Any) -> Any:
    """Let EVA blocks call their joint projection as a module and add its bias after it, so that hooks see it."""
    for block in vit.blocks:
        if hasattr(block.attn, "qkv_bias_separate"):
            block.attn.qkv_bias_separate = True
    return vit


def checkpoint_blocks(vit: Any) -> None:
    """Let each block of a timm ViT store its input alone, and compute the rest again in the backward pass.

    Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174. timm's own checkpointing would compute
    blocks again without the adapters in their layers. Random numbers are the same both times. Hooks of the block itself
    stay outside.
    """
    for block in vit.blocks:
        block.forward = partial(_checkpointed, block, block.forward)


def _checkpointed(block: nn.Module, forward: Callable[..., Tensor], x: Tensor, **more: Any) -> Tensor:
    if not torch.is_grad_enabled():
        return forward(x, **more)
    return checkpoint(forward, x, use_reentrant=False, context_fn=partial(activity, block), **more)


def _block(module: nn.Module, channels: int, prefix: int) -> Block:
    linears = [(name.rpartition(".")[2], part) for name, part in module.named_modules() if _is_linear(part)]
    return Block(module, channels, prefix, tuple(one for name, part in linears for one in _projections(name, part)))


def _is_linear(part: nn.Module) -> bool:
    return isinstance(part, nn.Linear) or (isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1))


def _projections(name: str, part: Any) -> list[Projection]:
    roles = _ROLES.get(name, (name,))
    outputs = len(part.weight) // len(roles)
    return [Projection(role, part, index * outputs, (index + 1) * outputs) for index, role in enumerate(roles)]
