"""A bound on what is built for weights that a file holds, so that a number in the file cannot exhaust the machine."""

# pyright: reportUnknownParameterType=false
# (torch is typed in parts only)

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

# A factory may build more than it keeps: a whole timm model before its classifier goes, and probes of it.
_ELEMENTS, _MORE_ELEMENTS = 4, 2**26  # times those of the file, and so many more: 256 MiB of float32
_ENTRIES, _MORE_ENTRIES = 16, 20_000  # modules, parameters and buffers for each tensor of the file, and so many more


@contextmanager
def built_for(*, elements: int, tensors: int, source: str) -> Generator[None]:
    """Within the block, stop the building of networks that are far larger than the weights they are built for.

    A parameter is counted when it is given to its module, which is before its memory is touched.

    Args:
        elements: numbers that the weights hold.
        tensors: how many tensors they are in.
        source: the file, for messages.

    Raises:
        WeightsError: a network registers more than some times the weights' elements or tensors.
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
