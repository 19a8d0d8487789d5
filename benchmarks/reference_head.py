"""The mask2former head in the published code's order of work, on our weights, as the baseline of our head.

Differences from `clouds.heads`, all as published (Cheng et al., Mask2Former, CVPR 2022; CLOUDS, CVPR 2024):

- deformable attention fills values of padded cells with 0 although none is padded, computes weights and locations as
  separate tensors, and samples level by level with `grid_sample`;
- before the first and after every decoder layer, it predicts classes, and masks at a quarter of the image's size, which
  are resized to the next level;
- the attention mask is boolean and repeated for each head; attention returns its weights, and their mean over heads;
- for labels, all masks are resized to the size of the network's input and merged there at once.

The published code always computes this in float32; here it runs in any dtype.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from clouds.core.contract.records import Features, HeadOutput
from clouds.heads.deformable_encoder import reference_points
from clouds.heads.layers import sine_position
from clouds.kernels.deformable_attention import Shapes, deformable_sampling
from clouds.kernels.semantic_inference import semantic_inference

_ENCODED = ("res5", "res4", "res3")
_LEVELS = 3


def forward(head: Any, features: Features) -> HeadOutput:
    """Same result as `head(features)` in evaluation, with the predictions of all layers; `head` classifies linearly."""
    return _decode(head.predictor, *_pixel_features(head.pixel_decoder, features))


def segment(output: HeadOutput, size: tuple[int, int]) -> Tensor:
    """Labels "y x" of the first image, whose mask logits are a quarter of `size`."""
    classes = output.class_logits[0].float().softmax(-1)[:, :-1]
    return semantic_inference(classes, output.mask_logits[0].float(), size, size, size, backend="reference")


def _pixel_features(decoder: Any, features: Features) -> tuple[Tensor, list[Tensor]]:
    """Mask features "b c h/4 w/4", and the levels that queries attend to."""
    levels = features.levels()
    maps = [project(levels[name]) for project, name in zip(decoder.input_proj, _ENCODED, strict=True)]
    encoded = _encode(decoder.transformer, maps)
    lateral = decoder.adapter_1(features.res2)
    above = functional.interpolate(encoded[-1], size=lateral.shape[-2:], mode="bilinear", align_corners=False)
    return decoder.mask_features(decoder.layer_1(lateral + above)), encoded


def _encode(transformer: Any, maps: list[Tensor]) -> list[Tensor]:
    shapes = [(one.shape[2], one.shape[3]) for one in maps]
    x = torch.cat([one.flatten(2).transpose(1, 2) for one in maps], 1)
    position = torch.cat(
        [_position(one) + embedding for one, embedding in zip(maps, transformer.level_embed, strict=True)]
    )
    points = reference_points(shapes, x.device)
    padding = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
    for layer in transformer.encoder["layers"]:
        x = layer.norm1(x + _deformable(layer.self_attn, x + position, points, x, shapes, padding))
        x = layer.norm2(x + layer.linear2(functional.relu(layer.linear1(x))))
    parts = x.split([height * width for height, width in shapes], 1)
    return [part.transpose(1, 2).unflatten(2, shape) for part, shape in zip(parts, shapes, strict=True)]


def _deformable(
    attention: Any, query: Tensor, points: Tensor, memory: Tensor, shapes: Shapes, padding: Tensor
) -> Tensor:
    heads, levels, count = attention.shape
    value = attention.value_proj(memory).masked_fill(padding[..., None], 0).unflatten(-1, (heads, -1))
    offsets = attention.sampling_offsets(query).unflatten(-1, (heads, levels, count, 2))
    weights = attention.attention_weights(query).unflatten(-1, (heads, levels * count)).softmax(-1)
    sizes = torch.tensor([[width, height] for height, width in shapes], device=query.device)
    locations = points[:, :, None, :, None] + offsets / sizes[:, None]
    weights = weights.unflatten(-1, (levels, count))
    return attention.output_proj(deformable_sampling(value, shapes, locations, weights, backend="reference"))


def _decode(predictor: Any, mask_features: Tensor, levels: list[Tensor]) -> HeadOutput:
    batch, sizes = len(mask_features), [level.shape[-2:] for level in levels]
    positions = [_position(level)[:, None] for level in levels]
    cells = [
        (project(level).flatten(2) + embedding[:, None]).permute(2, 0, 1)
        for project, level, embedding in zip(predictor.input_proj, levels, predictor.level_embed.weight, strict=True)
    ]
    query_position = predictor.query_embed.weight[:, None].repeat(1, batch, 1)
    x = predictor.query_feat.weight[:, None].repeat(1, batch, 1)
    outputs, mask = _predict(predictor, x, mask_features, sizes[0])
    made = [outputs]
    for index in range(predictor.layers):
        level = index % _LEVELS
        mask[torch.where(mask.sum(-1) == mask.shape[-1])] = False
        cross = predictor.transformer_cross_attention_layers[index]
        memory = cells[level]
        attended = _attend(cross.multihead_attn, x + query_position, memory + positions[level], memory, mask)
        x = cross.norm(x + attended)
        own = predictor.transformer_self_attention_layers[index]
        x = own.norm(x + _attend(own.self_attn, x + query_position, x + query_position, x, None))
        x = predictor.transformer_ffn_layers[index](x)
        outputs, mask = _predict(predictor, x, mask_features, sizes[(index + 1) % _LEVELS])
        made.append(outputs)
    return HeadOutput(class_logits=made[-1].class_logits, mask_logits=made[-1].mask_logits, auxiliary=tuple(made[:-1]))


def _predict(predictor: Any, x: Tensor, mask_features: Tensor, size: torch.Size) -> tuple[HeadOutput, Tensor]:
    """Classes and masks of queries "q b c", and the attention mask of the next layer (True: blocked): bool "bm q n"."""
    x = predictor.decoder_norm(x).transpose(0, 1)
    logits = torch.einsum("bqc,bchw->bqhw", predictor.mask_embed(x), mask_features)
    small = functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    heads = predictor.transformer_cross_attention_layers[0].multihead_attn.heads
    mask = small.sigmoid().flatten(2)[:, None].repeat(1, heads, 1, 1).flatten(0, 1) < 0.5
    return HeadOutput(class_logits=predictor.class_embed(x), mask_logits=logits), mask.detach()


def _attend(attention: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """`torch.nn.MultiheadAttention` as the published code calls it: "q b c", with weights."""
    attended, _ = functional.multi_head_attention_forward(
        query,
        key,
        value,
        query.shape[-1],
        attention.heads,
        attention.in_proj_weight,
        attention.in_proj_bias,
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=attention.out_proj.weight,
        out_proj_bias=attention.out_proj.bias,
        training=False,
        need_weights=True,
        attn_mask=mask,
    )
    return attended


def _position(level: Tensor) -> Tensor:
    """Position embedding "n c" of the cells of "b c h w"; c is the width of the decoder."""
    return sine_position(level.shape[2], level.shape[3], level.shape[1], level.device).flatten(1).T
