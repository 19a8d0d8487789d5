"""Measures upper bounds of the device: copies, gathers of short rows from its cache, and matrix products."""

from __future__ import annotations

import torch
from attrs import frozen

from clouds.bench.timing import milliseconds

_COPIED = {"cuda": 1 << 30, "cpu": 1 << 27}  # bytes: many times the last-level cache
_GATHERED = {"cuda": 1 << 18, "cpu": 1 << 14}  # rows: 16 and 2 MB, which fit in the last-level cache
_SIDE = {"cuda": 8192, "cpu": 1024}
_CHANNELS, _BAG, _BAGS = 32, 48, 1 << 14  # gather on a CPU: like one head with 12 samples of 4 corners


@frozen(kw_only=True)
class Ceilings:
    """Rates per second: bytes read and written by a copy, bytes of gathered rows, operations of matrix products.

    Rows have 64 bytes (32 bfloat16) on CUDA, and 128 bytes (32 float32) on CPU.
    """

    copied: float
    gathered: float
    multiplied: float


def measure_ceilings(dtype: torch.dtype, device: torch.device, *, repeats: int = 20) -> Ceilings:
    """Measure medians of `repeats` runs; products use `dtype`."""
    return Ceilings(
        copied=_copy(device, repeats), gathered=_gather(device, repeats), multiplied=_product(dtype, device, repeats)
    )


def _copy(device: torch.device, repeats: int) -> float:
    source = torch.randn(_COPIED[device.type] // 4, device=device)
    target = torch.empty_like(source)
    times = milliseconds({"copy": lambda: target.copy_(source)}, device, repeats=repeats)["copy"]
    return _per_second(2 * source.numel() * 4, times)


def _product(dtype: torch.dtype, device: torch.device, repeats: int) -> float:
    side = _SIDE[device.type]
    left, right = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
    times = milliseconds({"product": lambda: left @ right}, device, repeats=repeats)["product"]
    return _per_second(2 * side**3, times)


def _gather(device: torch.device, repeats: int) -> float:
    if device.type == "cuda":
        from clouds.bench.gather import forward, gathered_bytes

        table = torch.randn(_GATHERED["cuda"], _CHANNELS, dtype=torch.bfloat16, device=device)
        times = milliseconds({"gather": lambda: forward(table)}, device, repeats=repeats, flush=False)["gather"]
        return _per_second(gathered_bytes(), times)
    table = torch.randn(_GATHERED["cpu"], _CHANNELS)
    rows = torch.randint(len(table), (_BAGS, _BAG), dtype=torch.int32)
    bags = torch.nn.functional.embedding_bag
    times = milliseconds({"gather": lambda: bags(rows, table, mode="sum")}, device, repeats=repeats)["gather"]
    return _per_second(rows.numel() * _CHANNELS * 4, times)


def _per_second(amount: int, times: list[float]) -> float:
    return amount / (torch.tensor(times).median().item() / 1000)
