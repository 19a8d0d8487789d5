"""`clouds bench`: time and memory of the operations on this machine. Heavy imports are inside functions."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

from attrs import asdict
from cyclopts import Parameter

from clouds.cli.options import AsJson, UsageError
from clouds.cli.output import write, write_json, write_table
from clouds.core.system.errors import ConfigError

if TYPE_CHECKING:
    from clouds.bench.ceilings import Ceilings
    from clouds.bench.runner import Measurement

_MIB = 2**20
_STRIDE = 32


def bench(
    op: str | None = None,
    /,
    *,
    size: tuple[int, int] = (512, 1024),
    batch: int = 1,
    queries: int = 100,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: Literal["auto", "cuda", "cpu"] = "auto",
    compiled: Annotated[bool, Parameter(show_default=False)] = False,
    repeats: int = 20,
    tune: Annotated[bool, Parameter(show_default=False)] = False,
    as_json: AsJson = False,
) -> None:
    """Measure time and memory of the decoder's operations at the released models' sizes, beside their references.

    Args:
        op: operation to measure; default: all.
        size: height and width of the images in pixels, multiples of 32.
        batch: number of images.
        queries: number of queries per image.
        dtype: dtype of the inputs; auto means bfloat16 on CUDA, float32 on a CPU.
        device: auto means CUDA if available.
        compiled: also measure torch.compile of the references; takes minutes.
        repeats: runs per form.
        tune: first search for faster kernel launches, and save them to a file (see CLOUDS_TUNED); CUDA only.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # silences torch's profiler, which counts memory
    import torch

    from clouds.bench.ceilings import measure_ceilings
    from clouds.bench.problems import PROBLEMS, Size
    from clouds.bench.runner import measure
    from clouds.core.pipeline.build import pick_device

    if op is not None and op not in PROBLEMS:
        raise UsageError(f"unknown operation {op!r}; expected one of {', '.join(PROBLEMS)}")
    _check_sizes(size, {"batch": batch, "queries": queries, "repeats": repeats})
    place = pick_device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    number = {"cuda": "bfloat16", "cpu": "float32"}[place.type] if dtype == "auto" else dtype
    numbers, given = getattr(torch, number), Size(image=size, batch=batch, queries=queries)
    names = [op] if op else list(PROBLEMS)
    if tune:
        _tune(names, given, numbers, place, repeats)
    ceilings = measure_ceilings(numbers, place)
    found: list[Measurement] = []
    for name in names:
        found += measure(name, given, numbers, place, compiled=compiled, repeats=repeats, ceilings=ceilings)
    if as_json:
        write_json({"device": _device_name(place), "ceilings": asdict(ceilings), "measurements": [*map(_row, found)]})
    else:
        _print(found, ceilings, f"{number}, {size[0]}x{size[1]}, batch {batch}, on {_device_name(place)}")


def _tune(names: list[str], size: Any, dtype: Any, device: Any, repeats: int) -> None:
    """Find launches that are faster than the shipped ones, add them to the file of tuned launches, and use them."""
    from clouds.bench.runner import fastest_launches
    from clouds.core.system.files import cache_folder, write_text
    from clouds.kernels.tuning import VARIABLE, read

    if device.type != "cuda":
        raise ConfigError(f"--tune needs a CUDA device, got {device}")
    path = cache_folder("tuning") / "launches.json"
    found: dict[str, Any] = {}
    for name in names:
        found |= fastest_launches(name, size, dtype, device, repeats=repeats)
    read.cache_clear()  # another process may have added launches meanwhile
    found = {**(read(str(path)) if path.exists() else {}), **found}
    write_text(path, json.dumps(found, indent=2))
    read.cache_clear()
    os.environ[VARIABLE] = str(path)
    sys.stderr.write(f"{len(found)} launches in {path}; {VARIABLE}={path} uses them\n")


def _check_sizes(size: tuple[int, int], counts: dict[str, int]) -> None:
    wrong = [f"--{name} {count}" for name, count in counts.items() if count < 1]
    if wrong:
        raise UsageError(f"{', '.join(wrong)}: expected at least 1")
    if min(size) < _STRIDE or any(side % _STRIDE for side in size):
        raise UsageError(f"--size {size[0]} {size[1]}: expected multiples of {_STRIDE}")


def _device_name(device: Any) -> str:
    import torch

    return (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} ({torch.get_num_threads()} threads)"
    )


def _row(one: Measurement) -> dict[str, Any]:
    percentiles = {f"p{share}": one.percentile(share / 100) if one.milliseconds else None for share in (20, 50, 80)}
    return {**asdict(one), **percentiles}


def _print(found: list[Measurement], ceilings: Ceilings, title: str) -> None:
    copied, gathered = (f"{value / 1e9:.0f} GB/s" for value in (ceilings.copied, ceilings.gathered))
    write(
        f"{title}. Ceilings: copied {copied}, gathered {gathered}, multiplied {ceilings.multiplied / 1e12:.2f} TFLOP/s"
    )
    write("")
    header = ("operation", "form", "pass", "ms", "20 % .. 80 %", "peak MiB", "of the ceiling")
    write_table(header, [(one.op, one.provider, one.direction, *_cells(one)) for one in found])


def _cells(one: Measurement) -> tuple[str, str, str, str]:
    if one.error is not None:
        return ("failed", one.error, "", "")
    low, middle, high = (f"{one.percentile(share):.3f}" for share in (0.2, 0.5, 0.8))
    share = "" if one.share is None else f"{one.share:.0%} of {one.ceiling}"
    return middle, f"{low} .. {high}", f"{(one.peak_memory or 0) / _MIB:.1f}", share
