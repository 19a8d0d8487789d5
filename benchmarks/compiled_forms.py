"""The forms of each operation with different kernels, which `benchmarks.compiled` launches.

Inputs come from `clouds.bench.problems`, with changed dtypes, widths and orders of work. The first form of an operation
is that of a released head in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from attrs import evolve
from torch import Tensor

from clouds.bench.gather import forward as gather_forward
from clouds.bench.problems import PROBLEMS, KernelProblem, Size
from clouds.kernels.deformable_attention import deformable_sampling

# All scores of this output fit into one band, even for 150 classes.
_SMALL = {"network_size": (128, 256), "valid_size": (128, 256), "size": (96, 192)}
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
Change: TypeAlias = Callable[[dict[str, Any]], Mapping[str, Any]]


def _problem(op: str, dtype: str, change: Change) -> KernelProblem:
    """One call of an operation with changed arguments; for attention, at the largest level."""
    problem = PROBLEMS[op](Size(), _DTYPES[dtype], torch.device("cpu"))
    return evolve(problem, parts=[change(dict(problem.parts[-1]))], copied=0)


def _same(part: dict[str, Any]) -> dict[str, Any]:
    return part


def _wide(names: Sequence[str], width: int) -> Change:
    """Change the width of the heads."""

    def change(part: dict[str, Any]) -> dict[str, Any]:
        return part | {
            name: torch.randn(*one.shape[:-1], width, dtype=one.dtype) for name, one in part.items() if name in names
        }

    return change


def _sampling(dtype: str) -> KernelProblem:
    """Deformable attention with given locations and weights."""
    problem = _problem("deformable_attention", dtype, _same)
    (part,) = problem.parts
    locations, logits = part["offsets"].sigmoid(), part["attention_logits"]
    part = {"value": part["value"], "spatial_shapes": part["spatial_shapes"]}
    part |= {"sampling_locations": locations, "attention_weights": logits.flatten(-2).softmax(-1).view_as(logits)}
    differentiable = ("value", "sampling_locations", "attention_weights")
    return evolve(problem, op=deformable_sampling, parts=[part], differentiable=differentiable)


def _changed(**arguments: Any) -> Change:
    """Change arguments; "k" is the number of classes."""

    def change(part: dict[str, Any]) -> dict[str, Any]:
        queries, classes = len(part["mask_logits"]), arguments.get("k", 19)
        probabilities = {"class_probabilities": torch.rand(queries, classes)}
        return part | probabilities | {name: value for name, value in arguments.items() if name != "k"}

    return change


def _half(part: dict[str, Any]) -> dict[str, Any]:
    """Class logits in the autocast dtype; masks are sampled in float32."""
    return part | {"class_logits": part["class_logits"].bfloat16()}


def _one_channel(part: dict[str, Any]) -> dict[str, Tensor]:
    """Masks with separate points each."""
    maps = part["maps"].transpose(0, 1).contiguous()
    return {"maps": maps, "points": part["points"].expand(len(maps), -1, -1).contiguous()}


def _points_of_masks() -> KernelProblem:
    """Targets sampled at points: bool, without a backward pass."""
    problem = _problem("point_sample", "fp32", _one_channel)
    (part,) = problem.parts
    return evolve(problem, parts=[{**part, "maps": part["maps"] > 0}], differentiable=())


def _gather() -> KernelProblem:
    """The gather that measures its ceiling."""
    table = torch.randn(1 << 14, 32, dtype=torch.bfloat16)
    return KernelProblem(op=lambda table, backend: gather_forward(table), parts=[{"table": table}], copied=0)


# Sizes where groups of four pixel rows do not lie between the same cells.
_ANY_SCALE = _changed(network_size=(500, 1000), valid_size=(500, 1000), size=(500, 1000))
_MASKS_FIRST = _changed(size=(360, 640), postprocess="masks_first")
_VALUE, _HEADS = ("value",), ("q", "k", "v")
_CHANGED: dict[str, Change] = {
    "deformable_attention bf16 d32": _same,
    "deformable_attention fp16 d32": _same,
    "deformable_attention fp32 d32": _same,
    "deformable_attention bf16 d16": _wide(_VALUE, 16),
    "deformable_attention bf16 d128": _wide(_VALUE, 128),
    "deformable_attention fp32 d128": _wide(_VALUE, 128),
    "masked_attention bf16 d32": _same,
    "masked_attention fp32 d32": _same,
    "masked_attention bf16 d128": _wide(_HEADS, 128),
    "masked_attention fp32 d128": _wide(_HEADS, 128),
    "mask_pool bf16": _same,
    "mask_pool fp32": _same,
    "matching_cost fp32": _same,
    "matching_cost bf16": _half,
    "point_sample bf16": _same,
    "point_sample fp32": _same,
    "point_sample bf16 one channel": _one_channel,
    "point_sample fp32 one channel": _one_channel,
    "semantic_inference bf16 k19 labels": _same,
    "semantic_inference fp32 k19 labels": _same,
    "semantic_inference bf16 k19 scores": _changed(scores=True),
    "semantic_inference fp32 k19 scores": _changed(scores=True),
    "semantic_inference fp32 k150 labels": _changed(k=150),
    "semantic_inference bf16 k19 softmax": _changed(activation="softmax"),
    "semantic_inference fp32 k19 softmax": _changed(activation="softmax"),
    "semantic_inference bf16 k19 masks first": _MASKS_FIRST,
    "semantic_inference fp32 k19 masks first": _MASKS_FIRST,
    "semantic_inference fp32 k150 masks first": _changed(k=150, size=(360, 640), postprocess="masks_first"),
    "semantic_inference bf16 k19 any scale": _ANY_SCALE,
    "semantic_inference fp32 k19 any scale": _ANY_SCALE,
    "semantic_inference fp32 k19 resized": _changed(size=(360, 640)),
    "semantic_inference fp32 k150 resized": _changed(k=150, **_SMALL),
}
FORMS: Mapping[str, Callable[[], KernelProblem]] = {
    **{name: partial(_problem, *name.split()[:2], change) for name, change in _CHANGED.items()},
    "deformable_attention bf16 d32 sampling": partial(_sampling, "bf16"),
    "deformable_attention fp32 d32 sampling": partial(_sampling, "fp32"),
    "point_sample bool one channel": _points_of_masks,
    "gather bf16 d32": _gather,
}
