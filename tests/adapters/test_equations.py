"""Rein, LoRA and SoMA against plain references of their papers' equations."""

import math
from typing import Any

import pytest
import torch
from adapter_helpers import adapter, backbone
from torch import Tensor

from clouds.adapters.low_rank import split_minor
from clouds.adapters.rein import Rein
from clouds.core.contract.adaptation import Block
from clouds.core.system.errors import ConfigError


def reference_delta(f: Tensor, rein: Any, layer: int) -> Tensor:
    """Equations 4 to 6 of Wei et al., one pixel after the other, with T = A B (equation 11)."""
    stage = rein.stages[str(f.shape[-1])]
    tokens = torch.einsum("mr,rc->mc", stage.tokens_a[layer], stage.tokens_b[layer])
    values = torch.stack([stage.value.weight @ token + stage.value.bias for token in tokens])
    rows = []
    for pixel in f:
        scores = torch.stack([pixel @ token for token in tokens]) / math.sqrt(f.shape[-1])
        weights = scores.exp() / scores.exp().sum()
        chosen = sum(weights[j] * values[j] for j in range(1, len(tokens)))
        rows.append(stage.delta.weight @ (chosen + pixel) + stage.delta.bias)
    return stage.scale * torch.stack(rows)


def reference_queries(rein: Any, channels: int) -> Tensor:
    """Equations 7 to 10: maximum, mean and last of the layers' queries, joined, then a linear map."""
    stage, link = rein.stages[str(channels)], rein.links[str(channels)]
    each = [link.query(a @ b) for a, b in zip(stage.tokens_a, stage.tokens_b, strict=True)]
    joined = torch.cat([torch.stack(each).max(0).values, sum(each) / len(each), each[-1]], 1)
    return link.merge(joined)


@torch.no_grad()
def test_reins_forward_is_that_of_the_equations() -> None:
    layers = [torch.nn.Identity() for _ in range(3)]
    blocks = [Block(layer, channels=12, prefix=2, projections=()) for layer in layers]
    rein = Rein(blocks, tokens=7, rank=3, scale=0.5, queries=(7, 4))
    rein.attach(blocks)
    rein.active = True
    for index, layer in enumerate(layers):
        x = torch.randn(2, 2 + 5, 12)
        answer = layer(x)
        assert torch.equal(answer[:, :2], x[:, :2])  # class and register tokens
        for image in range(2):
            expected = x[image, 2:] + reference_delta(x[image, 2:], rein, index)
            torch.testing.assert_close(answer[image, 2:], expected, rtol=1e-5, atol=1e-6)
    content, position = rein.queries()
    torch.testing.assert_close(position, reference_queries(rein, 12), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(content, rein.query_content(position))


@torch.no_grad()
@pytest.mark.parametrize("shape", [(24, 8), (8, 24), (16, 16)])
def test_somas_split_gives_the_weight_again_and_takes_the_smallest_components(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape)
    residual, b, a = split_minor(weight, 4)
    assert float((residual + b @ a - weight).abs().max()) <= 1e-6 * float(weight.abs().max())
    values = torch.linalg.svdvals(weight)
    torch.testing.assert_close(torch.linalg.svdvals(b @ a)[:4], values[-4:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.linalg.svdvals(residual)[: len(values) - 4], values[:-4], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_lora_is_the_weight_plus_the_scaled_product() -> None:
    trunk = backbone("timm:test_vit")
    made: Any = adapter("lora", trunk, rank=4, alpha=8.0, targets=("k",), first=1)
    update = made.updates["1"]["k"]
    torch.nn.init.normal_(update.b)
    assert list(made.updates) == [str(index) for index in range(1, len(trunk.blocks))]
    projection = next(one for one in trunk.blocks[1].projections if one.name == "k")
    before = projection.weight.clone()
    made.merge(trunk.blocks)
    torch.testing.assert_close(projection.weight, before + 8 / 4 * update.b @ update.a)


def test_soma_freezes_the_first_third_and_starts_at_the_weights() -> None:
    trunk = backbone("tiny")
    made: Any = adapter("soma", trunk, rank=3)
    assert list(made.updates) == ["1", "2", "3", "4"]  # of five blocks
    projection = trunk.blocks[1].projections[0]
    update = made.updates["1"][projection.name]
    _, b, a = split_minor(projection.weight, 3)
    assert torch.equal(update.b, b)
    assert torch.equal(update.a0, a)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lora", {"first": 5}, r"first is 5, but the backbone has the blocks 0 to 4"),
        ("lora", {"targets": ("q",)}, r"targets \['q'\] are in no block; its linear layers are \['fc1', 'fc2'\]"),
        ("soma", {"rank": 0}, r"rank is 0; expected at least 1"),
        ("rein", {"tokens": 1}, r"tokens=1, rank=16, 5 blocks; expected at least 2 tokens"),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        adapter(name, backbone("tiny"), **options)


def test_rein_refuses_another_number_of_queries() -> None:
    with pytest.raises(ConfigError, match=r"tokens=20, but the head has 10 queries; set tokens=10 or link=false"):
        adapter("rein", backbone("tiny"), queries=(10, 16), tokens=20)


@pytest.mark.parametrize("name", ["rein", "lora"])
def test_an_adapter_of_other_blocks_is_refused(name: str) -> None:
    made = adapter(name, backbone("timm:test_vit"))
    with pytest.raises(ConfigError, match="the adapter was built for other blocks"):
        made.attach(backbone("tiny").blocks)


def test_an_adapter_needs_blocks() -> None:
    from clouds.core.pipeline.build import build_part

    with pytest.raises(ConfigError, match="the backbone has no blocks; choose a plain ViT or a ConvNeXt"):
        build_part("adapter", "lora", blocks=())
