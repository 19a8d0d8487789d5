"""Benchmark inputs of each operation: random tensors at the released sizes, and the minimum work of any implementation.

Released sizes: width 256 in 8 heads, 3 levels at strides 32, 16 and 8 with 4 points, masks at stride 4, 100 queries, 19
classes. Training compares 10 predictions at 12,544 points.

The minimum work of a forward pass counts bytes (each input read once, each output written once), bytes of gathered rows
(whose position is known only at run time), and floating-point operations of products. For backward passes it is not
defined, because it depends on what the forward pass stores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from attrs import Factory, field, frozen
from torch import Tensor

from clouds.kernels.deformable_attention import deformable_attention
from clouds.kernels.mask_pool import mask_pool
from clouds.kernels.masked_attention import masked_attention
from clouds.kernels.matching_cost import matching_cost
from clouds.kernels.point_sample import point_sample
from clouds.kernels.semantic_inference import semantic_inference

_WIDTH, _HEADS, _POINTS = 256, 8, 4
_STRIDES, _MASK_STRIDE = (32, 16, 8), 4
_PREDICTIONS, _COMPARED, _TARGETS = 10, 12544, 10
_CELLS = 2.0  # standard deviation of offsets in cells, about that of trained models


@frozen(kw_only=True)
class Size:
    """Size of a problem: (height, width) of the images in multiples of 32, numbers of images, queries and classes.

    Labels are `enlarged` times as high and wide as the images.
    """

    image: tuple[int, int] = (512, 1024)
    batch: int = 1
    queries: int = 100
    classes: int = 19
    enlarged: int = 1

    def cells(self, stride: int) -> tuple[int, int]:
        """(height, width) of a map with this stride."""
        return self.image[0] // stride, self.image[1] // stride


@frozen(kw_only=True, eq=False)
class KernelProblem:
    """One operation on given inputs.

    Attributes:
        op: the public function.
        parts: arguments of its calls, in order.
        differentiable: names of the arguments that get gradients; empty without a backward pass.
        backends: additional backends of `op`.
        copied: minimum bytes read and written.
        gathered: minimum bytes of gathered rows.
        multiplied: floating-point operations of products.
    """

    op: Callable[..., Tensor]
    parts: Sequence[Mapping[str, Any]]
    differentiable: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    copied: int = field(default=Factory(lambda problem: problem.inputs_and_outputs(), takes_self=True))
    gathered: int = 0
    multiplied: int = 0

    def inputs_and_outputs(self) -> int:
        """Bytes of all input and output tensors."""
        with torch.no_grad():
            outputs = self.run("auto")
        inputs = [value for part in self.parts for value in part.values() if isinstance(value, Tensor)]
        return sum(one.numel() * one.element_size() for one in (*inputs, *outputs))

    def run(self, backend: str) -> list[Tensor]:
        """Run all calls and return their outputs."""
        return [self.op(**part, backend=backend) for part in self.parts]

    def leaves(self) -> list[Tensor]:
        """Tensors that get gradients."""
        return [part[name] for part in self.parts for name in self.differentiable]


def _deformable_attention(size: Size, dtype: torch.dtype, device: torch.device) -> KernelProblem:
    """One layer of the encoder."""
    shapes = [size.cells(stride) for stride in _STRIDES]
    cells, levels, width = sum(height * across for height, across in shapes), len(shapes), _WIDTH // _HEADS
    samples = (size.batch, cells, _HEADS, levels, _POINTS)
    centers = torch.cat([_centers(*shape) for shape in shapes]).to(device)
    part = {
        "value": torch.randn(size.batch, cells, _HEADS, width, dtype=dtype, device=device),
        "spatial_shapes": shapes,
        "reference_points": centers[None, :, None].expand(-1, -1, levels, -1),
        "offsets": (_CELLS * torch.randn(*samples, 2, device=device)).to(dtype),
        "attention_logits": torch.randn(samples, dtype=dtype, device=device),
    }
    rows = 4 * part["attention_logits"].numel()
    return KernelProblem(
        op=deformable_attention,
        parts=[part],
        differentiable=("value", "offsets", "attention_logits"),
        gathered=rows * width * part["value"].element_size(),
    )


def _centers(height: int, width: int) -> Tensor:
    """(x, y) in 0..1 of the cells' centres."""
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    return torch.stack((x, y), -1).flatten(0, 1)


