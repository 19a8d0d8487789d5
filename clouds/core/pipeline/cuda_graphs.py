"""Records forward passes as CUDA graphs, for networks whose kernels take less time than their launches."""

# pyright: reportUnknownMemberType=false
# (torch has incomplete types)

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from itertools import chain
from typing import Any

import torch
from attrs import define
from torch import Tensor, nn

from clouds.core.system.errors import ConfigError


@define(eq=False)
class _Recording:
    """A graph with its input and output memory."""

    graph: torch.cuda.CUDAGraph
    images: Tensor
    outputs: tuple[Tensor, ...]

    def replay(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the graph; outputs are copied because the next replay overwrites them."""
        self.images.copy_(images)
        self.graph.replay()
        return tuple(output.clone() for output in self.outputs)


class CudaGraphs:
    """Runs a network eagerly on the first batch of a shape, and as a recorded graph on all later ones.

    Shapes that occur once thus cost nothing extra. All recordings are dropped when the address or dtype of a parameter
    or buffer, the training mode of a module, or the type of `torch.autocast` changes.

    Args:
        limit: maximum number of recordings, at least 1; the least recently used is dropped first.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._recordings: OrderedDict[Hashable, _Recording] = OrderedDict()
        self._seen: set[Hashable] = set()
        self._state: Hashable = None

    def __call__(self, network: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
        """Compute `network(images)`, a tuple of tensors.

        Args:
            network: its forward pass must not synchronise with the GPU or copy data to it.
            images: a batch on a CUDA device.

        Raises:
            ConfigError: the network cannot be recorded.
        """
        state = _state(network, images.device)
        if state != self._state:
            self._state = state
            self._recordings.clear()
            self._seen.clear()
        form = (images.shape, images.dtype)
        if form not in self._seen:
            self._seen.add(form)
            return network(images)
        recording = self._recordings.pop(form, None)
        if recording is None:
            while len(self._recordings) >= self.limit:
                self._recordings.popitem(last=False)
            # Recordings are replayed one at a time and their outputs are never freed, so they can share memory.
            shared = next(iter(self._recordings.values()), None)
            recording = _record(network, images, None if shared is None else shared.graph.pool())
        self._recordings[form] = recording
        return recording.replay(images)


def _state(network: nn.Module, device: torch.device) -> Hashable:
    """Everything that a recording depends on besides its input."""
    tensors: Iterable[Tensor] = chain(network.parameters(), network.buffers())
    places = tuple((one.data_ptr(), one.dtype) for one in tensors)
    training = tuple(module.training for module in network.modules())
    cast = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type)
    return places, training, cast


def _record(network: nn.Module, images: Tensor, pool: Any) -> _Recording:
    kind, enabled = images.device.type, torch.is_autocast_enabled(images.device.type)
    static = images.clone()
    graph = torch.cuda.CUDAGraph()
    try:
        # Autocast must not cache converted weights: they would be allocated outside the recording, then freed.
        with (
            torch.cuda.device(images.device),
            torch.autocast(kind, dtype=torch.get_autocast_dtype(kind), enabled=enabled, cache_enabled=False),
        ):
            stream = torch.cuda.Stream()  # warm-up: lazy initialisation happens before the recording
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                network(static)
            torch.cuda.current_stream().wait_stream(stream)
            # "thread_local": other threads, such as image readers, may use the GPU meanwhile.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                outputs = network(static)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ConfigError(
            f"no CUDA graph of images {tuple(images.shape)} can be recorded: {error}; the network's forward pass waits "
            "for the GPU or copies to it. pipeline.use_cuda_graphs(0) switches CUDA graphs off"
        ) from error
    return _Recording(graph, static, outputs)
