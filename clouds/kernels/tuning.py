"""Kernel launches tuned on a device, stored in a file; opt-in.

`clouds bench OP --tune` measures the best numbers of warps and pipeline stages for each kernel of an operation, and
writes a file. If the environment variable `CLOUDS_TUNED` names that file, its entries replace the shipped launches.
Tile sizes are never tuned; the kernels' modules derive them from the input sizes.

An entry is valid for one kernel, device, dtype and version of Triton, and for all sizes with the same shipped launch.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeAlias

import torch
from attrs import define, field
from torch import Tensor

VARIABLE = "CLOUDS_TUNED"
Choice: TypeAlias = dict[str, int]
_WARPS, _STAGES = (1, 2, 4, 8, 16), (1, 2, 3, 4)
_GAIN = 0.97  # required time relative to the best so far; smaller gains are noise


class TuningWarning(UserWarning):
    """A file of launches is ignored; the message says why."""


@define
class _Trial:
    """Launches to try, by key, and the shipped launches that were requested."""

    choices: dict[str, Choice] = field(factory=dict)
    shipped: dict[str, Choice] = field(factory=dict)


_trials: list[_Trial] = []  # innermost last; not a context variable, because CUDA backward passes run in other threads


def launch_arguments(kernel: str, launch: Any, tensor: Tensor) -> dict[str, int]:
    """Keyword arguments of a launch: the shipped ones, updated with tuned values for this device.

    Args:
        kernel: name of the kernel.
        launch: the shipped `Launch`.
        tensor: a tensor with the device and dtype of the computation.
    """
    arguments, path = launch.arguments(), os.environ.get(VARIABLE, "")
    if not _trials and not path:
        return arguments
    key = _key(kernel, arguments, tensor)
    if not _trials:
        return arguments | read(path).get(key, {})
    trial = _trials[-1]
    trial.shipped[key] = {name: arguments[name] for name in ("num_warps", "num_stages")}
    return arguments | trial.choices.get(key, {})


@cache
def read(path: str) -> Mapping[str, Choice]:
    """Read launches from a file, by key, once. An unreadable file is ignored with a warning."""
    try:
        with open(path, encoding="utf-8") as stream:
            found = json.load(stream)
        if not isinstance(found, dict) or not all(map(_is_choice, found.values())):
            raise ValueError("expected an object of {num_warps, num_stages}")
    except (OSError, ValueError, RecursionError) as error:
        reason = f"{path} is ignored: {error}; remove it, or make it anew with `clouds bench --tune`"
        warnings.warn(reason, TuningWarning, stacklevel=3)
        return {}
    return found


def tune(run: Callable[[], object], measure: Callable[[Callable[[], object]], float]) -> dict[str, Choice]:
    """Find faster launches (by at least 3 %) for all kernels of a computation, one kernel after the other.

    Args:
        run: the computation.
        measure: measures its time.
    """
    from triton.errors import TritonError

    with _trying({}) as trial:
        run()
        best = measure(run)
    chosen: dict[str, Choice] = {}
    for key, shipped in trial.shipped.items():
        for choice in ({"num_warps": warps, "num_stages": stages} for warps in _WARPS for stages in _STAGES):
            if choice == shipped:
                continue
            try:
                with _trying({**chosen, key: choice}):
                    took = measure(run)
            except (TritonError, RuntimeError):  # not enough registers or shared memory
                continue
            if took < _GAIN * best:
                best, chosen[key] = took, choice
    return chosen


@contextmanager
def _trying(choices: dict[str, Choice]) -> Iterator[_Trial]:
    _trials.append(_Trial(choices))
    try:
        yield _trials[-1]
    finally:
        _trials.pop()


def _key(kernel: str, arguments: Mapping[str, int], tensor: Tensor) -> str:
    device = _device(tensor.device)
    shipped = ", ".join(f"{name}={value}" for name, value in sorted(arguments.items()))
    return f"{kernel} | {device} | {str(tensor.dtype).removeprefix('torch.')} | {_version()} | {shipped}"


@cache
def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@cache
def _version() -> str:
    import triton

    return f"triton {triton.__version__}"


def _is_choice(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"num_warps", "num_stages"}
        and all(type(number) is int and 1 <= number <= 32 for number in value.values())
    )
