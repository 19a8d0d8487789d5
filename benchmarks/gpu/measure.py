"""The measuring parts: each appends rows when they are ready, and reports computations that could not run.

    python -m benchmarks.gpu.measure PART OUT    # rows in OUT/results

A line that starts with "FAILED" names a computation that could not run; the others still run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch

from benchmarks import end_to_end, graphs, head, kernels, predict
from benchmarks.decoder import Sizes
from benchmarks.rows import append
from clouds.bench.ceilings import Ceilings, measure_ceilings
from clouds.bench.problems import Size
from clouds.bench.runner import reason

Rows: TypeAlias = Iterable[dict[str, Any]]
Step: TypeAlias = tuple[str, Callable[[], Rows]]
Form: TypeAlias = tuple[torch.dtype, tuple[int, int], int]  # dtype, (height, width), batch

LARGE, SMALL = (1024, 2048), (512, 1024)
OPERATIONS = (  # the most expensive ones of the released network first
    "deformable_attention",
    "semantic_inference",
    "masked_attention",
    "point_sample",
    "matching_cost",
    "mask_pool",
)
# The reference order must also fit: with gradients, eight images of 1024x2048 would need more than 80 GB.
FORMS: tuple[Form, ...] = (
    (torch.bfloat16, LARGE, 1),
    (torch.bfloat16, SMALL, 1),
    (torch.bfloat16, SMALL, 8),
    (torch.float32, LARGE, 1),
)


def operations(forms: Sequence[Form], device: torch.device, **options: Any) -> Iterator[Step]:
    """Ceilings, and every operation in each form. Without a ceiling, rows have no share of it."""
    ceilings: dict[torch.dtype, Ceilings] = {}

    def ceiling(dtype: torch.dtype) -> Rows:
        ceilings[dtype] = measure_ceilings(dtype, device)
        return kernels.ceiling_rows(ceilings[dtype], dtype)

    def operation(op: str, size: Size, dtype: torch.dtype) -> Rows:
        return kernels.rows(op, size, dtype, device, ceilings.get(dtype), repeats=20, **options)

    for dtype in dict.fromkeys(form[0] for form in forms):
        yield f"ceilings {_name(dtype)}", partial(ceiling, dtype)
    for dtype, image, batch in forms:
        for op in OPERATIONS:
            name = f"{op} {_name(dtype)} {image[0]}x{image[1]} batch {batch}"
            yield name, partial(operation, op, Size(image=image, batch=batch), dtype)


def launches(device: torch.device) -> Iterator[Step]:
    """The head, eager and as a CUDA graph."""
    for image in (SMALL, LARGE):
        yield f"graphs {image[0]}x{image[1]}", partial(graphs.measure, Sizes(image=image), device, repeats=20)


def replays(device: torch.device) -> Iterator[Step]:
    """Forward passes of the operations without their launches; `matching_cost` copies from the host."""
    for dtype, image, batch in FORMS:
        for op in (op for op in OPERATIONS if op != "matching_cost"):
            run = partial(kernels.replays, op, Size(image=image, batch=batch), dtype, device, repeats=20)
            yield f"replays of {op} {_name(dtype)} {image[0]}x{image[1]} batch {batch}", run


def predictions(device: torch.device) -> Iterator[Step]:
    """Single images and batches, with and without CUDA graphs; `tiny` needs no additional library."""
    for backbone in predict.BACKBONES:
        run = partial(predict.batches, backbone, SMALL, device=device.type, dtype="bfloat16", images=32)
        yield f"predict {backbone} {SMALL[0]}x{SMALL[1]}", run


def heads(device: torch.device) -> Iterator[Step]:
    """The whole head, the reference order, and peers."""
    for image in (SMALL, LARGE):
        for dtype in ("bfloat16", "float32"):
            run = partial(head.run, Sizes(image=image), device=device.type, dtypes=(dtype,), repeats=20)
            yield f"head {dtype} {image[0]}x{image[1]}", run


def computations(device: torch.device) -> Iterator[Step]:
    """Whole computations, smallest first; the reference order of a training step fits into 80 GB."""
    for image, batch in ((SMALL, 1), (LARGE, 1), (SMALL, 8)):
        facts = Sizes(image=image), batch, device, "bfloat16"
        run = partial(end_to_end.measure, *facts, backbone="clip-rn50", repeats=10)
        yield f"end_to_end {image[0]}x{image[1]} batch {batch}", run


PARTS: Mapping[str, Callable[[torch.device], Iterator[Step]]] = {
    "operations": lambda device: operations(FORMS, device, others=False),
    "graphs": launches,
    "replays": replays,
    "predict": predictions,
    "head": heads,
    "end_to_end": computations,
    "providers": lambda device: operations(FORMS[:2], device, others=True, compiled=True),
}


def perform(steps: Iterable[Step], folder: Path, *, first: int = 0) -> int | None:
    """Run the steps from `first` on, and append their rows in `folder`.

    Returns:
        None; or, if the device no longer works in this process, the step to continue with in another one.
    """
    for number, (name, step) in enumerate(steps):
        if number < first:
            continue
        try:
            for one in step():
                append(one["benchmark"], [one], folder)
                print(_line(name, one), flush=True)
        except Exception as error:  # noqa: BLE001 - a kernel or a library may raise anything; other steps still run
            print(f"FAILED {name}: {reason(error)}", flush=True)
        if not _usable():
            return number + 1
    return None


def _line(name: str, one: Mapping[str, Any]) -> str:
    if "error" in one:
        return f"FAILED {name}: {one.get('direction', one['metric'])}: {one['provider']}: {one['error']}"
    return f"{name}: {one.get('direction', one['metric'])}: {one['provider']}: {one['p50']:.4g} {one['unit']}"


def _usable() -> bool:
    """Whether the device still works; after an illegal memory access it fails until the process ends."""
    if not torch.cuda.is_available():
        return True
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True


def main(part: str, out: str, first: str = "0") -> int:
    """Run all steps of a part; after a failure that disables the device, the rest in a new process."""
    device = torch.device("cuda")
    if torch.cuda.get_device_capability() < (8, 0):
        print("FAILED bfloat16: this card computes it in other types; its times say nothing", flush=True)
    following = perform(PARTS[part](device), Path(out) / "results", first=int(first))
    if following is not None:
        print(f"FAILED the device at step {following}; what follows runs in a new process", flush=True)
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.gpu.measure", part, out, str(following)])
    print("all steps were taken", flush=True)
    return 0


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
