"""SAM's mask decoder (Kirillov et al., "Segment Anything", ICCV 2023, appendix A) for many prompts of one image.

The modules and weights are segment-anything's; only the order of work differs. Answers are those of
`MaskDecoder.predict_masks`, up to rounding.

- Tokens are few and pixels many: q.(W x) = (q W).x, so that the projections of pixels in attention are carried by the
  tokens instead, and no projected image is made for each prompt.
- In the first layer all prompts see the same image, which is projected once.
- From there on, on a CPU, prompt by prompt: the pixels of one fit into the cache.
- Pixels stay the rows of one matrix from the transformer to the masks.
- Nothing is computed for the single mask, which is no part of the answer.
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
    """Mask logits (4 times as fine as the image) and predicted IoU of the multimask outputs, without the single one.

    Args:
        decoder: segment-anything's.
        image: embedding plus the prompts' dense part; m is 1 when they share it, else n.
        position: encoding of the embedding's grid.
        prompts: embedded points.
    """
    own = torch.cat((decoder.iou_token.weight, decoder.mask_tokens.weight))
    tokens = torch.cat((own.expand(len(prompts), -1, -1), prompts), dim=1)
    pixels = image.flatten(2).transpose(1, 2).contiguous()
    grid = position.flatten(2).transpose(1, 2).contiguous()
    first = cast("Any", decoder.transformer).layers[0]
    queries, scores = _attend(first, tokens, pixels, tokens, grid)
    together = 1 if pixels.device.type == "cpu" else len(tokens)
    split = (each.split(together) for each in (queries, scores, pixels.expand(len(tokens), -1, -1), tokens))
    answers = [_answer(decoder, *part, grid=grid) for part in zip(*split, strict=True)]
    masks, quality = (torch.cat(found) for found in zip(*answers, strict=True))
    return _to_image(masks, image.shape[2:]), quality


def _answer(
    decoder: MaskDecoder, queries: Tensor, scores: Tensor, pixels: Tensor, tokens: Tensor, *, grid: Tensor
) -> tuple[Float[Tensor, "n k m"], Float[Tensor, "n k"]]:
    """Mask logits, pixel by pixel, and predicted IoU; `queries` and `scores` are those of the first layer."""
    transformer = cast("Any", decoder.transformer)
    first, *later = transformer.layers
    pixels = _tell(first, scores, queries, pixels)
    for layer in later:
        queries, scores = _attend(layer, queries, pixels, tokens, grid)
        pixels = _tell(layer, scores, queries, pixels)
    asked = [0, *range(2, decoder.num_mask_tokens + 1)]  # neither the single mask nor the points
    queries, tokens = queries[:, asked], tokens[:, asked]
    seen = _look(transformer.final_attn_token_to_image, queries + tokens, pixels + grid, pixels)
    queries = transformer.norm_final_attn(queries + seen)
    quality = decoder.iou_prediction_head(queries[:, 0])
    pairs = zip(decoder.output_hypernetworks_mlps[1:], queries[:, 1:].unbind(1), strict=True)
    weights = torch.stack([network(token) for network, token in pairs], dim=1)
    return weights @ _upscale(decoder.output_upscaling, pixels).transpose(1, 2), quality[:, 1:]


def _attend(
    layer: TwoWayAttentionBlock, queries: Tensor, pixels: Tensor, tokens: Tensor, grid: Tensor
) -> tuple[Float[Tensor, "n t c"], Float[Tensor, "n a t p"]]:
    """Tokens after they have seen themselves and the image; scores of the image's attention to them."""
    if layer.skip_first_layer_pe:
        queries = layer.norm1(layer.self_attn(queries, queries, queries))
    else:
        placed = queries + tokens
        queries = layer.norm1(queries + layer.self_attn(placed, placed, queries))
    placed = pixels + grid
    queries = layer.norm2(queries + _look(layer.cross_attn_token_to_image, queries + tokens, placed, pixels))
    queries = layer.norm3(queries + layer.mlp(queries))
    back = layer.cross_attn_image_to_token
    keys = _heads(back.k_proj(queries + tokens), back)
    constant = keys @ back.q_proj.bias.view(back.num_heads, -1, 1) * keys.shape[-1] ** -0.5
    return queries, _scores(keys, back.q_proj, placed) + constant


