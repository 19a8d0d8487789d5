"""The whole mask2former head, compared with the reference order of work, Hugging Face's module, and its dense layers.

All get the same features of one image and have random weights; the reference order (`benchmarks.reference_head`) shares
ours. All alternate in one process. "forward" ends with class and mask logits, "labels" with a label for every pixel of
the image. The peer always merges its masks at 384 x 384 pixels, ours and the reference at the size of the image.

    python -m benchmarks head     # float32, and bfloat16 by autocast
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import reference_head
from benchmarks.decoder import THREADS, Sizes, compare, head, peer_config, thread_count
from benchmarks.dense import DenseLayers
from benchmarks.rows import clock, row
from clouds.core.contract.records import Features

OURS, REFERENCE, DENSE = "clouds", "reference order", "dense layers"
_CLASSES = 19


class _Given(nn.Module):
    """Replaces the peer's backbone by given features."""

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, _: Tensor) -> SimpleNamespace:
        return SimpleNamespace(feature_maps=self.maps)


def run(
    sizes: Sizes | None = None,
    *,
    device: str = "cpu",
    dtypes: tuple[str, ...] = ("float32", "bfloat16"),
    repeats: int = 7,
) -> list[dict[str, Any]]:
    """Rows of seconds per provider, of our speedup, and of the share of dense layers."""
    sizes = sizes or Sizes()
    with thread_count(THREADS if device == "cpu" else torch.get_num_threads()):
        return [one for dtype in dtypes for one in _measure(sizes, device, dtype, repeats)]


def _measure(sizes: Sizes, device: str, dtype: str, repeats: int) -> Iterator[dict[str, Any]]:
    runs = providers(sizes, torch.device(device))
    others = [name for name in runs if name != OURS]
    facts = {"shape": list(sizes.image), "queries": sizes.queries, "dtype": dtype}
    number = getattr(torch, dtype)
    with torch.no_grad(), torch.autocast(device, dtype=number, enabled=dtype != "float32"):
        with DenseLayers() as dense:
            runs[OURS][0]()
        timed = {name: _timed(*steps) for name, steps in runs.items()}
        timed[DENSE] = lambda: {"forward": clock(dense.run)}
        times = compare(timed, repeats=repeats)
    for metric, by_provider in times.items():
        yield from (row("head", name, metric, "s", values, **facts) for name, values in by_provider.items())
        mine = by_provider[OURS]
        for other in others:
            faster = [slow / fast for fast, slow in zip(mine, by_provider[other], strict=True)]
            yield row("head", OURS, f"{metric}, times faster", "x", faster, peer=other, **facts)
    pairs = zip(times["forward"][DENSE], times["forward"][OURS], strict=True)
    yield row(
        "head", OURS, "forward, share of dense layers", "%", [100 * dense / all_ for dense, all_ in pairs], **facts
    )


def providers(sizes: Sizes, device: torch.device) -> dict[str, tuple[Callable[[], Any], Callable[[Any], Tensor]]]:
    """Per installed provider, a function for the logits of one image, and a function from these to labels "y x"."""
    mine = head(sizes).to(device)
    maps = {level: one.to(device) for level, one in sizes.features().items()}
    features = Features(**maps)
    found = {
        OURS: (lambda: mine(features), lambda output: mine.segment(output, sizes.image, sizes.image)),
        REFERENCE: (
            lambda: reference_head.forward(mine, features),
            lambda output: reference_head.segment(output, sizes.image),
        ),
    }
    if find_spec("transformers"):
        found[f"transformers {version('transformers')}"] = _peer(sizes, list(maps.values()), device)
    return found


def _peer(sizes: Sizes, maps: list[Tensor], device: torch.device) -> tuple[Callable[[], Any], Callable[[Any], Tensor]]:
    from transformers import Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessor

    config = peer_config(sizes)
    config.num_labels = _CLASSES
    model: Any = Mask2FormerForUniversalSegmentation(config)
    model.eval().to(device)
    model.model.pixel_level_module.encoder = _Given(maps)
    processor: Any = Mask2FormerImageProcessor()
    image = torch.zeros(1, 3, *sizes.image, device=device)
    return (
        lambda: model(pixel_values=image),
        lambda output: processor.post_process_semantic_segmentation(output, target_sizes=[sizes.image])[0],
    )


def _timed(forward: Callable[[], Any], label: Callable[[Any], Tensor]) -> Callable[[], dict[str, float]]:
    def measured() -> dict[str, float]:
        made: list[Any] = []
        logits = clock(lambda: made.append(forward()))
        return {"forward": logits, "labels": logits + clock(lambda: label(made[0]))}

    return measured