def _masked_attention(size: Size, dtype: torch.dtype, device: torch.device) -> KernelProblem:
    """One layer of the decoder on each of the three levels."""

    def number(*shape: int) -> Tensor:
        return torch.randn(size.batch, *shape, dtype=dtype, device=device)

    width, parts, multiplied = _WIDTH // _HEADS, [], 0
    for stride in _STRIDES:
        height, across = size.cells(stride)
        keys = height * across
        part = {"q": number(size.queries, _HEADS, width), "k": number(keys, _HEADS, width)}
        part["v"] = torch.randn_like(part["k"])
        part = {name: one.transpose(1, 2) for name, one in part.items()}  # heads are contiguous, as in the layers
        parts.append(part | {"mask_embed": number(size.queries, _WIDTH), "mask_features": number(_WIDTH, keys)})
        multiplied += 2 * 3 * size.batch * size.queries * keys * _WIDTH  # q with k, weights with v, and the mask
    return KernelProblem(
        op=masked_attention,
        parts=parts,
        differentiable=("q", "k", "v"),
        backends=("xformers",) if device.type == "cuda" else (),
        multiplied=multiplied,
    )


def _mask_pool(size: Size, dtype: torch.dtype, device: torch.device) -> KernelProblem:
    """Mask features under the masks of all queries."""
    cells = size.cells(_MASK_STRIDE)
    part = {
        "features": torch.randn(size.batch, _WIDTH, *cells, dtype=dtype, device=device),
        "mask_logits": torch.randn(size.batch, size.queries, *cells, dtype=dtype, device=device),
    }
    multiplied = 2 * part["mask_logits"].numel() * _WIDTH
    return KernelProblem(op=mask_pool, parts=[part], differentiable=("features",), multiplied=multiplied)


def _semantic_inference(size: Size, dtype: torch.dtype, device: torch.device) -> KernelProblem:
    """Labels, one image after the other."""
    height, width = size.image
    parts = [
        {
            "class_probabilities": torch.randn(size.queries, size.classes + 1, device=device).softmax(-1)[:, :-1],
            "mask_logits": torch.randn(size.queries, *size.cells(_MASK_STRIDE), dtype=dtype, device=device),
            "network_size": size.image,
            "valid_size": size.image,
            "size": (size.enlarged * height, size.enlarged * width),
        }
        for _ in range(size.batch)
    ]
    multiplied = 2 * size.batch * size.queries * size.classes * height * width
    return KernelProblem(op=semantic_inference, parts=parts, multiplied=multiplied)


def _point_sample(size: Size, dtype: torch.dtype, device: torch.device) -> KernelProblem:
    """Masks of all queries at the points of one prediction."""
    part = {
        "maps": torch.randn(size.batch, size.queries, *size.cells(_MASK_STRIDE), dtype=dtype, device=device),
        "points": torch.rand(size.batch, _COMPARED, 2, device=device),
    }
    values = size.batch * size.queries * _COMPARED
    maps = part["maps"]
    read = min(maps.numel(), 4 * values) * maps.element_size()  # large images have more cells than sampled corners
    return KernelProblem(
        op=point_sample,
        parts=[part],
        differentiable=("maps",),
        copied=read + 4 * (part["points"].numel() + values),
    )


def _matching_cost(size: Size, dtype: torch.dtype, device: torch.device) -> KernelProblem:
    """Ten targets per image, for all predictions."""
    layers, targets = _PREDICTIONS, _TARGETS * size.batch
    part = {
        "class_logits": torch.randn(layers, size.batch, size.queries, size.classes + 1, device=device),
        "mask_values": torch.randn(layers, size.batch, size.queries, _COMPARED, device=device),
        "labels": torch.randint(size.classes, (targets,), device=device),
        "target_values": torch.rand(layers, targets, _COMPARED, device=device),
        "valid": torch.ones(layers, size.batch, _COMPARED, device=device),
        "counts": [_TARGETS] * size.batch,
        "weights": (2.0, 5.0, 5.0),
    }
    multiplied = 2 * 3 * layers * targets * size.queries * _COMPARED
    return KernelProblem(op=matching_cost, parts=[part], multiplied=multiplied)


PROBLEMS: Mapping[str, Callable[[Size, torch.dtype, torch.device], KernelProblem]] = {
    "deformable_attention": _deformable_attention,
    "masked_attention": _masked_attention,
    "mask_pool": _mask_pool,
    "matching_cost": _matching_cost,
    "point_sample": _point_sample,
    "semantic_inference": _semantic_inference,
}
