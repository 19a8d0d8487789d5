"""Every built-in name at full size, on the meta device: no memory, no download."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from open_clip.transformer import QuickGELU

import clouds
from clouds.backbones.published import CLIP_MODELS, TIMM_MODELS, ClipName
from clouds.core.contract.interfaces import capabilities
from clouds.core.pipeline.build import build_part
from clouds.testing import check_component

EMBEDDINGS = {
    "clip-convnext-base": 640,
    "clip-convnext-large-d-320": 768,
    "clip-convnext-xxlarge": 1024,
    "clip-rn50": 1024,
    "clip-rn101": 512,
    "clip-rn50x4": 640,
    "clip-rn50x16": 768,
    "clip-rn50x64": 1024,
    "clip-vit-l-14": 768,
    "eva02-clip-l-14": 768,
    "siglip2-so400m": 1152,
}
NAMES = [*CLIP_MODELS, *TIMM_MODELS, "tiny"]


def test_all_names_are_there() -> None:
    built_in = [entry for entry in clouds.catalog().entries("backbone") if entry.distribution == "clouds-dgss"]
    assert sorted(NAMES) == sorted(entry.component.name for entry in built_in)
    assert {*get_args(ClipName), "siglip2-so400m"} == set(CLIP_MODELS) == set(EMBEDDINGS)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_full_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Numbers that no memory holds are drawn all the same, and slowly.
    monkeypatch.setattr("timm.layers.weight_init._trunc_normal_", lambda tensor, *_: tensor)
    component = clouds.catalog().find("backbone", name)
    check_component(component)
    with torch.device("meta"):
        backbone = build_part("backbone", name, pretrained=False)
        features = backbone(torch.zeros(1, 3, 64, 96))
    assert capabilities(backbone) == component.provides
    assert backbone.frozen
    for level, spec in backbone.features.items():
        shape = features.levels()[level].shape
        assert shape == (1, spec.channels, 64 // spec.stride, 96 // spec.stride)
    if name in EMBEDDINGS:
        pooled = backbone.pool(features.dense, torch.zeros(1, 5, 16, 24, device="meta"))
        assert pooled.shape == (1, 5, EMBEDDINGS[name])


@pytest.mark.parametrize("name", [name for name, published in CLIP_MODELS.items() if published.weights == "openai"])
def test_openai_models_have_quickgelu_without_weights_too(name: str) -> None:
    with torch.device("meta"):
        backbone = build_part("backbone", name, pretrained=False)
    assert isinstance(backbone.clip_model.transformer.resblocks[0].mlp.gelu, QuickGELU)


def test_plans_say_which_tokenizer_stands_in() -> None:
    def options(name: object, *, pretrained: bool) -> dict[str, object]:
        return clouds.plan(backbone=name, head="linear", pretrained=pretrained).parts["backbone"].options

    assert options("siglip2-so400m", pretrained=False)["tokenizer"] == "bytes"
    assert options("siglip2-so400m", pretrained=True)["tokenizer"] == "hub"
    folder = {"name": "siglip2-so400m", "tokenizer": "folder"}
    assert options(folder, pretrained=False)["tokenizer"] == "folder"
    assert "tokenizer" not in options("clip-rn50", pretrained=False)


@pytest.mark.parametrize("value", [True, False, "file.safetensors", Path("file.pt")])
@pytest.mark.parametrize("name", ["clip-rn50", "dinov2-large"])
def test_pretrained_takes_a_switch_or_a_file(name: str, value: object) -> None:
    plan = clouds.plan(backbone={"name": name, "pretrained": value}, head="linear")
    assert plan.parts["backbone"].options["pretrained"] == (str(value) if isinstance(value, Path) else value)
