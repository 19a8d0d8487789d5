"""Tensors of which each process holds a part: gradients, states, and what is whole again.

All functions but `local` and `scalars` must be called by all processes.
"""

# pyright: reportUnknownMemberType=false
# (torch has incomplete types)

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from clouds.core.system.processes import Processes


def scalars(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """The parameters without axes, of which `fully_shard` takes none."""
    return [one for one in parameters if one.ndim == 0]


def average_scalars(parameters: Iterable[nn.Parameter], processes: Processes) -> None:
    """Replace the gradients of trained scalars by their means over the processes."""
    for one in scalars(parameters):
        own = torch.zeros_like(one) if one.grad is None else one.grad
        one.grad = (processes.sum(own) / processes.world).to(own)


def clip_gradient(parameters: Sequence[nn.Parameter], limit: float, processes: Processes) -> Tensor:
    """Scale the gradient to a norm of at most `limit`, as `torch.nn.utils.clip_grad_norm_`; returns the norm before."""
    gradients = [one.grad for one in parameters if one.grad is not None]
    parts = [local(one) for one in gradients if isinstance(one, DTensor)]
    rest = [one for one in gradients if not isinstance(one, DTensor)]
    shared = processes.sum(_squares(parts))
    norm = (shared + _squares(rest).cpu()).sqrt()
    factor = min(1.0, limit / (float(norm) + 1e-6)) if math.isfinite(limit) else 1.0
    for one in (*parts, *rest):
        one.mul_(factor)
    return norm


def _squares(tensors: Sequence[Tensor]) -> Tensor:
    """Sum of squares in float64."""
    return torch.stack([one.double().square().sum() for one in tensors]).sum() if tensors else torch.zeros(()).double()


def broadcast_buffers(module: nn.Module) -> None:
    """Give all processes the first one's buffers, such as running statistics of batch norms."""
    for buffer in module.buffers():
        distributed.broadcast(buffer, 0)


@contextmanager
def unsynchronized(learner: FSDPModule) -> Iterator[None]:
    """Add up gradients without sharing them out."""
    learner.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        learner.set_requires_gradient_sync(True)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, sharing memory; the tensor itself if it is whole."""
    with torch.no_grad():
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole_state(module: nn.Module) -> dict[str, Any]:
    """`state_dict` with whole tensors, on the CPU: a card may not hold all of them."""
    state = module.state_dict()
    state.update({name: _whole(value) for name, value in state.items()})
    return state


def whole_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """`state_dict` with whole moments, on the CPU."""
    document = optimizer.state_dict()
    return document | {"state": _per_parameter(document["state"], lambda index, value: _whole(value))}


def parts_of_state(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a whole state as the module holds its own."""
    own = module.state_dict()
    return {name: _as(own[name], value) if name in own else value for name, value in state.items()}


def parts_of_optimizer(optimizer: torch.optim.Optimizer, document: Mapping[str, Any]) -> dict[str, Any]:
    """A whole state of an optimizer with its moments as the optimizer holds its parameters."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    state = _per_parameter(document["state"], lambda index, value: _as(parameters[index], value))
    return {**document, "state": state}


def _per_parameter(
    state: Mapping[int, Mapping[str, Any]], change: Callable[[int, Any], Any]
) -> dict[int, dict[str, Any]]:
    return {index: {name: change(index, value) for name, value in one.items()} for index, one in state.items()}


def _whole(value: Any) -> Any:
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def _as(like: Tensor, value: Any) -> Any:
    """A whole tensor, which all processes have, split as another of its shape."""
    if not (isinstance(like, DTensor) and isinstance(value, Tensor) and value.shape == like.shape):
        return value
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
