"""AdamW, its parameter groups, its schedule."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from clouds.training.recipe import OptimizerConfig

_POLY_POWER = 0.9
_NO_DECAY = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d, nn.Embedding)


def build_optimizer(modules: Iterable[nn.Module], config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over trainable parameters; norms and embeddings are not decayed, biases are (as published)."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for module in modules:
        for part in module.modules():
            group = plain if isinstance(part, _NO_DECAY) else decayed
            group += [parameter for parameter in part.parameters(recurse=False) if parameter.requires_grad]
    groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.lr, weight_decay=config.weight_decay
    )


def build_schedule(optimizer: torch.optim.Optimizer, config: OptimizerConfig, *, steps: int) -> LambdaLR:
    """Constant, or (1 - step / steps) ** 0.9."""
    if config.schedule == "constant":
        return LambdaLR(optimizer, lambda step: 1.0)
    return LambdaLR(optimizer, lambda step: max(0.0, 1 - step / max(1, steps)) ** _POLY_POWER)
