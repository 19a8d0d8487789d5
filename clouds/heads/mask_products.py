"""Mask logits of all layers as products of mask embeddings and mask features.

mask_logits[layer][b, q, h, w] = sum over c of embeddings[layer][b, q, c] x features[b, c, h, w]

The mask losses see matched queries only (about 10 of 100), so most gradient rows are 0. On CPU the backward pass skips
these rows and multiplies the rest of all layers at once, which saves most of its time. On CUDA all rows are multiplied:
finding the zero rows would synchronise, and a CUDA graph needs fixed shapes.

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
    """Mask logits of each layer."""
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
            # Nonzero gradient rows of all layers "n hw", and their embeddings "n c"
            queries = [_with_gradient(one[image]) for one in gradients]
            kept = torch.cat([one[image, rows].flatten(1) for one, rows in zip(gradients, queries, strict=True)])
            embedded = torch.cat([one[image, rows] for one, rows in zip(embeddings, queries, strict=True)])
            # Gradients of features "c h w" and of embeddings "n c", in the products' dtype like autograd
            of_features[image] = (embedded.to(kept.dtype).mT @ kept).view(maps.shape)
            of_rows = (kept @ maps.to(kept.dtype).flatten(1).mT).split([len(rows) for rows in queries])
            for layer, rows, found in zip(of_embeddings, queries, of_rows, strict=True):
                layer[image, rows] = found.to(layer.dtype)
        return of_features, *of_embeddings


def _with_gradient(gradient: Tensor) -> Tensor:
    """Indices of the queries of "q h w" with a nonzero gradient."""
    return gradient.abs().flatten(1).amax(1).nonzero()[:, 0]
