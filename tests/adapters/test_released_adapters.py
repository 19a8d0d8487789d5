"""Released checkpoints of Rein and SoMA: tables of their keys, and what they compute once converted."""

from typing import Any

import pytest
import torch
from adapter_helpers import adapter, backbone
from torch import nn

from clouds.adapters.published import load_released_rein, load_released_soma
from clouds.core.system.errors import WeightsError

CHANNELS, LAYERS, TOKENS, RANK, WIDTH = 64, 6, 7, 3, 5
REIN_KEYS = {
    "backbone.reins.learnable_tokens_a": (LAYERS, TOKENS, RANK),
    "backbone.reins.learnable_tokens_b": (LAYERS, RANK, CHANNELS),
    "backbone.reins.scale": (),
    "backbone.reins.mlp_token2feat.weight": (CHANNELS, CHANNELS),
    "backbone.reins.mlp_token2feat.bias": (CHANNELS,),
    "backbone.reins.mlp_delta_f.weight": (CHANNELS, CHANNELS),
    "backbone.reins.mlp_delta_f.bias": (CHANNELS,),
    "backbone.reins.transform.weight": (WIDTH, CHANNELS),
    "backbone.reins.transform.bias": (WIDTH,),
    "backbone.reins.merge.weight": (WIDTH, 3 * WIDTH),
    "backbone.reins.merge.bias": (WIDTH,),
    "decode_head.querys2feat.weight": (WIDTH, WIDTH),
    "decode_head.querys2feat.bias": (WIDTH,),
}


@torch.no_grad()
def test_a_released_rein_makes_the_queries_that_it_made() -> None:
    trunk = backbone("timm:test_vit")
    assert len(trunk.blocks) == LAYERS
    rein: Any = adapter("rein", trunk, queries=(TOKENS, WIDTH), rank=RANK)
    state = {key: torch.randn(shape) for key, shape in REIN_KEYS.items()}
    load_released_rein(rein, {**state, "decode_head.other": torch.zeros(1)})
    assert torch.equal(rein.stages[str(CHANNELS)].scale, state["backbone.reins.scale"])
    released = {key.rpartition("reins.")[2]: value for key, value in state.items()}
    tokens = released["learnable_tokens_a"] @ released["learnable_tokens_b"]
    each = nn.functional.linear(tokens, released["transform.weight"], released["transform.bias"])
    columns = torch.stack([each.amax(0), each.mean(0), each[-1]], -1).flatten(1)  # channel by channel
    expected = nn.functional.linear(columns, released["merge.weight"], released["merge.bias"])
    torch.testing.assert_close(rein.queries()[1], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_released_soma_has_the_weights_that_it_had() -> None:
    trunk = backbone("timm:test_vit")
    soma: Any = adapter("soma", trunk, rank=RANK, first=2)
    state, wanted = {}, {}
    for index, block in list(enumerate(trunk.blocks))[2:]:
        for one in block.projections:
            part = "mlp" if one.name.startswith("fc") else "attn"
            start, (outputs, inputs) = f"backbone.model.blocks.{index}.{part}.{one.name}.", one.weight.shape
            a, b, bias = torch.randn(RANK, inputs), torch.randn(outputs, RANK), torch.randn(outputs)
            state |= {start + "lora_A.weight": a, start + "lora_B.weight": b, start + "bias": bias}
            update = soma.updates[str(index)][one.name]
            wanted[index, one.name] = one.weight - update.b0 @ update.a0 + b @ a, bias
    load_released_soma(soma, state, trunk.blocks)
    soma.merge(trunk.blocks)
    for (index, name), (weight, bias) in wanted.items():
        (one,) = (one for one in trunk.blocks[index].projections if one.name == name)
        torch.testing.assert_close(one.weight, weight, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(one.bias, bias, rtol=1e-5, atol=1e-5)


def test_a_missing_tensor_is_named() -> None:
    trunk = backbone("timm:test_vit")
    with pytest.raises(WeightsError, match=r"lacks 'backbone\.reins\.learnable_tokens_a'; it is of another method"):
        load_released_rein(adapter("rein", trunk, queries=(TOKENS, WIDTH)), {})  # pyright: ignore
    with pytest.raises(WeightsError, match=r"lacks 'backbone\.model\.blocks\.2\.attn\.q\.lora_A\.weight'"):
        load_released_soma(adapter("soma", trunk, first=2), {}, trunk.blocks)  # pyright: ignore
