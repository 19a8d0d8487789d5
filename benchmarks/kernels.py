"""The operations of `clouds bench`, compared with other projects, at the released sizes.

    python -m benchmarks kernels                # on a CPU: one image of 512x1024, semantic inference in three sizes
    python -m benchmarks.gpu                    # on a GPU

Peers of `deformable_attention`: the CUDA and Triton kernels of `deformops`, if installed, and the function of Hugging
Face's `transformers`. They need locations, the latter also weights. Their time includes computing these, as in the
modules that use them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from attrs import asdict
from torch import Tensor

from benchmarks.rows import row
from clouds.bench.ceilings import Ceilings, measure_ceilings
from clouds.bench.problems import PROBLEMS, KernelProblem, Size
from clouds.bench.runner import Measurement, measure, measure_all

IMAGE = (512, 1024)
LARGE = (1024, 2048)  # the worst case of the reference of semantic inference; also measured on a CPU
MANY = Size(image=IMAGE, classes=255, enlarged=2)  # the maximum number of classes, with resized scores


def run() -> list[dict[str, Any]]:
    """Rows for a CPU: every operation at the smallest size, semantic inference at the largest and with many classes."""
    device, sizes = torch.device("cpu"), [(op, Size(image=IMAGE)) for op in PROBLEMS]
    sizes.append(("semantic_inference", Size(image=LARGE)))
    ceilings = measure_ceilings(torch.float32, device)
    made = [one for op, size in sizes for one in rows(op, size, torch.float32, device, ceilings, repeats=5)]
    return made + many_classes(ceilings)


def many_classes(ceilings: Ceilings) -> list[dict[str, Any]]:
    """Rows of semantic inference on a CPU with scores of 255 classes resized to twice the size."""
    made = rows("semantic_inference", MANY, torch.float32, torch.device("cpu"), ceilings, repeats=5)
    return [one | {"op": f"semantic_inference, {MANY.classes} classes, resized x{MANY.enlarged}"} for one in made]


def rows(
    op: str,
    size: Size,
    dtype: torch.dtype,
    device: torch.device,
    ceilings: Ceilings | None,
    *,
    others: bool = True,
    **options: Any,
) -> list[dict[str, Any]]:
    """A row per form and pass of one operation; a form that cannot run gets a row with the reason.

    Args:
        op, size, dtype, device, ceilings: the measurement; without ceilings, rows have no shares of them.
        others: also measure other projects.
        options: further arguments of `clouds.bench.runner.measure`.
    """
    given = {"others": others, "peers": peers if others else None, **options}
    return [_row(one, ceilings) for one in measure(op, size, dtype, device, ceilings=ceilings, **given)]


def replays(op: str, size: Size, dtype: torch.dtype, device: torch.device, *, repeats: int) -> list[dict[str, Any]]:
    """Rows of forward passes that are replayed as CUDA graphs: the time of kernels, without that of their launches."""
    problem = PROBLEMS[op](size, dtype, device)
    forms = {
        f"clouds {backend}": _replayed(torch.no_grad()(partial(problem.run, backend)))
        for backend in ("triton", "torch")
    }
    facts = {"op": op, "dtype": str(dtype)[6:], "image": size.image, "batch": size.batch, "queries": size.queries}
    return [
        _row(Measurement(provider=name, direction="forward, CUDA graph", **_found(one), **facts), None)
        for name, one in measure_all(forms, device, repeats).items()
    ]


def _replayed(run: Callable[[], object]) -> Callable[[], None]:
    """`run` as a CUDA graph, which the first call records."""
    graph = cache(partial(_record, run))
    return lambda: graph().replay()


def _record(run: Callable[[], object]) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()  # whatever happens once happens before the recording
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph


def _found(made: tuple[list[float], int] | str) -> dict[str, Any]:
    """Times, or the error; a recording allocates nothing when it is replayed."""
    return {"error": made} if isinstance(made, str) else {"milliseconds": made[0]}


def ceiling_rows(ceilings: Ceilings, dtype: torch.dtype) -> list[dict[str, Any]]:
    """Rows of the device's ceilings."""
    units = {"copied": "GB/s", "gathered": "GB/s", "multiplied": "TFLOP/s"}
    return [
        row("kernels", "device", name, units[name], [value / _SCALES[units[name]]], dtype=str(dtype)[6:])
        for name, value in asdict(ceilings).items()
    ]


_SCALES = {"GB/s": 1e9, "TFLOP/s": 1e12}


def _row(one: Measurement, ceilings: Ceilings | None) -> dict[str, Any]:
    unit = "TFLOP/s" if one.ceiling == "multiplied" else "GB/s"
    return row(
        "kernels",
        one.provider,
        one.op,
        "ms",
        one.milliseconds,
        op=one.op,
        direction=one.direction,
        dtype=one.dtype,
        shape=list(one.image),
        batch=one.batch,
        queries=one.queries,
        peak_memory_mb=None if one.peak_memory is None else round(one.peak_memory / 1e6, 3),
        rate=None if one.rate is None else round(one.rate / _SCALES[unit], 3),
        rate_unit=None if one.rate is None else unit,
        ceiling=one.ceiling,
        share=None if one.share is None else round(one.share, 4),
        ceilings=None if ceilings is None else {name: round(value, -6) for name, value in asdict(ceilings).items()},
        **({"error": one.error} if one.error else {}),
    )


def peers(problem: KernelProblem) -> Mapping[str, Callable[[], Any]]:
    """Implementations of other projects, on the same inputs."""
    if problem.op.__name__ != "deformable_attention":
        return {}
    (part,) = problem.parts
    forms: dict[str, Callable[[], Any]] = {}
    if find_spec("transformers"):
        forms[f"transformers {version('transformers')}"] = lambda: [_transformers(part)]
    if find_spec("deformops") and part["value"].is_cuda:
        for name in ("CUDA", "TRITON"):
            forms[f"deformops {version('deformops')} {name}"] = lambda name=name: [_deformops(part, name)]
    return forms


def _locations(part: Mapping[str, Any]) -> Tensor:
    """Sampling locations in the dtype of the offsets, computed as by callers of the published core."""
    offsets = part["offsets"]
    sizes = torch.tensor([[width, height] for height, width in part["spatial_shapes"]], device=offsets.device)
    return (part["reference_points"][:, :, None, :, None] + offsets / sizes[:, None]).to(offsets.dtype)


def _transformers(part: Mapping[str, Any]) -> Tensor:
    from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

    logits = part["attention_logits"]
    weights = logits.flatten(-2).softmax(-1).view_as(logits)
    return multi_scale_deformable_attention(part["value"], part["spatial_shapes"], _locations(part), weights)


def _deformops(part: Mapping[str, Any], backend: str) -> Tensor:
    """Call a kernel of `deformops`, which includes the softmax."""
    registry = import_module("deformops.registry")
    shapes = torch.tensor(part["spatial_shapes"], device=part["value"].device)
    starts = torch.cat((shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]))
    inputs = part["value"], shapes, starts, _locations(part), part["attention_logits"]
    return registry.msda(*inputs, method="softmax", backend=registry.Backend[backend])
