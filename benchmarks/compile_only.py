"""A CUDA driver without a device: kernels are compiled as they are launched, and the launches do nothing.

Within `compile_only`, operations take Triton on CPU tensors. What Triton compiles then is what it would compile on a
device of that compute capability: it sees the same dtypes, strides, sizes and alignments.
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
    """What Triton asks of the driver's library when it loads a kernel."""

    def load_binary(self, *_: Any) -> tuple[int, int, int, int, int]:
        """Module, function, registers, spills and most threads; only the last one is looked at."""
        return 0, 1, 0, 0, 1024

    def unload_module(self, *_: Any) -> None:
        """There is none."""

    def get_device_properties(self, _: int) -> dict[str, int]:
        """Without limits: rows say how much a kernel takes, and the tests how much there is."""
        return {"max_shared_mem": 1 << 30, "multiprocessor_count": 132, "warpSize": 32}


@frozen
class _Driver:
    """A driver of one device of a compute capability, e.g. 90. The device's number is its capability.

    Triton keeps compiled kernels by device number, so capabilities do not share them.
    """

    capability: int
    utils: _Utilities = _Utilities()

    def launcher_cls(self, *_: Any) -> Any:
        """What launches a kernel: it does nothing."""
        return lambda *_: None

    def get_current_device(self) -> int:
        """See the class."""
        return self.capability

    def get_current_stream(self, _: int) -> int:
        """The default one."""
        return 0

    def get_current_target(self) -> Any:
        """What kernels are compiled for."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_active_torch_device(self) -> torch.device:
        """Where tensors are."""
        return torch.device("cpu")


@contextmanager
def compile_only(capability: int) -> Iterator[list[tuple[str, Any]]]:
    """Compile what is launched within; gives the launches, each as the kernel's name and what was compiled.

    Raises:
        RuntimeError: Triton runs as an interpreter, so that there is nothing to compile.
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
