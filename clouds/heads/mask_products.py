"""Masks of all layers as products of their embeddings with the mask features.

mask_logits[layer][b, q, h, w] = sum over c of embeddings[layer][b, q, c] x features[b, c, h, w]

A loss compares matched masks alone, so most rows of the gradient are 0: of 100 queries some ten are matched. On a CPU
the backward pass leaves these rows out and makes one product of all layers' other rows, which is most of its time. On
CUDA to look for them would wait for the device, and a graph has fixed shapes: there all rows are multiplied.

Axis letters: b images, q queries, c channels, h and w cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def mask_products(
    features: Float[Tensor, "b c h w"], embeddings: Sequence[Float[Tensor, "b q c"]]
) -> Sequence[Float[Tensor, "b q h w"]]:
    """The mask logits of each layer."""
    if features.device.type != "cpu" or torch.compiler.is_compiling():
        return [_product(features, one) for one in embeddings]
    return _Products.apply(features, *embeddings)


def _product(features: Tensor, embedding: Tensor) -> Tensor:
    return torch.einsum("bqc,bchw->bqhw", embedding, features)


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(features: Tensor, *embeddings: Tensor) -> tuple[Tensor, ...]:
        return tuple(_product(features, one) for one in embeddings)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        features, *embeddings = ctx.saved_tensors
        of_features = torch.empty_like(features)
        of_embeddings = [torch.zeros_like(one) for one in embeddings]
        for image, maps in enumerate(features):
            # Rows "n hw" of all layers that have a gradient, and their embeddings "n c".
            queries = [_with_gradient(one[image]) for one in gradients]
            kept = torch.cat([one[image, rows].flatten(1) for one, rows in zip(gradients, queries, strict=True)])
            embedded = torch.cat([one[image, rows] for one, rows in zip(embeddings, queries, strict=True)])
            # What autograd computes, in the type of the products.
            of_features[image] = (embedded.to(kept.dtype).mT @ kept).view(maps.shape)
            of_rows = (kept @ maps.to(kept.dtype).flatten(1).mT).split([len(rows) for rows in queries])
            for layer, rows, found in zip(of_embeddings, queries, of_rows, strict=True):
                layer[image, rows] = found.to(layer.dtype)
        return of_features, *of_embeddings


def _with_gradient(gradient: Tensor) -> Tensor:
    """Queries of "q h w" whose gradient is not all 0."""
    return gradient.abs().flatten(1).amax(1).nonzero()[:, 0]
