"""The head launched kernel by kernel beside a CUDA graph of it: whether it is bound by launches.

"device" is the time between events on the device, "wall clock" that of the caller until the device is done, "launching"
that of the caller until the call returns. A replayed graph is one launch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.decoder import Sizes, head
from benchmarks.rows import clock, row
from clouds.core.interfaces import Features, HeadOutput
from clouds.kernels.bench.runner import reason
from clouds.kernels.bench.timing import milliseconds

EAGER, GRAPH = "eager", "CUDA graph"


def measure(sizes: Sizes, device: torch.device, *, repeats: int) -> Iterator[dict[str, Any]]:
    """Rows of milliseconds, in bfloat16 by autocast. What cannot be captured has a row that says why."""
    mine = head(sizes).to(device)
    features = Features(**{level: one.to(device) for level, one in sizes.features().items()})
    facts = {"shape": list(sizes.image), "batch": 1, "queries": sizes.queries, "dtype": "bfloat16"}

    @torch.no_grad()
    def eager() -> HeadOutput:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return mine(features)

    yield from _rows(EAGER, eager, device, repeats, facts)
    try:
        replay = captured(eager)
    except RuntimeError as error:  # an operation that waits for the device, or that allocates outside of the pool
        yield row("graphs", GRAPH, "device", "ms", [], error=reason(error), **facts)
        return
    yield from _rows(GRAPH, replay, device, repeats, facts)


def captured(run: Callable[[], object]) -> Callable[[], None]:
    """A graph of what `run` launches, as a function that replays it.

    Raises:
        RuntimeError: it does something that a graph cannot hold.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # as the capture wants it: libraries set themselves up at their first calls
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = run()
    return lambda: (graph.replay(), kept)[0]  # the outputs' memory is the graph's


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
