"""What holds for every CLIP backbone, on shrunk models of each family."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from backbone_helpers import CONFIGS, backbone_of, clip_model, same_numbers
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer
from torch.utils._python_dispatch import TorchDispatchMode

from clouds.backbones.clip_text import ClipText
from clouds.backbones.levels import sized
from clouds.backbones.tokenizers import ByteTokenizer
from clouds.core.system.errors import DataError

every_family = pytest.mark.parametrize("family", CONFIGS)


@every_family
def test_texts_are_embedded_as_open_clip_does(family: str) -> None:
    model = clip_model(family)
    texts = ["road", "a photo of a " + "very " * 200 + "long sentence", "", *("sky " * (n % 30) for n in range(140))]
    tokens = SimpleTokenizer(context_length=model.context_length)(texts)
    with torch.no_grad():
        wanted = model.encode_text(tokens)
    same_numbers(backbone_of(family, model).embed_text(texts), wanted)


def test_any_texts_are_embedded_as_open_clip_does() -> None:
    backbone = backbone_of("resnet")

    @settings(max_examples=30)
    @given(st.lists(st.text(max_size=30), max_size=3))
    def check(texts: list[str]) -> None:
        with torch.no_grad():
            wanted = backbone.clip_model.encode_text(backbone.tokenizer(texts)) if texts else torch.zeros(0, 32)
        same_numbers(backbone.embed_text(texts), wanted)

    check()


def test_the_context_is_cut_behind_the_last_end_token() -> None:
    backbone = backbone_of("resnet")
    seen: list[int] = []
    backbone.clip_model.ln_final.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    backbone.embed_text(["road", "a red car"])
    assert seen == [5]  # start, 3 words, end


@every_family
def test_the_scale_of_logits_is_at_most_100(family: str) -> None:
    backbone = backbone_of(family)
    assert backbone.logit_scale == pytest.approx(1 / 0.07)
    backbone.clip_model.logit_scale.data.fill_(math.log(1000))
    assert backbone.logit_scale == 100


@every_family
def test_text_weights_change_with_whatever_changes_embeddings(family: str) -> None:
    backbone = backbone_of(family)
    weights = backbone.text_weights()
    backbone.vit = None  # pyright: ignore[reportAttributeAccessIssue]
    backbone.clip_model.visual = torch.nn.Identity()
    backbone.clip_model.logit_scale.data.add_(1)
    assert weights.keys() == backbone.text_weights().keys()
    assert all(torch.equal(value, backbone.text_weights()[key]) for key, value in weights.items())
    backbone.tokenizer = ByteTokenizer(backbone.clip_model.context_length, 49408)
    assert not torch.equal(weights["tokens"], backbone.text_weights()["tokens"])
    before = backbone.embed_text(["road"])
    for key in weights.keys() - {"tokens"}:
        backbone.clip_model.get_parameter(key).data.mul_(1.5)
    assert not torch.allclose(before, backbone.embed_text(["road"]))


@every_family
def test_trainable_trains_the_image_trunk_alone(family: str) -> None:
    backbone = backbone_of(family).train()
    features = backbone(torch.rand(2, 3, 64, 64) * 255)
    dense = 0 if features.dense is None else features.dense.sum()  # only it comes after a ViT's final norm
    (dense + sum(level.sum() for level in features.levels().values())).backward()
    trained = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in backbone.named_parameters() if parameter.grad is not None}
    assert trained
    assert not any("text" in name or "attnpool" in name or "head" in name or "logit" in name for name in trained)
    assert backbone.training
    assert not any(module.training for module in backbone._never_trained)


@every_family
def test_frozen_means_eval_mode_for_ever_and_no_gradient(family: str) -> None:
    backbone = backbone_of(family).freeze()
    assert backbone.train() is backbone
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


@every_family
@torch.no_grad()
def test_masks_of_another_size_are_resized_first(family: str) -> None:
    backbone = backbone_of(family)
    dense = backbone(torch.rand(1, 3, 64, 96) * 255).dense
    assert dense is not None
    masks = torch.randn(1, 3, 37, 41)
    small = torch.nn.functional.interpolate(masks, size=dense.shape[-2:], mode="bilinear")
    assert torch.equal(backbone.pool(dense, masks), backbone.pool(dense, small))


@torch.no_grad()
def test_an_empty_mask_pools_the_bias_of_resnets_projection() -> None:
    backbone = backbone_of("resnet")
    dense = torch.randn(1, 256, 3, 5)
    masks = torch.full((1, 2, 3, 5), -1.0)
    masks[:, 1] = 1
    pooled = backbone.pool(dense, masks)
    assert torch.equal(pooled[0, 0], backbone.clip_model.visual.attnpool.c_proj.bias)
    assert not torch.allclose(pooled[0, 1], pooled[0, 0])


@torch.no_grad()
def test_resnets_pool_is_multi_head_attention_over_the_pixels_of_the_mask() -> None:
    """The same with torch's own function, without any mask: on the chosen pixels alone."""
    backbone = backbone_of("resnet")
    pool = backbone.clip_model.visual.attnpool
    dense, masks = torch.randn(1, 256, 2, 2), torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]])  # 2 x 2: the native grid
    pixels = dense.flatten(2).permute(2, 0, 1)
    keys = (pixels + pool.positional_embedding[1:, None])[[0, 3]]
    wanted, _ = torch.nn.functional.multi_head_attention_forward(
        query=pixels.mean(0, keepdim=True) + pool.positional_embedding[:1, None],
        key=keys,
        value=keys,
        embed_dim_to_check=256,
        num_heads=pool.num_heads,
        in_proj_weight=None,
        in_proj_bias=torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=pool.c_proj.weight,
        out_proj_bias=pool.c_proj.bias,
        use_separate_proj_weight=True,
        q_proj_weight=pool.q_proj.weight,
        k_proj_weight=pool.k_proj.weight,
        v_proj_weight=pool.v_proj.weight,
    )
    same_numbers(backbone.pool(dense, masks)[0], wanted[0])


