"""Whole computations in each order of work: head forward, head with its backward pass, `predict`, a training step.

"clouds" is the code as it runs; "reference order" is the published order of work on the same weights
(`benchmarks.reference_head`), with the same loss. A training step is the head's: forward, loss, backward, AdamW.

    python -m benchmarks end_to_end      # on a CPU: one image of 256x512, then one of 512x1024
    python -m benchmarks.gpu end_to_end  # on a GPU: images of 512x1024 and 1024x2048, one and eight
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import clouds
from benchmarks import reference_head
from benchmarks.decoder import Sizes, head
from benchmarks.rows import row
from clouds.core.interfaces import Features, HeadOutput, Targets
from clouds.kernels.bench.timing import milliseconds, peak_memory

OURS, REFERENCE = "clouds", "reference order"
_CLASSES, _TARGETS = 19, 10


def run(sizes: Sizes | None = None) -> list[dict[str, Any]]:
    """Rows of a CPU, in float32."""
    chosen = [sizes] if sizes else [Sizes(image=image) for image in ((256, 512), (512, 1024))]
    return [one for size in chosen for one in measure(size, 1, torch.device("cpu"), "float32", repeats=5)]


def measure(
    sizes: Sizes, batch: int, device: torch.device, dtype: str, *, backbone: str = "tiny", repeats: int
) -> list[dict[str, Any]]:
    """Rows of milliseconds, of megabytes, and of how many times faster or smaller ours is."""
    rows: list[dict[str, Any]] = []
    facts = {"shape": list(sizes.image), "batch": batch, "queries": sizes.queries, "dtype": dtype}
    for metric, forms in computations(sizes, batch, device, backbone).items():
        runs = {name: _in(form, device, dtype) for name, form in forms.items()}
        memory = {name: peak_memory(one, device) / 1e6 for name, one in runs.items()}
        times = milliseconds(runs, device, repeats=repeats)
        for name in runs:
            rows.append(row("end_to_end", name, metric, "ms", times[name], peak_memory_mb=memory[name], **facts))
        if REFERENCE in runs:
            faster = [slow / fast for fast, slow in zip(times[OURS], times[REFERENCE], strict=True)]
            rows.append(row("end_to_end", OURS, f"{metric}, times faster", "x", faster, peer=REFERENCE, **facts))
            smaller = memory[REFERENCE] / memory[OURS]
            rows.append(row("end_to_end", OURS, f"{metric}, times smaller", "x", [smaller], peer=REFERENCE, **facts))
    return rows


def computations(
    sizes: Sizes, batch: int, device: torch.device, backbone: str
) -> dict[str, dict[str, Callable[[], object]]]:
    """What is run, by metric and provider."""
    mine = head(sizes).to(device)
    maps = {level: one.to(device).expand(batch, -1, -1, -1) for level, one in sizes.features().items()}
    features, targets = Features(**maps), [_targets(sizes.image, device) for _ in range(batch)]
    optimizer = torch.optim.AdamW(mine.parameters(), lr=0.0)  # the weights stay, so that all runs compute the same
    pipeline: Any = clouds.compose(backbone=backbone, head="mask2former", pretrained=False, device=str(device))
    pipeline.trained = True  # only its speed is of interest
    image = np.random.default_rng(0).integers(0, 256, (*sizes.image, 3), np.uint8)
    return {
        "head forward": {
            OURS: torch.no_grad()(lambda: mine.eval()(features)),
            REFERENCE: torch.no_grad()(lambda: reference_head.forward(mine.eval(), features)),
        },
        "head forward+backward": {
            OURS: lambda: _backward(mine, mine.train()(features)),
            REFERENCE: lambda: _backward(mine, reference_head.forward(mine.train(), features)),
        },
        "training step of the head": {
            OURS: lambda: _step(mine, optimizer, mine.train()(features), targets),
            REFERENCE: lambda: _step(mine, optimizer, reference_head.forward(mine.train(), features), targets),
        },
        f"predict with {backbone}": {OURS: lambda: pipeline.predict(image).labels},
    }


def _backward(module: torch.nn.Module, output: HeadOutput) -> None:
    """Of the sum of all logits of all layers."""
    module.zero_grad()
    layers = (output, *output.auxiliary)
    torch.stack([one.class_logits.float().sum() + one.mask_logits.float().sum() for one in layers]).sum().backward()


def _step(module: Any, optimizer: torch.optim.Optimizer, output: HeadOutput, targets: list[Targets]) -> None:
    module.zero_grad()
    torch.stack(list(module.loss(output, targets).values())).sum().backward()
    optimizer.step()


def _targets(size: tuple[int, int], device: torch.device) -> Targets:
    """Vertical stripes, one class each."""
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
