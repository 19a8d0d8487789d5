"""Whole computations in both orders of work: head forward, head with backward pass, `predict`, a training step.

"clouds" is the library's code; "reference order" is the published order of work on the same weights
(`benchmarks.reference_head`), with the same loss. A training step is the head's: forward, loss, backward, AdamW.

    python -m benchmarks end_to_end      # on a CPU: one image of 256x512, then one of 512x1024
    python -m benchmarks.gpu             # on a GPU: images of 512x1024, one and eight, and one of 1024x2048
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

import clouds
from benchmarks import reference_head
from benchmarks.decoder import Sizes, head
from benchmarks.rows import row
from clouds.bench.runner import measure_all
from clouds.core.contract.records import Features, HeadOutput, Targets

OURS, REFERENCE = "clouds", "reference order"
_CLASSES, _TARGETS = 19, 10


def run(sizes: Sizes | None = None) -> list[dict[str, Any]]:
    """Rows for a CPU, in float32."""
    chosen = [sizes] if sizes else [Sizes(image=image) for image in ((256, 512), (512, 1024))]
    return [one for size in chosen for one in measure(size, 1, torch.device("cpu"), "float32", repeats=5)]


def measure(
    sizes: Sizes, batch: int, device: torch.device, dtype: str, *, backbone: str = "tiny", repeats: int
) -> Iterator[dict[str, Any]]:
    """Yield rows of milliseconds, megabytes, and our speedup and memory saving.

    An order of work that cannot run gets a row with the reason.
    """
    facts = {"shape": list(sizes.image), "batch": batch, "queries": sizes.queries, "dtype": dtype}
    for metric, forms in computations(sizes, batch, device, backbone):
        runs = {name: _in(form, device, dtype) for name, form in forms.items()}
        made = measure_all(runs, device, repeats)
        for name, one in made.items():
            if isinstance(one, str):
                yield row("end_to_end", name, metric, "ms", [], error=one, **facts)
            else:
                yield row("end_to_end", name, metric, "ms", one[0], peak_memory_mb=one[1] / 1e6, **facts)
        ours, reference = made[OURS], made.get(REFERENCE, "")
        if isinstance(ours, str) or isinstance(reference, str):
            continue
        faster = [slow / fast for fast, slow in zip(ours[0], reference[0], strict=True)]
        yield row("end_to_end", OURS, f"{metric}, times faster", "x", faster, peer=REFERENCE, **facts)
        smaller = reference[1] / ours[1]
        yield row("end_to_end", OURS, f"{metric}, times smaller", "x", [smaller], peer=REFERENCE, **facts)


def computations(
    sizes: Sizes, batch: int, device: torch.device, backbone: str
) -> Iterator[tuple[str, dict[str, Callable[[], object]]]]:
    """Metrics and their providers. The pipeline is last, because it needs additional libraries."""
    mine = head(sizes).to(device)
    maps = {level: one.to(device).expand(batch, -1, -1, -1) for level, one in sizes.features().items()}
    features, targets = Features(**maps), [_targets(sizes.image, device) for _ in range(batch)]
    optimizer = torch.optim.AdamW(mine.parameters(), lr=0.0)  # weights stay constant, so that all runs compute the same
    yield (
        "head forward",
        {
            OURS: torch.no_grad()(lambda: mine.eval()(features)),
            REFERENCE: torch.no_grad()(lambda: reference_head.forward(mine.eval(), features)),
        },
    )
    yield (
        "head forward+backward",
        {
            OURS: lambda: _backward(mine, mine.train()(features)),
            REFERENCE: lambda: _backward(mine, reference_head.forward(mine.train(), features)),
        },
    )
    yield (
        "training step of the head",
        {
            OURS: lambda: _step(mine, optimizer, mine.train()(features), targets),
            REFERENCE: lambda: _step(mine, optimizer, reference_head.forward(mine.train(), features), targets),
        },
    )
    pipeline: Any = clouds.compose(backbone=backbone, head="mask2former", pretrained=False, device=str(device))
    pipeline.trained = True  # only speed matters here
    image = np.random.default_rng(0).integers(0, 256, (*sizes.image, 3), np.uint8)
    yield f"predict with {backbone}", {OURS: lambda: pipeline.predict(image).labels}


def _backward(module: torch.nn.Module, output: HeadOutput) -> None:
    """Backward pass of the sum of all logits of all layers."""
    module.zero_grad()
    layers = (output, *output.auxiliary)
    torch.stack([one.class_logits.float().sum() + one.mask_logits.float().sum() for one in layers]).sum().backward()


def _step(module: Any, optimizer: torch.optim.Optimizer, output: HeadOutput, targets: list[Targets]) -> None:
    module.zero_grad()
    torch.stack(list(module.loss(output, targets).values())).sum().backward()
    optimizer.step()


def _targets(size: tuple[int, int], device: torch.device) -> Targets:
    """Targets of vertical stripes, one class each."""
    columns = torch.arange(size[1], device=device) * _TARGETS // size[1]
    masks = (columns == torch.arange(_TARGETS, device=device)[:, None])[:, None].expand(-1, size[0], -1)
    return Targets(
        labels=torch.arange(_TARGETS, device=device) % _CLASSES,
        masks=masks.contiguous(),
        valid=torch.ones(size, dtype=torch.bool, device=device),
    )


def _in(form: Callable[[], object], device: torch.device, dtype: str) -> Callable[[], object]:
    def run() -> object:
        with torch.autocast(device.type, dtype=getattr(torch, dtype), enabled=dtype != "float32"):
            return form()

    return run
