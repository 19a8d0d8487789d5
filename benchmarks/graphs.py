"""The head launched kernel by kernel, compared with a CUDA graph, which shows whether launches limit its speed.

"device" is the time between events on the device, "wall clock" the caller's time until the device is done, "launching"
the caller's time until the call returns. The graph is that of `Pipeline.use_cuda_graphs`: one launch, and copies of its
input and outputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from attrs import evolve
from torch import Tensor, nn

from benchmarks.decoder import Sizes, head
from benchmarks.rows import clock, row
from clouds.bench.runner import reason
from clouds.bench.timing import milliseconds
from clouds.core.contract.interfaces import Head
from clouds.core.contract.records import Features
from clouds.core.pipeline.cuda_graphs import CudaGraphs
from clouds.core.system.errors import ConfigError

EAGER, GRAPH = "eager", "CUDA graph"


class _Head(nn.Module):
    """The head on given features, as a network for `CudaGraphs`: from one tensor to a tuple of tensors."""

    def __init__(self, head: Head, features: Features) -> None:
        super().__init__()
        self.head, self.features = head, features

    def forward(self, res2: Tensor) -> tuple[Tensor, Tensor]:
        output = self.head(evolve(self.features, res2=res2))
        return output.class_logits, output.mask_logits


def measure(sizes: Sizes, device: torch.device, *, repeats: int) -> Iterator[dict[str, Any]]:
    """Rows of milliseconds, in bfloat16 by autocast. A graph that cannot be recorded gets a row with the reason."""
    features = Features(**{level: one.to(device) for level, one in sizes.features().items()})
    network, graphs = _Head(head(sizes).to(device), features).eval(), CudaGraphs(1)
    facts = {"shape": list(sizes.image), "batch": 1, "queries": sizes.queries, "dtype": "bfloat16"}
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16):
        yield from _rows(EAGER, lambda: network(features.res2), device, repeats, facts)
        replay = partial(graphs, network, features.res2)
        try:
            for _ in range(2):  # the second run of a shape records it
                replay()
        except (ConfigError, RuntimeError) as error:  # a synchronization with the device, or no device
            yield row("graphs", GRAPH, "device", "ms", [], error=reason(error), **facts)
            return
        yield from _rows(GRAPH, replay, device, repeats, facts)


def _rows(
    provider: str, run: Callable[[], object], device: torch.device, repeats: int, facts: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    times = {
        "device": milliseconds({provider: run}, device, repeats=repeats)[provider],
        "wall clock": [1000 * clock(run) for _ in range(repeats)],
        "launching": [_launching(run) for _ in range(repeats)],
    }
    for metric, values in times.items():
        yield row("graphs", provider, metric, "ms", values, **facts)


def _launching(run: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)
