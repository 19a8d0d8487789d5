"""Contract errors, and checks that several kinds share."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)

# The batch changes the summation order of matrix products, so float32 results of an image differ by about
# sqrt(terms) x 6e-8 relative to the largest value: 6e-5 for a million terms.
BATCH_TOLERANCE = 1e-4


class ContractError(AssertionError):
    """A component breaks its contract; the message has the clause, the actual value, and the remedy."""


def violation(subject: object, clause: str, *, got: object, remedy: str) -> ContractError:
    """The error for a broken clause.

    Args:
        subject: the component, or its name.
        clause: clause of the contract.
        got: actual value.
        remedy: change for the author to make.
    """
    name = subject if isinstance(subject, str) else type(subject).__name__
    return ContractError(f"{name}: {clause}; got {got} -> {remedy}")


def require(condition: bool, subject: object, clause: str, *, got: object, remedy: str) -> None:
    """Raise the `violation` unless the condition holds."""
    if not condition:
        raise violation(subject, clause, got=got, remedy=remedy)


def require_instance(value: object, interface: type, kind: str) -> None:
    """Require an instance of the interface that a factory of this kind must return."""
    require(
        isinstance(value, interface),
        value,
        f"the factory of a {kind} must return a clouds.{interface.__name__}",
        got=type(value).__name__,
        remedy=f"derive the class from clouds.{interface.__name__}",
    )


def require_tensor(
    value: object, subject: object, what: str, *, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> None:
    """Require a tensor of this shape and type with finite values."""
    clause, remedy = f"{what} must be a {dtype} tensor of shape {shape}", "follow the interface's docstring"
    if not isinstance(value, Tensor):
        raise violation(subject, clause, got=type(value).__name__, remedy=remedy)
    got = f"{value.dtype} of shape {tuple(value.shape)}"
    require(tuple(value.shape) == shape and value.dtype == dtype, subject, clause, got=got, remedy=remedy)
    require(
        bool(torch.isfinite(value).all()),
        subject,
        f"{what} must be finite",
        got="nan or inf",
        remedy="look at divisions, logarithms and overflows",
    )


def largest_difference(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference, relative to the largest absolute value of either (0 when both are 0)."""
    a, b = a.detach(), b.detach()
    if a.numel() == 0:
        return 0.0
    scale = max(float(a.abs().max()), float(b.abs().max()))
    return float((a - b).abs().max()) / scale if scale else 0.0


def in_evaluation(module: ModuleT) -> ModuleT:
    """A copy in eval mode, so that a check does not change the author's module."""
    other = copy.deepcopy(module)
    other.eval()
    return other


def check_module(module: nn.Module) -> None:
    """Check that `train` returns the module, and that its weights survive `Pipeline.save` and `clouds.load`.

    The module is in eval mode afterwards.
    """
    for mode in (True, False):
        answer = module.train(mode)
        require(answer is module, module, "train(mode) must return the module itself", got=answer, remedy="return self")
    loose = [
        f"{name}.{key}".lstrip(".")
        for name, part in module.named_modules()
        for key, value in vars(part).items()
        if isinstance(value, Tensor)
    ]
    require(
        not loose,
        module,
        "tensors must be parameters or buffers, or the module cannot move or save them",
        got=f"plain attributes {loose}",
        remedy="assign an nn.Parameter, or use register_buffer",
    )
    try:
        state = load(save({key: value.contiguous() for key, value in module.state_dict().items()}))
        module.load_state_dict(state)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise violation(
            module,
            "weights must survive state_dict, safetensors and load_state_dict",
            got=f"{type(error).__name__}: {error}",
            remedy="hold tensors only, and register a shared one once",
        ) from error
