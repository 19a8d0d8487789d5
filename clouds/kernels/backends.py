"""Selects the implementation of an operation.

Every operation has `backend=`: "auto" selects plain torch on a CPU, and on CUDA what took less time there (see
`_torch_is_faster`); any other choice is binding and raises if it cannot run. "reference" is the shortest form, against
which all others are tested. "torch" is a faster form in plain torch if the device has one, else the reference.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import Literal

import torch

Backend = Literal["auto", "triton", "torch", "reference"]


class KernelFallbackWarning(UserWarning):
    """An operation on CUDA runs in plain torch; the message says why."""


def choose(
    op: str,
    backend: Backend,
    device: torch.device,
    *,
    objection: str | None = None,
    dtype: torch.dtype | None = None,
    gradients: bool = False,
) -> Backend:
    """Select the implementation; never "auto".

    Args:
        op: the operation, for messages.
        backend: the requested backend.
        device: device of the tensors.
        objection: why Triton does not support the arguments, such as a dtype without a kernel; None if it does.
        dtype: dtype of the values.
        gradients: whether a backward pass follows.

    Raises:
        ValueError: Triton was requested, but cannot run here or with these arguments.
    """
    if backend in ("torch", "reference"):
        return backend
    if backend not in ("auto", "triton"):
        raise ValueError(f"{op}: unknown backend {backend!r}; expected 'auto', 'triton', 'torch' or 'reference'")
    if backend == "auto" and (device.type != "cuda" or _torch_is_faster(op, dtype, gradients=gradients)):
        return "torch"
    obstacle = _missing(device) or objection
    if obstacle is None:
        return "triton"
    if backend == "triton":
        raise ValueError(f"{op}: backend 'triton' cannot run: {obstacle}; leave backend at 'auto'")
    warnings.warn(f"{op}: runs in plain torch: {obstacle}", KernelFallbackWarning, stacklevel=3)
    return "torch"


def _torch_is_faster(op: str, dtype: torch.dtype | None, *, gradients: bool) -> bool:
    """Whether plain torch took less time than Triton on CUDA.

    Measured with launches on an NVIDIA H200, torch 2.11 and triton 3.6 (`benchmarks/results/kernels.jsonl`, commit
    bb8cbe8-dirty, forms "clouds torch" and "clouds"), in milliseconds for 1024x2048, 512x1024 and 8 x 512x1024:

    - `masked_attention`, bfloat16: 1.05, 1.12, 0.73 against 1.05, 1.78, 1.14; with backward pass 1.9, 2.0, 2.1 against
      4.4, 4.5, 4.4. In float32 Triton is faster: 5.3 and 18.4 against 1.3 and 4.5. float16 was not measured; it uses
      the same matrix units as bfloat16.
    - `point_sample`, with backward pass: 0.45, 0.49, 1.01 against 0.74, 0.86, 1.06. Forward alone neither wins.
    - `mask_pool`, with backward pass: 0.76, 0.74, 0.59 against 1.13, 1.05, 1.24. Forward alone neither wins.

    Triton's forms of these are deterministic, so they run under `torch.use_deterministic_algorithms(True)`.
    """
    if torch.are_deterministic_algorithms_enabled():
        return False
    if op == "masked_attention":
        return dtype in (torch.bfloat16, torch.float16)
    return op in ("point_sample", "mask_pool") and gradients


def _missing(device: torch.device) -> str | None:
    """Why Triton cannot run on a device, or None."""
    if find_spec("triton") is None:
        return "triton is not installed"
    from triton import knobs

    if device.type == "cuda" or knobs.runtime.interpret:
        return None
    return f"it needs tensors on a CUDA device, got {device} (or TRITON_INTERPRET=1, set before the first import)"
