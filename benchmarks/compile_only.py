"""A CUDA driver without a device: launches compile kernels but do not run them.

Within `compile_only`, operations use Triton on CPU tensors. Triton compiles the same code as on a device of that
compute capability, because it sees the same dtypes, strides, sizes and alignments.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from attrs import frozen

from clouds.kernels import backends


@frozen
class _Utilities:
    """The driver library that Triton calls to load a kernel."""

    def load_binary(self, *_: Any) -> tuple[int, int, int, int, int]:
        """Module, function, registers, spills and maximum threads; Triton only checks the last one."""
        return 0, 1, 0, 0, 1024

    def unload_module(self, *_: Any) -> None:
        """Nothing to unload."""

    def get_device_properties(self, _: int) -> dict[str, int]:
        """No limits: rows report a kernel's usage, and tests compare it with a device's limits."""
        return {"max_shared_mem": 1 << 30, "multiprocessor_count": 132, "warpSize": 32}


@frozen
class _Driver:
    """A driver of one device with a compute capability, e.g. 90, which is also the device number.

    Triton caches compiled kernels by device number, so capabilities do not share them.
    """

    capability: int
    utils: _Utilities = _Utilities()

    def launcher_cls(self, *_: Any) -> Any:
        """A launcher that does nothing."""
        return lambda *_: None

    def get_current_device(self) -> int:
        """See the class."""
        return self.capability

    def get_current_stream(self, _: int) -> int:
        """The default stream."""
        return 0

    def get_current_target(self) -> Any:
        """Target of the compilation."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_active_torch_device(self) -> torch.device:
        """Device of the tensors."""
        return torch.device("cpu")


@contextmanager
def compile_only(capability: int) -> Iterator[list[tuple[str, Any]]]:
    """Compile the kernels launched within the block; yield the launches as (kernel name, compiled kernel).

    Raises:
        RuntimeError: Triton runs as an interpreter, so there is nothing to compile.
    """
    from triton import knobs
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    if knobs.runtime.interpret:
        raise RuntimeError("TRITON_INTERPRET is set, so there is nothing to compile; unset it")
    launches: list[tuple[str, Any]] = []
    run = JITFunction.run

    def record(kernel: Any, *arguments: Any, **options: Any) -> Any:
        compiled = run(kernel, *arguments, **options)
        launches.append((kernel.__name__, compiled))
        return compiled

    with (
        mock.patch.object(driver, "_active", _Driver(capability)),
        mock.patch.object(JITFunction, "run", record),
        mock.patch.object(backends, "_missing", return_value=None),
    ):
        yield launches
