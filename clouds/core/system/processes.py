"""The processes of one run: alone, or several that torchrun started.

Work is split by position: process `rank` of `world` takes items `rank`, `rank + world`, ... of one global order.
"""

# pyright: reportUnknownMemberType=false
# (torch is typed in parts only)

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
    """Which of the processes this is. Every method that talks to the others must be called by all of them."""

    rank: int = 0
    world: int = 1

    @classmethod
    def current(cls) -> Processes:
        """The processes that have joined; this one alone if none has."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def main(self) -> bool:
        """Whether this is the one that writes files and shows progress."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of a global order."""
        return items[self.rank :: self.world]

    def sum(self, values: Tensor) -> Tensor:
        """Element-wise sum over all processes, on the CPU; integers are exact. Shapes must agree."""
        if self.world == 1:
            return values.cpu()
        summed = values.to(_place()).clone()
        distributed.all_reduce(summed)
        return summed.cpu()

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, by rank. It travels as a pickle, among processes of one run."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Wait until every process is here."""
        self.sum(torch.zeros(1))


def join(device: str) -> Processes:
    """Join the processes that torchrun started, once, until this one ends; alone without torchrun.

    Args:
        device: "cpu", and any without CUDA, joins through gloo; otherwise accelerate chooses, NCCL as a rule.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        from accelerate import PartialState  # pyright: ignore[reportMissingTypeStubs]

        import_module("torch.distributed.nn")  # imported later, it would keep the group as a default argument
        PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
        atexit.register(_leave)
    return Processes.current()


def _leave() -> None:
    """Give the group up, and with its last reference gloo's threads: those that outlive Python abort the process."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
        gc.collect()


def _place() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if distributed.get_backend() == "nccl" else _CPU


_CPU = torch.device("cpu")