def _look(
    attention: Attention,
    queries: Float[Tensor, "n t c"],
    placed: Float[Tensor, "m p c"],
    pixels: Float[Tensor, "m p c"],
) -> Float[Tensor, "n t c"]:
    """Attention of tokens to pixels. The bias of the keys is the same for all pixels and falls out of the softmax."""
    tokens = _heads(attention.q_proj(queries), attention)
    weights = _scores(tokens, attention.k_proj, placed).softmax(-1)
    n, heads, count, _ = weights.shape
    if len(pixels) < len(tokens):
        values = _heads(attention.v_proj(pixels), attention)[0]
        mixed = (weights.transpose(0, 1).flatten(1, 2) @ values).unflatten(1, (n, count)).permute(1, 2, 0, 3).flatten(2)
    else:
        seen = torch.bmm(weights.flatten(1, 2), pixels).unflatten(1, (heads, count))
        mixed = (seen @ _by_head(attention.v_proj, heads).transpose(1, 2)).transpose(1, 2).flatten(2)
        mixed = mixed + attention.v_proj.bias  # weights sum to 1
    return attention.out_proj(mixed)


def _tell(
    layer: TwoWayAttentionBlock,
    scores: Float[Tensor, "n a t p"],
    queries: Float[Tensor, "n t c"],
    pixels: Float[Tensor, "n p c"],
) -> Float[Tensor, "n p c"]:
    """Pixels after they have seen the tokens."""
    attention = layer.cross_attn_image_to_token
    heads = attention.num_heads
    weights = scores.softmax(2).flatten(1, 2)
    out = attention.out_proj.weight.unflatten(1, (heads, -1)).permute(1, 2, 0)
    values = _heads(attention.v_proj(queries), attention)
    messages = (values @ out + attention.out_proj.bias / heads).flatten(1, 2)  # weights sum to 1 in each head
    return layer.norm4(torch.baddbmm(pixels, weights.transpose(1, 2), messages))


def _scores(
    tokens: Float[Tensor, "n a t d"], projection: nn.Linear, pixels: Float[Tensor, "m p c"]
) -> Float[Tensor, "n a t p"]:
    """Scaled products of tokens, projected and split into heads, with pixels, projected without the bias."""
    n, heads, count, width = tokens.shape
    tokens = tokens * width**-0.5
    if len(pixels) < len(tokens):
        projected = functional.linear(pixels[0], projection.weight).unflatten(-1, (heads, width)).permute(1, 2, 0)
        return (tokens.transpose(0, 1).flatten(1, 2) @ projected).unflatten(1, (n, count)).transpose(0, 1)
    carried = (tokens @ _by_head(projection, heads)).flatten(1, 2)
    return torch.bmm(carried, pixels.transpose(1, 2)).unflatten(1, (heads, count))


def _heads(x: Float[Tensor, "b s c"], attention: Attention) -> Float[Tensor, "b a s d"]:
    return x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)


def _by_head(linear: nn.Linear, heads: int) -> Float[Tensor, "a d c"]:
    return linear.weight.unflatten(0, (heads, -1))


def _upscale(layers: nn.Sequential, pixels: Float[Tensor, "n p c"]) -> Float[Tensor, "n m d"]:
    """Two transposed convolutions (2 x 2, stride 2), each a product that makes four pixels of one."""
    first, norm, gelu, second, last_gelu = cast("Any", layers)
    pixels = _quadruple(first, pixels)
    pixels = gelu(functional.layer_norm(pixels, pixels.shape[-1:], norm.weight, norm.bias, norm.eps))
    return last_gelu(_quadruple(second, pixels)).flatten(1, 3)


def _quadruple(conv: nn.ConvTranspose2d, pixels: Float[Tensor, "n *p c"]) -> Float[Tensor, "n *p 4 d"]:
    weight, bias = conv.weight.permute(2, 3, 1, 0).flatten(0, 2), cast("Tensor", conv.bias).repeat(4)
    return functional.linear(pixels, weight, bias).unflatten(-1, (4, -1))


def _to_image(masks: Float[Tensor, "n k m"], size: torch.Size) -> Float[Tensor, "n k hm wm"]:
    """Pixels are in order of (y, x, then twice the place within 2 x 2): put them where they belong."""
    blocks = masks.unflatten(2, (*size, 2, 2, 2, 2))  # n, k, y, x, dy, dx, dy', dx'
    return blocks.permute(0, 1, 2, 4, 6, 3, 5, 7).flatten(5, 7).flatten(2, 4)
