"""The optimizer, its parameter groups, its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from attrs import define
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from clouds.core.system.errors import ConfigError, did_you_mean
from clouds.training.optimizer_config import OptimizerConfig

_LR_WARMUP_START = 1e-6  # Hoyer et al., "DAFormer", CVPR 2022: the released configurations
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_NO_DECAY = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.InstanceNorm2d, *_BATCH_NORMS, nn.Embedding)
# Parts of parameter names in timm, open_clip and Swin: class and register tokens, position embeddings, position tables.
_TOKENS = ("token", "class_embedding", "pos_embed", "positional_embedding", "relative_position", "rel_pos")


@define
class _Trained:
    """A trained parameter's first full name, and the factors of its learning rate and weight decay."""

    name: str
    lr: float = 1.0
    decay: float = 1.0


def build_optimizer(modules: Mapping[str, nn.Module], config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW or SGD over the trainable parameters.

    Norms and `nn.Embedding` have no weight decay, biases have (as published); tokens as `config.decay_tokens` says. A
    shared parameter is trained once, without weight decay if any of its modules is a norm or an embedding. Parameters
    of equal learning rate and weight decay are one group; the first group has the highest learning rate.

    Args:
        modules: the trained modules by the name that begins the full names of their parameters ("backbone", "head").
        config: the optimizer and its groups.

    Raises:
        ConfigError: a pattern of `config.groups` decides about no trained parameter, or `config.layer_decay` does not
            fit the backbone.
    """
    found = _find_trained(modules, decay_tokens=config.decay_tokens)
    _apply_layer_decay(found, modules, config.layer_decay)
    _apply_groups(found, config)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter, one in found.items():
        groups.setdefault((one.lr, one.decay), []).append(parameter)
    settings = [
        {"params": groups[lr, decay], "lr": config.lr * lr, "weight_decay": config.weight_decay * decay}
        for lr, decay in sorted(groups, reverse=True)
    ]
    if config.name == "sgd":
        return torch.optim.SGD(settings, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(settings, lr=config.lr)


def _find_trained(modules: Mapping[str, nn.Module], *, decay_tokens: bool) -> dict[nn.Parameter, _Trained]:
    found: dict[nn.Parameter, _Trained] = {}
    for prefix, module in modules.items():
        for path, part in module.named_modules(prefix=prefix):
            for key, parameter in part.named_parameters(recurse=False):
                if not parameter.requires_grad:
                    continue
                one = found.setdefault(parameter, _Trained(f"{path}.{key}"))
                token = any(word in key for word in _TOKENS)
                if isinstance(part, _NO_DECAY) or (token and not decay_tokens):
                    one.decay = 0.0
    return found


def _apply_layer_decay(
    found: Mapping[nn.Parameter, _Trained], modules: Mapping[str, nn.Module], layer_decay: float
) -> None:
    """Multiply learning rates by `layer_decay` to the power of the number of layers above.

    Bao et al., "BEiT", ICLR 2022: of N blocks, block i (from 0) has the factor `layer_decay ** (N - i)`, what comes
    before the blocks `layer_decay ** (N + 1)`, and what comes after them 1.
    """
    if layer_decay == 1:
        return
    backbone = modules["backbone"]
    lists = [
        part
        for name, part in backbone.named_modules()
        if name.rpartition(".")[2] == "blocks" and isinstance(part, (nn.ModuleList, nn.Sequential))
    ]
    if len(lists) != 1:
        raise ConfigError(
            f"optimizer.layer_decay is {layer_decay}, but {type(backbone).__name__} has {len(lists)} lists of blocks; "
            "layer-wise decay needs a backbone with one, such as a plain ViT: set it to 1"
        )
    layers = {parameter: index for index, block in enumerate(lists[0], 1) for parameter in block.parameters()}
    if not layers.keys() & found.keys():
        raise ConfigError(
            f"optimizer.layer_decay is {layer_decay}, but no block of the backbone is trained; train some, or set it "
            "to 1"
        )
    layer = 0
    for parameter in backbone.parameters():
        layer = layers.get(parameter, len(lists[0]) + 1 if layer else 0)
        if parameter in found:
            found[parameter].lr *= layer_decay ** (len(lists[0]) + 1 - layer)


def _apply_groups(found: Mapping[nn.Parameter, _Trained], config: OptimizerConfig) -> None:
    """Multiply the factors of each parameter by those of the first group whose pattern matches its name."""
    deciding = set[str]()
    for one in found.values():
        group = next((group for group in config.groups if fnmatchcase(one.name, group.match)), None)
        if group is not None:
            deciding.add(group.match)
            one.lr *= group.lr
            one.decay *= group.decay
    names = [one.name for one in found.values()]
    for group in config.groups:
        if group.match in deciding:
            continue
        if any(fnmatchcase(name, group.match) for name in names):
            raise ConfigError(
                f"optimizer.groups: {group.match!r} decides nothing, because patterns before it match all its "
                "parameters; the first match counts: list it earlier"
            )
        parts = {f"{name[:end]}.*" for name in names for end, letter in enumerate(name) if letter == "."}
        near = did_you_mean(group.match, [*names, *parts])
        raise ConfigError(f"optimizer.groups: {group.match!r} matches no trained parameter{near}")


def build_schedule(optimizer: torch.optim.Optimizer, config: OptimizerConfig, *, steps: int) -> LambdaLR:
    """Multiply every group's learning rate by `lr_factor` of the step."""
    return LambdaLR(optimizer, lambda step: lr_factor(step, config, steps=steps))


def lr_factor(step: int, config: OptimizerConfig, *, steps: int) -> float:
    """Learning rate of a step (from 0) in a phase of `steps` steps, relative to `config.lr`.

    With t = step / steps: "constant" is 1; "poly" is (1 - t) ** power; "cosine" is (1 + cos(pi t)) / 2 (Loshchilov and
    Hutter, "SGDR", ICLR 2017, equation 5); "step" is gamma ** (number of milestones <= t). In the first `lr_warmup`
    steps this is multiplied by a line from 1e-6 to 1.
    """
    done = min(1.0, step / max(1, steps))
    factor = 1.0
    if config.schedule == "poly":
        factor = (1 - done) ** config.power
    elif config.schedule == "cosine":
        factor = (1 + math.cos(math.pi * done)) / 2
    elif config.schedule == "step":
        factor = config.gamma ** sum(done >= milestone for milestone in config.milestones)
    if step < config.lr_warmup:
        factor *= _LR_WARMUP_START + (1 - _LR_WARMUP_START) * step / config.lr_warmup
    return factor
