"""Limits the size of networks built for the weights in a file, so that a number in it cannot exhaust the memory."""

# pyright: reportUnknownParameterType=false
# (torch has incomplete types)

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from clouds.core.system.errors import WeightsError

# Factories may build more than they keep: a whole timm model before its classifier is dropped, and probes of it.
_ELEMENTS, _MORE_ELEMENTS = 4, 2**26  # factor on the file's elements, plus 256 MiB of float32
_ENTRIES, _MORE_ENTRIES = 16, 20_000  # modules, parameters and buffers per tensor of the file, plus a constant


@contextmanager
def built_for(*, elements: int, tensors: int, source: str) -> Generator[None]:
    """Within the block, refuse to build networks that are far larger than their weights.

    Parameters are counted when they are registered, before their memory is touched.

    Args:
        elements: number of elements of the weights.
        tensors: number of tensors.
        source: the file, for messages.

    Raises:
        WeightsError: a network registers a multiple of the weights' elements or tensors.
    """
    room = [_ELEMENTS * elements + _MORE_ELEMENTS, _ENTRIES * tensors + _MORE_ENTRIES]

    def count(module: nn.Module, name: str, value: Tensor | nn.Module | None) -> None:
        room[1] -= 1
        if isinstance(value, Tensor) and not value.is_meta:
            room[0] -= value.numel()
        if min(room) < 0:
            raise WeightsError(
                f"{source}: holds {elements} numbers in {tensors} tensors, but asks for a far larger "
                f"{type(module).__name__}; it is damaged, or was altered"
            )

    with ExitStack() as hooks:
        for register in (
            register_module_parameter_registration_hook,
            register_module_buffer_registration_hook,
            register_module_module_registration_hook,
        ):
            hooks.callback(register(count).remove)
        yield
