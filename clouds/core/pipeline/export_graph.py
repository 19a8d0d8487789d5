"""The graph of an export: a pipeline's forward pass from uint8 images to its output, in a dtype of choice."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (torch has incomplete types)

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Literal, final

import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from clouds.core.contract.records import HeadOutput
from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.pipeline.segmenter import Network, Segmenter, blocks_of

ExportOutput = Literal["labels", "scores", "panoptic-logits"]
ExportDtype = Literal["float32", "float16", "bfloat16"]

_PRODUCTS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
_NORMS = ("layer_norm", "group_norm", "batch_norm", "instance_norm", "rms_norm")


@final
class Graph(nn.Module):
    """A pipeline's forward pass from images of any size to its output.

    In a reduced dtype, products are computed as by `torch.autocast`, and the weights of linear layers and convolutions
    are stored in it. Pixels, norms, sums of masks and scores stay in float32.

    Args:
        pipeline: its modules are shared, or copied where the graph has other weights: in a reduced dtype, and with an
            adapter that can be merged.
        output: what to return.
        dtype: of the products.
    """

    def __init__(self, pipeline: Pipeline, output: ExportOutput, dtype: ExportDtype = "float32") -> None:
        super().__init__()
        self.network = Network(_merged(pipeline.segmenter), pipeline.classifier)
        self.output = output
        self.dtype: torch.dtype = getattr(torch, dtype)
        if self.dtype != torch.float32:
            self.network = copy.deepcopy(self.network)
            for part in self.network.modules():
                if isinstance(part, _PRODUCTS):
                    part.to(self.dtype)

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> tuple[Tensor, ...]:
        # Pad at bottom and right with the mean, which is 0 after subtraction: float "b 3 h w", multiples of the divisor
        backbone = self.network.segmenter.backbone
        size = images.shape[2], images.shape[3]
        height, width = ((side + backbone.size_divisor - 1) // backbone.size_divisor for side in size)
        below, right = height * backbone.size_divisor - size[0], width * backbone.size_divisor - size[1]
        padded = functional.pad(images.float() - backbone.mean, (0, right, 0, below)) + backbone.mean
        # Class logits "b q k+1" and mask logits "b q h/4 w/4", float32
        reduced = self.dtype != torch.float32
        with torch.autocast("cpu", dtype=self.dtype, enabled=reduced), _Casts(self.dtype) if reduced else nullcontext():
            class_logits, mask_logits = (one.float() for one in self.network(padded))
        if self.output == "panoptic-logits":
            return class_logits, mask_logits
        # Labels "b h w" or scores "b k h w"
        found = HeadOutput(class_logits=class_logits, mask_logits=mask_logits)
        head = self.network.segmenter.head
        return (head.segment_all(found, size, size, scores=self.output == "scores"),)


@final
class _Casts(TorchFunctionMode):
    """Casts that autocast leaves out on a CPU or in a graph, whose operators take one dtype.

    Norms take float32. The factors of `einsum` take the reduced dtype: autocast casts them below the operator that a
    graph records.

    Args:
        dtype: of products.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _NORMS or name == "einsum":
            dtype = self.dtype if name == "einsum" else torch.float32
            args, kwargs = tree_map_only(Tensor, lambda one: _cast(one, dtype), (args, dict(kwargs or {})))
        return func(*args, **(kwargs or {}))


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _merged(segmenter: Segmenter) -> Segmenter:
    """The segmenter, or a copy whose adapter is merged, where it can be."""
    if segmenter.adapter is None or not segmenter.adapter.mergeable:
        return segmenter
    own = copy.deepcopy(segmenter)
    blocks = blocks_of(own.backbone)
    assert own.adapter is not None
    own.adapter.merge(blocks)
    own.adapter.detach(blocks)
    return Segmenter(own.backbone, own.head)
