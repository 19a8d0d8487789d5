"""SAM's mask decoder (Kirillov et al., "Segment Anything", ICCV 2023, appendix A) for many prompts of one image.

The modules and weights are segment-anything's; only the order of work differs. What the prompts share is computed once
(the first layer's projections of the image), pixels stay the rows of one matrix from the transformer to the masks, and
attention never stores its weights. Answers are those of `MaskDecoder.predict_masks`, up to rounding.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor, nn
from torch.nn import functional


def predict_masks(
    decoder: MaskDecoder,
    image: Float[Tensor, "m c h w"],
    position: Float[Tensor, "1 c h w"],
    prompts: Float[Tensor, "n t c"],
) -> tuple[Float[Tensor, "n k hm wm"], Float[Tensor, "n k"]]:
    """Mask logits and predicted IoU of the decoder's multimask outputs (the first, single one is left out).

    Args:
        decoder: segment-anything's.
        image: embedding plus the prompts' dense part; m is 1 when they share it, else n.
        position: encoding of the embedding's grid.
        prompts: embedded points.
    """
    own = torch.cat((decoder.iou_token.weight, decoder.mask_tokens.weight))
    tokens = torch.cat((own.expand(len(prompts), -1, -1), prompts), dim=1)
    queries, pixels = tokens, image.flatten(2).transpose(1, 2).contiguous()
    grid = position.flatten(2).transpose(1, 2).contiguous()
    transformer = cast("Any", decoder.transformer)  # typed as a plain module
    for layer in transformer.layers:
        queries, pixels = _two_way(layer, queries, pixels, tokens, grid)
    seen = _attend(transformer.final_attn_token_to_image, queries + tokens, pixels + grid, pixels)
    queries = transformer.norm_final_attn(queries + seen)
    quality = decoder.iou_prediction_head(queries[:, 0])
    pairs = zip(decoder.output_hypernetworks_mlps, queries[:, 1:].unbind(1), strict=False)  # points have no masks
    weights = torch.stack([network(token) for network, token in pairs], dim=2)
    masks = _upscale(decoder.output_upscaling, pixels) @ weights[..., 1:]
    return _to_image(masks, image.shape[2:]), quality[:, 1:]


def _two_way(
    layer: TwoWayAttentionBlock, queries: Tensor, pixels: Tensor, tokens: Tensor, grid: Tensor
) -> tuple[Tensor, Tensor]:
    """Tokens attend to themselves and to the image, then the image to the tokens."""
    if layer.skip_first_layer_pe:
        queries = layer.norm1(_attend(layer.self_attn, queries, queries, queries))
    else:
        placed = queries + tokens
        queries = layer.norm1(queries + _attend(layer.self_attn, placed, placed, queries))
    seen = _attend(layer.cross_attn_token_to_image, queries + tokens, pixels + grid, pixels)
    queries = layer.norm2(queries + seen)
    queries = layer.norm3(queries + layer.mlp(queries))
    told = _attend(layer.cross_attn_image_to_token, pixels + grid, queries + tokens, queries)
    return queries, layer.norm4(pixels + told)


def _attend(
    attention: Attention, q: Float[Tensor, "a s c"], k: Float[Tensor, "b t c"], v: Float[Tensor, "b t c"]
) -> Float[Tensor, "n s c"]:
    """Multi-head attention; a batch of one stands for all prompts and is projected once."""
    projected = attention.q_proj(q), attention.k_proj(k), attention.v_proj(v)
    heads = [x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for x in projected]
    prompts = max(len(q), len(k))
    mixed = functional.scaled_dot_product_attention(*(x.expand(prompts, -1, -1, -1) for x in heads))
    return attention.out_proj(mixed.transpose(1, 2).flatten(2))


def _upscale(layers: nn.Sequential, pixels: Float[Tensor, "n p c"]) -> Float[Tensor, "n m d"]:
    """Two transposed convolutions (2 x 2, stride 2), each a product that makes four pixels of one."""
    first, norm, gelu, second, last_gelu = cast("Any", layers)
    pixels = _quadruple(first, pixels)
    pixels = gelu(functional.layer_norm(pixels, pixels.shape[-1:], norm.weight, norm.bias, norm.eps))
    return last_gelu(_quadruple(second, pixels)).flatten(1, 3)


def _quadruple(conv: nn.ConvTranspose2d, pixels: Float[Tensor, "n *p c"]) -> Float[Tensor, "n *p 4 d"]:
    weight, bias = conv.weight.permute(2, 3, 1, 0).flatten(0, 2), cast("Tensor", conv.bias).repeat(4)
    return functional.linear(pixels, weight, bias).unflatten(-1, (4, -1))


def _to_image(masks: Float[Tensor, "n m k"], size: torch.Size) -> Float[Tensor, "n k hm wm"]:
    """Rows are (y, x, then twice the place within 2 x 2): put them where they belong."""
    blocks = masks.unflatten(1, (*size, 2, 2, 2, 2))  # n, y, x, dy, dx, dy', dx', k
    return blocks.permute(0, 7, 1, 3, 5, 2, 4, 6).flatten(5, 7).flatten(2, 4)
