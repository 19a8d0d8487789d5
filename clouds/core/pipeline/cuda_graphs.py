"""Forward passes recorded as CUDA graphs, for networks whose single kernels are shorter than their launches."""

# pyright: reportUnknownMemberType=false
# (torch is typed in parts only)

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
    """A graph, and the memory that it reads its input from and writes its outputs to."""

    graph: torch.cuda.CUDAGraph
    images: Tensor
    outputs: tuple[Tensor, ...]

    def replay(self, images: Tensor) -> tuple[Tensor, ...]:
        """Outputs in memory of their own, because the next replay overwrites the recording's."""
        self.images.copy_(images)
        self.graph.replay()
        return tuple(output.clone() for output in self.outputs)


class CudaGraphs:
    """Runs a network on batches: eagerly on the first of a shape, and as a recorded graph on the second and all later.

    A shape that comes once costs nothing beyond its eager run. All recordings are dropped when a parameter or buffer
    lies elsewhere or has another dtype, when a module goes from training to evaluation or back, and when the type of
    `torch.autocast` changes.

    Args:
        limit: recordings that are kept, at least 1; the least recently used goes first.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._recordings: OrderedDict[Hashable, _Recording] = OrderedDict()
        self._seen: set[Hashable] = set()
        self._state: Hashable = None

    def __call__(self, network: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
        """What `network(images)` returns, which is a tuple of tensors.

        Args:
            network: waits for nothing on the GPU, and copies nothing to it, in its forward pass.
            images: on a CUDA device.

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
            # Recordings are replayed one at a time, and their outputs are never freed: so they can share memory.
            shared = next(iter(self._recordings.values()), None)
            recording = _record(network, images, None if shared is None else shared.graph.pool())
        self._recordings[form] = recording
        return recording.replay(images)


def _state(network: nn.Module, device: torch.device) -> Hashable:
    """What a recording depends on beside its input."""
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
        # Autocast keeps no converted weights meanwhile: they would lie outside of the recording, and be freed.
        with (
            torch.cuda.device(images.device),
            torch.autocast(kind, dtype=torch.get_autocast_dtype(kind), enabled=enabled, cache_enabled=False),
        ):
            stream = torch.cuda.Stream()  # what is made at a first call is made before the recording
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                network(static)
            torch.cuda.current_stream().wait_stream(stream)
            # Other threads may use the GPU meanwhile, such as one that reads images.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                outputs = network(static)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ConfigError(
            f"no CUDA graph of images {tuple(images.shape)} can be recorded: {error}; a part of the network waits for "
            "the GPU, or copies to it, in its forward pass. pipeline.use_cuda_graphs(0) goes without"
        ) from error
    return _Recording(graph, static, outputs)
