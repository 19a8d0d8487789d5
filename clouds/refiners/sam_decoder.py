"""SAM's mask decoder (Kirillov et al., "Segment Anything", ICCV 2023, appendix A) for many prompts of one image.

It uses the modules and weights of segment-anything and equals `MaskDecoder.predict_masks` up to rounding. Only the
order of computation differs:

- Tokens are few and pixels many. Since q.(W x) = (q W).x, tokens are multiplied with the pixels' projections, and no
  projected image is computed per prompt.
- In the first layer all prompts share the image, so its projections are computed once.
- From then on, a CPU processes prompts one by one, so that their pixels stay in its cache.
- Pixels remain the rows of one matrix from the transformer to the masks.
- The single mask, which is not returned, is not computed.

Axis letters: n prompts, m images (1 or n), t tokens, p pixels, c channels, a heads, d channels per head, k masks.
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
    """Mask logits (at 4 times the embedding's resolution) and predicted IoU of the multimask outputs.

    Args:
        decoder: segment-anything's mask decoder.
        image: image embedding plus dense prompt embedding; m is 1 if all prompts share it, else n.
        position: position encoding of the embedding's grid.
        prompts: embedded points.
    """
    # Concatenate output tokens and prompt tokens: "n t c"
    own = torch.cat((decoder.iou_token.weight, decoder.mask_tokens.weight))
    tokens = torch.cat((own.expand(len(prompts), -1, -1), prompts), dim=1)
    # Pixels of the image "m p c" and their positions "1 p c"
    pixels = image.flatten(2).transpose(1, 2).contiguous()
    grid = position.flatten(2).transpose(1, 2).contiguous()
    # Token half of the first layer for all prompts: queries "n t c", scores of pixels to tokens "n a t p"
    first = cast("Any", decoder.transformer).layers[0]
    queries, scores = _update_tokens(first, tokens, pixels, tokens, grid)
    # The rest of the decoder, prompt by prompt on a CPU
    together = 1 if pixels.device.type == "cpu" else len(tokens)
    split = (each.split(together) for each in (queries, scores, pixels.expand(len(tokens), -1, -1), tokens))
    predictions = [_decode(decoder, *part, grid=grid) for part in zip(*split, strict=True)]
    # Masks "n k 16p" to maps "n k 4h 4w"
    masks, quality = (torch.cat(found) for found in zip(*predictions, strict=True))
    return _to_image(masks, image.shape[2:]), quality


def _decode(
    decoder: MaskDecoder, queries: Tensor, scores: Tensor, pixels: Tensor, tokens: Tensor, *, grid: Tensor
) -> tuple[Float[Tensor, "n k m"], Float[Tensor, "n k"]]:
    """Mask logits per pixel and predicted IoU, from `queries` and `scores` of the first layer."""
    # Pixel half of the first layer: "n p c"
    transformer = cast("Any", decoder.transformer)
    first, *later = transformer.layers
    pixels = _update_pixels(first, scores, queries, pixels)
    # Later layers: tokens "n t c", then pixels "n p c"
    for layer in later:
        queries, scores = _update_tokens(layer, queries, pixels, tokens, grid)
        pixels = _update_pixels(layer, scores, queries, pixels)
    # Final attention of the IoU token and the k mask tokens to the image: "n 1+k c"
    asked = [0, *range(2, decoder.num_mask_tokens + 1)]  # neither the single mask nor the points
    queries, tokens = queries[:, asked], tokens[:, asked]
    seen = _attend_to_pixels(transformer.final_attn_token_to_image, queries + tokens, pixels + grid, pixels)
    queries = transformer.norm_final_attn(queries + seen)
    # Predicted IoU "n 1+k", including the single mask
    quality = decoder.iou_prediction_head(queries[:, 0])
    # Mask weights "n k d" from the mask tokens, times upscaled pixels "n 16p d"
    pairs = zip(decoder.output_hypernetworks_mlps[1:], queries[:, 1:].unbind(1), strict=True)
    weights = torch.stack([network(token) for network, token in pairs], dim=1)
    return weights @ _upscale(decoder.output_upscaling, pixels).transpose(1, 2), quality[:, 1:]


def _update_tokens(
    layer: TwoWayAttentionBlock, queries: Tensor, pixels: Tensor, tokens: Tensor, grid: Tensor
) -> tuple[Float[Tensor, "n t c"], Float[Tensor, "n a t p"]]:
    """Token half of a layer: updated tokens, and scores of the pixels' attention to them."""
    # Self-attention of the tokens "n t c"
    if layer.skip_first_layer_pe:
        queries = layer.norm1(layer.self_attn(queries, queries, queries))
    else:
        placed = queries + tokens
        queries = layer.norm1(queries + layer.self_attn(placed, placed, queries))
    # Attention of tokens to pixels, then MLP "n t c"
    placed = pixels + grid
    seen = _attend_to_pixels(layer.cross_attn_token_to_image, queries + tokens, placed, pixels)
    queries = layer.norm2(queries + seen)
    queries = layer.norm3(queries + layer.mlp(queries))
    # Scores of pixels to tokens "n a t p"; the bias of the pixels' projection is added as a constant "n a t 1"
    back = layer.cross_attn_image_to_token
    keys = _heads(back.k_proj(queries + tokens), back)
    constant = keys @ back.q_proj.bias.view(back.num_heads, -1, 1) * keys.shape[-1] ** -0.5
    return queries, _scores(keys, back.q_proj, placed) + constant


def _attend_to_pixels(
    attention: Attention,
    queries: Float[Tensor, "n t c"],
    placed: Float[Tensor, "m p c"],
    pixels: Float[Tensor, "m p c"],
) -> Float[Tensor, "n t c"]:
    """Attention of tokens to pixels. The bias of the keys is equal for all pixels, so softmax cancels it."""
    # Attention weights "n a t p"
    tokens = _heads(attention.q_proj(queries), attention)
    weights = _scores(tokens, attention.k_proj, placed).softmax(-1)
    n, heads, count, _ = weights.shape
    if len(pixels) < len(tokens):
        # Shared image: project its values "a p d", then average: "n t c"
        values = _heads(attention.v_proj(pixels), attention)[0]
        mixed = (weights.transpose(0, 1).flatten(1, 2) @ values).unflatten(1, (n, count)).permute(1, 2, 0, 3).flatten(2)
    else:
        # One image per prompt: average the pixels "n a t c", then project
        seen = torch.bmm(weights.flatten(1, 2), pixels).unflatten(1, (heads, count))
        mixed = (seen @ _by_head(attention.v_proj, heads).transpose(1, 2)).transpose(1, 2).flatten(2)
        mixed = mixed + attention.v_proj.bias  # weights sum to 1
    return attention.out_proj(mixed)


def _update_pixels(
    layer: TwoWayAttentionBlock,
    scores: Float[Tensor, "n a t p"],
    queries: Float[Tensor, "n t c"],
    pixels: Float[Tensor, "n p c"],
) -> Float[Tensor, "n p c"]:
    """Pixel half of a layer: attention of pixels to tokens, residual and norm."""
    # Attention weights "n at p"
    attention = layer.cross_attn_image_to_token
    heads = attention.num_heads
    weights = scores.softmax(2).flatten(1, 2)
    # Projected values of the tokens per head: messages "n at c"
    out = attention.out_proj.weight.unflatten(1, (heads, -1)).permute(1, 2, 0)
    values = _heads(attention.v_proj(queries), attention)
    messages = (values @ out + attention.out_proj.bias / heads).flatten(1, 2)  # weights sum to 1 in each head
    # Sum of the messages plus residual "n p c"
    return layer.norm4(torch.baddbmm(pixels, weights.transpose(1, 2), messages))


def _scores(
    tokens: Float[Tensor, "n a t d"], projection: nn.Linear, pixels: Float[Tensor, "m p c"]
) -> Float[Tensor, "n a t p"]:
    """Scaled products of tokens, projected and split into heads, with pixels, projected without bias."""
    n, heads, count, width = tokens.shape
    tokens = tokens * width**-0.5
    if len(pixels) < len(tokens):
        # Shared image: project its pixels once "a d p"
        projected = functional.linear(pixels[0], projection.weight).unflatten(-1, (heads, width)).permute(1, 2, 0)
        return (tokens.transpose(0, 1).flatten(1, 2) @ projected).unflatten(1, (n, count)).transpose(0, 1)
    # One image per prompt: multiply the tokens with the projection "n at c"
    carried = (tokens @ _by_head(projection, heads)).flatten(1, 2)
    return torch.bmm(carried, pixels.transpose(1, 2)).unflatten(1, (heads, count))


def _heads(x: Float[Tensor, "b s c"], attention: Attention) -> Float[Tensor, "b a s d"]:
    return x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)


