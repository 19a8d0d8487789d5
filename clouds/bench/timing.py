"""Measures time and memory of calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.autograd.profiler import profile

_WARM_UPS = 3
_FLUSHED = 1 << 29  # bytes written before a call, to flush the GPU's cache. Meanwhile, about a tenth of a millisecond,
# the CPU prepares the launches, so that their cost is not attributed to the kernel


def milliseconds(
    calls: Mapping[str, Callable[[], object]], device: torch.device, *, repeats: int, flush: bool = True
) -> dict[str, list[float]]:
    """Times of each call by name, after a warm-up. Calls alternate, so that other load affects all equally.

    Args:
        calls: calls by name.
        device: device of the calls.
        repeats: runs per call.
        flush: on CUDA, flush the cache before each call.
    """
    measure = _on_cuda if device.type == "cuda" else _on_cpu
    scratch = torch.empty(_FLUSHED if flush else 0, dtype=torch.uint8, device=device) if device.type == "cuda" else None
    for call in calls.values():
        for _ in range(_WARM_UPS if device.type == "cuda" else 1):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(measure(call, scratch))
    return times


def _on_cpu(call: Callable[[], object], _: torch.Tensor | None) -> float:
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def _on_cuda(call: Callable[[], object], scratch: torch.Tensor | None) -> float:
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    if scratch is not None:
        scratch.zero_()
    start.record()
    call()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop)


def peak_memory(call: Callable[[], object], device: torch.device) -> int:
    """Peak bytes of tensors during a call, beyond those that existed before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    # `torch.profiler.profile` omits allocations within operations, and writes to standard error
    trace: Any = profile(profile_memory=True, use_kineto=False)
    with trace:
        made = call()
    del made
    held = peak = 0
    events = (event for event in trace.kineto_results.events() if event.name() == "[memory]")
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
