"""Plain vision transformers: conversion to patches of 16 pixels, tokens, pyramid, pooling."""

from __future__ import annotations

from typing import Any

import open_clip
import pytest
import timm
import torch
from backbone_helpers import VIT, backbone_of, clip_model, same_numbers
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from clouds.backbones.vit import patch_map, pyramid, to_patch_16
from clouds.core.system.errors import ConfigError

UNCHANGED = {"mean": (0, 0, 0), "std": (1, 1, 1)}


def own_tokens(visual: Any, images: torch.Tensor) -> torch.Tensor:
    """Patch tokens "b n d" as open_clip's image tower computes them."""
    if isinstance(visual, open_clip.timm_model.TimmModel):
        return visual.trunk.forward_features(images)[:, visual.trunk.num_prefix_tokens :]
    visual.output_tokens = True
    return visual(images)[1]


@pytest.mark.parametrize("family", ["vit", "vit-gelu", "eva", "siglip"])
@torch.no_grad()
def test_at_the_native_size_tokens_are_those_of_the_model_itself(family: str) -> None:
    model, images = clip_model(family), torch.randn(2, 3, 64, 64)
    wanted = own_tokens(model.visual, images)
    dense = backbone_of(family, model, **UNCHANGED)(images).dense
    assert dense is not None
    same_numbers(dense.flatten(2).mT, wanted)


@torch.no_grad()
def test_the_class_token_of_clip_projects_through_the_same_head() -> None:
    model, images = clip_model("vit"), torch.randn(2, 3, 64, 64)
    wanted = model.encode_image(images)
    backbone = backbone_of("vit", model, **UNCHANGED)
    same_numbers(backbone.vit.head(backbone.vit.forward_features(images)[:, 0]), wanted)


@pytest.mark.parametrize("family", ["siglip"])
@torch.no_grad()
def test_siglip_pools_the_whole_image_as_the_model_does(family: str) -> None:
    model, images = clip_model(family), torch.randn(2, 3, 64, 64)
    wanted = model.encode_image(images)
    backbone = backbone_of(family, model, **UNCHANGED)
    dense = backbone(images).dense
    assert dense is not None
    same_numbers(backbone.pool(dense, torch.ones(2, 1, 4, 4))[:, 0], wanted)


@torch.no_grad()
def test_siglips_pool_looks_at_the_patches_of_the_mask_alone() -> None:
    backbone = backbone_of("siglip")
    dense = torch.randn(1, 32, 2, 3)
    masks = torch.tensor([[[[1.0, -1, -1], [-1, 1, 1]]]])
    inside = dense[..., masks[0, 0] > 0][:, :, None]  # "b d 1 3": an image of these patches alone
    same_numbers(backbone.pool(dense, masks), backbone.pool(inside, torch.ones(1, 1, 1, 3)))


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "eva_clouds"])
@torch.no_grad()
def test_prefix_tokens_are_left_out(name: str) -> None:
    vit = to_patch_16(timm.create_model(name, dynamic_img_size=True).eval())
    images = torch.randn(1, 3, 64, 96)
    tokens = vit.forward_features(images)
    assert tokens.shape[1] == 4 * 6 + vit.num_prefix_tokens
    assert torch.equal(patch_map(vit, images)[0, :, 1, 2], tokens[0, vit.num_prefix_tokens + 6 + 2])


@pytest.mark.parametrize("patch", [8, 14, 32])
@torch.no_grad()
def test_patches_become_16_pixels_and_positions_keep_their_grid(patch: int) -> None:
    vit = timm.create_model("test_vit", patch_size=patch, img_size=5 * patch, dynamic_img_size=True)
    positions = vit.pos_embed.clone()
    assert to_patch_16(vit).patch_embed.proj.weight.shape[-2:] == (16, 16)
    assert torch.equal(vit.pos_embed, positions)
    assert vit.patch_embed.grid_size == (5, 5)
    assert patch_map(vit, torch.randn(1, 3, 32, 64)).shape == (1, 64, 2, 4)


@torch.no_grad()
def test_resampled_kernels_see_in_an_enlarged_patch_what_they_saw_before() -> None:
    """The property that defines the resampling (FlexiViT, equation 3), for enlarging."""
    vit = timm.create_model("test_vit", patch_size=14, img_size=70, dynamic_img_size=True)
    patches = torch.randn(6, 3, 14, 14)
    before = vit.patch_embed.proj(patches)
    enlarged = functional.interpolate(patches, size=(16, 16), mode="bicubic", antialias=True)
    after = to_patch_16(vit).patch_embed.proj(enlarged)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)  # the pseudo-inverse costs some digits


@given(st.integers(1, 4), st.integers(1, 4))
def test_the_pyramid_has_the_map_itself_between_interpolation_and_maximum(rows: int, columns: int) -> None:
    dense = torch.randn(1, 2, 2 * rows, 2 * columns)
    res2, res3, res4, res5 = pyramid(dense)
    assert res4 is dense
    assert res2.shape[-2:] == (8 * rows, 8 * columns)
    same_numbers(functional.avg_pool2d(res3, 2).mean(), res3.mean())
    assert torch.equal(res5, dense.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).amax((-1, -3)))
    constant = torch.full_like(dense, 3.0)
    assert all(torch.equal(level, torch.full_like(level, 3.0)) for level in pyramid(constant))


@pytest.mark.parametrize(
    "change", [{"attentional_pool": True}, {"no_ln_pre": True}, {"final_ln_after_pool": True}, {"qk_norm": True}]
)
def test_other_vits_of_open_clip_are_refused(change: dict[str, bool]) -> None:
    from backbone_helpers import CONFIGS

    config = {**CONFIGS["vit"], "vision_cfg": {**VIT, **change}}
    model = open_clip.CLIP(embed_dim=32, **config)
    with pytest.raises(ConfigError, match=r"other blocks or other norms than CLIP's own; use it as a timm model"):
        backbone_of("vit", model)


def test_hybrids_are_refused() -> None:
    vit: Any = timm.create_model("test_vit")
    vit.patch_embed = torch.nn.Identity()
    with pytest.raises(ConfigError, match="VisionTransformer with Identity is not a plain ViT"):
        to_patch_16(vit)
