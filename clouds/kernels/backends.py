"""Selects the implementation of an operation.

Every operation has `backend=`: "auto" selects Triton on CUDA and plain torch elsewhere; any other choice is binding and
raises if it cannot run. "reference" is the shortest form, against which all others are tested. "torch" is a faster form
in plain torch if the device has one, else the reference.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import Literal

import torch

Backend = Literal["auto", "triton", "torch", "reference"]


class KernelFallbackWarning(UserWarning):
    """An operation on CUDA runs in plain torch; the message says why."""


def choose(op: str, backend: Backend, device: torch.device, *, objection: str | None = None) -> Backend:
    """Select the implementation; never "auto".

    Args:
        op: the operation, for messages.
        backend: the requested backend.
        device: device of the tensors.
        objection: why Triton does not support the arguments, such as a dtype without a kernel; None if it does.

    Raises:
        ValueError: Triton was requested, but cannot run here or with these arguments.
    """
    if backend in ("torch", "reference"):
        return backend
    if backend not in ("auto", "triton"):
        raise ValueError(f"{op}: unknown backend {backend!r}; expected 'auto', 'triton', 'torch' or 'reference'")
    if backend == "auto" and device.type != "cuda":
        return "torch"
    obstacle = _missing(device) or objection
    if obstacle is None:
        return "triton"
    if backend == "triton":
        raise ValueError(f"{op}: backend 'triton' cannot run: {obstacle}; leave backend at 'auto'")
    warnings.warn(f"{op}: runs in plain torch: {obstacle}", KernelFallbackWarning, stacklevel=3)
    return "torch"


def _missing(device: torch.device) -> str | None:
    """Why Triton cannot run on a device, or None."""
    if find_spec("triton") is None:
        return "triton is not installed"
    from triton import knobs

    if device.type == "cuda" or knobs.runtime.interpret:
        return None
    return f"it needs tensors on a CUDA device, got {device} (or TRITON_INTERPRET=1, set before the first import)"
