"""The processes of one run: a single one, or several started by torchrun.

Work is split by position: process `rank` of `world` takes items `rank`, `rank + world`, ... of one global order.
"""

# pyright: reportUnknownMemberType=false
# (torch has incomplete types)

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any, TypeVar

import torch
from attrs import frozen
from torch import Tensor, distributed

T = TypeVar("T")


@frozen
class Processes:
    """This process among those of the run. Collective methods must be called by all processes."""

    rank: int = 0
    world: int = 1

    @classmethod
    def current(cls) -> Processes:
        """The joined processes, or this one alone."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of a global order."""
        return items[self.rank :: self.world]

    def sum(self, values: Tensor) -> Tensor:
        """Element-wise sum over all processes, on the CPU; integers are exact. Shapes must agree."""
        if self.world == 1:
            return values.cpu()
        summed = values.to(_collective_device()).clone()
        distributed.all_reduce(summed)
        return summed.cpu()

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank, sent as pickles within the run."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Wait for all processes."""
        self.sum(torch.zeros(1))


def join(device: str) -> Processes:
    """Join the process group of torchrun once, until this process ends; without torchrun, run alone.

    Args:
        device: "cpu", or any device without CUDA, uses gloo; otherwise accelerate chooses the backend, usually NCCL.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        from accelerate import PartialState  # pyright: ignore[reportMissingTypeStubs]

        import_module("torch.distributed.nn")  # a later import would keep the group as a default argument
        PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
        atexit.register(_leave)
    return Processes.current()


def _leave() -> None:
    """Release the group and gloo's threads, which abort the process if they outlive Python."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
        gc.collect()


def _collective_device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if distributed.get_backend() == "nccl" else _CPU


_CPU = torch.device("cpu")
