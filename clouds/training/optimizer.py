"""AdamW, its parameter groups, its schedule."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from clouds.training.recipe import OptimizerConfig

_POLY_POWER = 0.9
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_NO_DECAY = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.InstanceNorm2d, *_BATCH_NORMS, nn.Embedding)


def build_optimizer(modules: Mapping[str, nn.Module], config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over trainable parameters; norms and embeddings have no weight decay, biases have (as published).

    A shared parameter is trained once, without weight decay if any of its modules is a norm or an embedding.

    Args:
        modules: the trained modules by the name that begins the full names of their parameters ("backbone", "head").
        config: learning rate and weight decay.
    """
    decay: dict[nn.Parameter, bool] = {}
    for module in modules.values():
        for part in module.modules():
            for parameter in part.parameters(recurse=False):
                if parameter.requires_grad:
                    decay[parameter] = decay.get(parameter, True) and not isinstance(part, _NO_DECAY)
    decayed = [parameter for parameter, yes in decay.items() if yes]
    plain = [parameter for parameter, yes in decay.items() if not yes]
    groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.lr, weight_decay=config.weight_decay
    )


def build_schedule(optimizer: torch.optim.Optimizer, config: OptimizerConfig, *, steps: int) -> LambdaLR:
    """Constant, or (1 - step / steps) ** 0.9."""
    if config.schedule == "constant":
        return LambdaLR(optimizer, lambda step: 1.0)
    return LambdaLR(optimizer, lambda step: max(0.0, 1 - step / max(1, steps)) ** _POLY_POWER)