def _by_head(linear: nn.Linear, heads: int) -> Float[Tensor, "a d c"]:
    return linear.weight.unflatten(0, (heads, -1))


def _upscale(layers: nn.Sequential, pixels: Float[Tensor, "n p c"]) -> Float[Tensor, "n m d"]:
    """Two transposed convolutions (2 x 2, stride 2), each a matrix product that turns one pixel into four."""
    # "n p c" to "n p 4 c/4", norm and GELU, then to "n p 4 4 d"
    first, norm, gelu, second, last_gelu = cast("Any", layers)
    pixels = _quadruple(first, pixels)
    pixels = gelu(functional.layer_norm(pixels, pixels.shape[-1:], norm.weight, norm.bias, norm.eps))
    return last_gelu(_quadruple(second, pixels)).flatten(1, 3)


def _quadruple(conv: nn.ConvTranspose2d, pixels: Float[Tensor, "n *p c"]) -> Float[Tensor, "n *p 4 d"]:
    weight, bias = conv.weight.permute(2, 3, 1, 0).flatten(0, 2), cast("Tensor", conv.bias).repeat(4)
    return functional.linear(pixels, weight, bias).unflatten(-1, (4, -1))


def _to_image(masks: Float[Tensor, "n k m"], size: torch.Size) -> Float[Tensor, "n k hm wm"]:
    """Reorder pixels from (y, x, first 2 x 2 block, second 2 x 2 block) to rows and columns."""
    blocks = masks.unflatten(2, (*size, 2, 2, 2, 2))  # n, k, y, x, dy, dx, dy', dx'
    return blocks.permute(0, 1, 2, 4, 6, 3, 5, 7).flatten(5, 7).flatten(2, 4)
