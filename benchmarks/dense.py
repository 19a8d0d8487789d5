"""Only the dense layers of a computation: its linear layers, convolutions and matrix products.

They are recorded in one run of the computation, and repeated on random inputs with the same shapes, strides and types,
with the same routines. Equal shapes share inputs, so cache hits are more frequent than in the computation itself. Fused
attention is excluded. Their time is thus a lower bound for the computation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

_ATEN = torch.ops.aten
_DENSE = (_ATEN.addmm, _ATEN.mm, _ATEN.bmm, _ATEN.baddbmm, _ATEN.linear, _ATEN.convolution)
_FORMS = tuple(getattr(packet, name) for packet in _DENSE for name in packet.overloads())


class DenseLayers(TorchDispatchMode):
    """Records calls of dense layers within the block.

    Attributes:
        calls: recorded calls, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], Any]] = []
        self._numbers: dict[tuple[Any, ...], Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _FORMS:
            likes, named = pytree.tree_map_only(Tensor, self._like, (args, kwargs))
            self.calls.append(lambda: func(*likes, **named))
        return func(*args, **kwargs)

    def run(self) -> None:
        """Repeat all recorded calls."""
        for call in self.calls:
            call()

    def _like(self, tensor: Tensor) -> Tensor:
        """A random tensor with the same shape, strides and type, in its own memory."""
        key = (tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if key not in self._numbers:
            fresh = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
            self._numbers[key] = fresh.normal_() if 0 not in tensor.stride() else torch.randn_like(tensor)
        return self._numbers[key]