@every_family
def test_other_sizes_are_refused(family: str) -> None:
    with pytest.raises(DataError, match="images are 33 x 64 pixels"):
        backbone_of(family)(torch.zeros(1, 3, 33, 64))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (64, 0), (0, 32), (1, 96), (32, 31)])
def test_sizes_are_positive_multiples_of_32(height: int, width: int) -> None:
    match = rf"images are {height} x {width} pixels .*expected positive multiples of 32; pad them"
    with pytest.raises(DataError, match=match):
        sized(torch.zeros(1, 3, height, width))


class Largest(TorchDispatchMode):
    """Remembers how many elements the largest tensor has that any operation answers."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        for tensor in answer if isinstance(answer, (tuple, list)) else (answer,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return answer


@every_family
@torch.no_grad()
def test_many_masks_are_pooled_without_a_copy_of_the_map_for_each(family: str) -> None:
    backbone = backbone_of(family)
    dense = backbone(torch.rand(1, 3, 256, 256) * 255).dense
    assert dense is not None
    queries = 200
    with Largest() as largest:
        backbone.pool(dense, torch.randn(1, queries, *dense.shape[-2:]))
    assert dense.numel() < largest.elements < queries * dense.numel() / 4


def test_the_text_side_alone_keeps_no_image_tower_and_is_never_trained() -> None:
    model, tokenizer = clip_model("resnet"), SimpleTokenizer(context_length=77)
    with torch.no_grad():
        wanted = model.encode_text(tokenizer(["road"]))
    text = ClipText(model, tokenizer)
    assert not [key for key in text.state_dict() if "visual" in key]
    assert text.train() is text
    assert not any(module.training for module in text.modules())
    assert not any(parameter.requires_grad for parameter in text.parameters())
    same_numbers(text.embed_text(["road"]), wanted)
