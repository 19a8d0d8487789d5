"""The blocks of plain ViTs and ConvNeXts, for adapters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from clouds.core.contract.adaptation import Block, Projection

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


def _block(module: nn.Module, channels: int, prefix: int) -> Block:
    linears = [(name.rpartition(".")[2], part) for name, part in module.named_modules() if _is_linear(part)]
    return Block(module, channels, prefix, tuple(one for name, part in linears for one in _projections(name, part)))


def _is_linear(part: nn.Module) -> bool:
    return isinstance(part, nn.Linear) or (isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1))


def _projections(name: str, part: Any) -> list[Projection]:
    roles = _ROLES.get(name, (name,))
    outputs = len(part.weight) // len(roles)
    return [Projection(role, part, index * outputs, (index + 1) * outputs) for index, role in enumerate(roles)]
