"""Every sort of CLIP model, shrunk: configurations as open_clip writes them, built in milliseconds."""

from __future__ import annotations

from functools import partial
from typing import Any

import open_clip
import pytest
import timm
import torch
from open_clip.tokenizer import SimpleTokenizer
from timm.models import Eva, VisionTransformer, build_model_with_cfg
from torch import nn

from clouds.backbones.clip_backbone import ClipBackbone
from clouds.backbones.clip_convnext import ClipConvNeXt
from clouds.backbones.clip_resnet import ClipResNet
from clouds.backbones.clip_vit import ClipVit

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
SIGLIP_TEXT = {**TEXT, "context_length": 16, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
RESNET = {"layers": [1, 1, 1, 1], "width": 8, "head_width": 64, "image_size": 64}
VIT = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 64}


def timm_tower(name: str, pool: str, projection: str | None) -> dict[str, Any]:
    return {"timm_model_name": name, "timm_pool": pool, "timm_proj": projection, "image_size": 64}


CONFIGS: dict[str, dict[str, Any]] = {
    "resnet": {"vision_cfg": RESNET, "text_cfg": TEXT},
    "convnext": {"vision_cfg": timm_tower("test_convnext", "", "mlp"), "text_cfg": TEXT},
    "vit": {"vision_cfg": VIT, "text_cfg": TEXT, "quick_gelu": True},
    "vit-gelu": {"vision_cfg": VIT, "text_cfg": TEXT},
    "eva": {"vision_cfg": timm_tower("eva_clouds", "token", None), "text_cfg": TEXT, "custom_text": True},
    "siglip": {
        "vision_cfg": timm_tower("clouds_test_siglip", "map", "none"),
        "text_cfg": SIGLIP_TEXT,
        "custom_text": True,
        "init_logit_bias": -10,
    },
}
CLASSES = {"resnet": ClipResNet, "convnext": ClipConvNeXt}


@timm.models.register_model
def eva_clouds(pretrained: bool = False, **options: Any) -> nn.Module:
    return _registered(
        Eva,
        "eva_clouds",
        options,
        swiglu_mlp=True,
        scale_mlp=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(4, 4),
        qkv_fused=False,
    )


@timm.models.register_model
def eva_fused_clouds(pretrained: bool = False, **options: Any) -> nn.Module:
    return _registered(Eva, "eva_fused_clouds", options, use_rot_pos_emb=True, ref_feat_shape=(4, 4))


@timm.models.register_model
def clouds_test_siglip(pretrained: bool = False, **options: Any) -> nn.Module:
    return _registered(VisionTransformer, "clouds_test_siglip", options, class_token=False, global_pool="map")


def _registered(kind: Any, name: str, options: dict[str, Any], **more: Any) -> nn.Module:
    sizes = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2}
    about = {"architecture": name, "input_size": (3, 64, 64), "num_classes": 10, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    return build_model_with_cfg(kind, name, False, **{**sizes, **more, **options, "pretrained_cfg": about})


def clip_model(family: str) -> Any:
    """A random open_clip model in eval mode; parameters that start at 0 or 1 are random, too."""
    config = {"embed_dim": 32, **CONFIGS[family]}
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    model = kind(**config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("visual.") and parameter.ndim < 2:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def backbone_of(family: str, model: Any = None, **options: Any) -> ClipBackbone:
    """The backbone class of a family around such a model."""
    model = clip_model(family) if model is None else model
    return CLASSES.get(family, ClipVit)(model, SimpleTokenizer(context_length=model.context_length), **options)


def model_name(family: str) -> str:
    """The name of a shrunk model; those of ModifiedResNets begin with RN, as open_clip's do."""
    return "RN-test" if family == "resnet" else f"test-{family}"


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the shrunk models with open_clip, as `model_name` says, with weights `none`."""
    tag = {"hf_hub": "nobody/nothing/", "mean": (0.5, 0.25, 0.125), "std": (0.5, 0.5, 0.5)}
    for family, config in CONFIGS.items():
        name = model_name(family)
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, {"embed_dim": 32, **config})
        tags = {"none": tag, "quick": {**tag, "quick_gelu": True}}
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, tags)


same_numbers = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)
"""float32 sums of at most some hundred terms of order 1, in another order."""
