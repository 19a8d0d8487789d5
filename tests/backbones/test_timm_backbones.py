"""timm models: pyramids of their own, plain ViTs, borrowed texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from backbone_helpers import backbone_of
from safetensors.torch import save_file

import clouds
from clouds.backbones import presets
from clouds.backbones.clip_text import ClipText
from clouds.backbones.timm_pyramid import build_timm
from clouds.backbones.with_text import WithText
from clouds.core.contract.interfaces import capabilities
from clouds.core.contract.plan import PlanError
from clouds.core.pipeline.build import build_part
from clouds.core.system.errors import ConfigError, DataError, WeightsError
from clouds.testing import check_backbone, check_by_name

PYRAMID = {"res2", "res3", "res4", "res5"}
MODELS = ["test_convnext", "test_vit", "eva_clouds"]


@pytest.mark.parametrize("model", MODELS)
def test_contract(model: str) -> None:
    check_by_name("backbone", f"timm:{model}")


def test_models_are_found_by_pattern_and_pretrained_reaches_them() -> None:
    component = clouds.catalog().find("backbone", "timm:resnet18")
    assert component.options == {"model": "resnet18"}
    backbone = build_part("backbone", "timm:resnet18", pretrained=False)
    features = backbone(torch.rand(1, 3, 64, 96) * 255)
    assert [tuple(level.shape[1:]) for level in features.levels().values()] == [
        (64, 16, 24),
        (128, 8, 12),
        (256, 4, 6),
        (512, 2, 3),
    ]
    np.testing.assert_allclose(backbone.mean.flatten(), np.array([0.485, 0.456, 0.406]) * 255, rtol=1e-6)


def test_the_class_of_the_model_decides_not_its_name() -> None:
    """`deit` has patches of 16 pixels and no pyramid of its own."""
    with torch.device("meta"):
        backbone = build_part("backbone", "timm:deit_tiny_patch16_224", pretrained=False)
        features = backbone(torch.zeros(1, 3, 64, 96))
    assert [tuple(level.shape[1:]) for level in features.levels().values()] == [
        (192, 16, 24),
        (192, 8, 12),
        (192, 4, 6),
        (192, 2, 3),
    ]


def test_unknown_models_have_a_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"timm has no model 'resnet118'; did you mean 'resnet\w+'"):
        build_part("backbone", "timm:resnet118", pretrained=False)


def test_unknown_weights_have_a_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"timm has no weights 'a1_in2k' of 'resnet18'; did you mean 'a1_in1k'"):
        build_part("backbone", "timm:resnet18.a1_in2k", pretrained=False)


def test_windowed_transformers_take_any_size(tmp_path: Path) -> None:
    """Swin's own maps are for one image size, with channels last."""
    name = "swin_tiny_patch4_window7_224"
    state = timm.create_model(name).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    backbone = presets.timm(model=name, pretrained=tmp_path / "w.safetensors")
    with torch.no_grad():
        features = backbone(torch.zeros(1, 3, 64, 96))
        assert [tuple(level.shape[1:]) for level in features.levels().values()] == [
            (96, 16, 24),
            (192, 8, 12),
            (384, 4, 6),
            (768, 2, 3),
        ]
        overlay = {"state_dict": state}
        own = timm.create_model(name, features_only=True, pretrained=True, pretrained_cfg_overlay=overlay).eval()
        images = torch.rand(1, 3, 224, 224) * 255
        for level, channels_last in zip(
            backbone(images).levels().values(), own(backbone.normalize(images)), strict=True
        ):
            torch.testing.assert_close(level, channels_last.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-5)


def test_models_without_a_pyramid_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"'beit_base_patch16_224' has feature maps at strides \[16.*\]; expected \[4,"
    ):
        build_part("backbone", "timm:beit_base_patch16_224", pretrained=False)


def test_other_sizes_are_refused() -> None:
    with pytest.raises(DataError, match="images are 48 x 64 pixels"):
        presets.timm(model="test_vit", pretrained=False)(torch.zeros(1, 3, 48, 64))


@pytest.mark.parametrize("model", ["resnet18", "test_vit"])
def test_weights_that_cannot_be_had_say_what_to_do(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    real = timm.create_model

    def offline(*arguments: object, pretrained: bool = False, **options: object) -> object:
        if pretrained:
            raise OSError("no route to host")
        return real(*arguments, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(WeightsError, match=r"could not be loaded .*no route to host.*pretrained=FILE or pretrained=F"):
        build_part("backbone", f"timm:{model}", pretrained=True)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
@torch.no_grad()
def test_local_files_are_loaded(tmp_path: Path, model: str, ending: str) -> None:
    source: Any = timm.create_model(model).eval()
    for parameter in source.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    path = tmp_path / f"w{ending}"
    (save_file if ending == ".safetensors" else torch.save)(source.state_dict(), path)
    backbone = build_part("backbone", {"name": f"timm:{model}", "pretrained": str(path), "pyramid": "last"})
    side = source.pretrained_cfg["input_size"][-1]
    images = torch.randn(1, 3, side, side)
    maps = source.forward_features(images)
    found = backbone.trunk(images)
    if maps.ndim == 3:  # tokens
        maps, found = maps[:, source.num_prefix_tokens :].mT, (found[2].flatten(2),)
    torch.testing.assert_close(found[-1], maps, rtol=1e-4, atol=1e-4)  # float32, values of order 1, tens of layers


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("classes", [0, 7])
def test_the_classifier_of_a_file_does_not_matter(tmp_path: Path, model: str, classes: int) -> None:
    """Backbones have none; that of a file may be of other classes, or missing."""
    source = timm.create_model(model, num_classes=classes)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    spec = {"name": f"timm:{model}", "pretrained": str(tmp_path / "w.safetensors")}
    own = build_part("backbone", spec).state_dict()
    saved = list(source.state_dict().values())
    assert sum(any(torch.equal(value, one) for one in saved) for value in own.values()) > len(own) // 2


def test_the_names_of_the_models_authors_are_understood(tmp_path: Path) -> None:
    """DINOv2's own files carry a mask token, which timm's filter takes out."""
    state = timm.create_model("test_vit").state_dict()
    torch.save({**state, "mask_token": torch.zeros(1, 64)}, tmp_path / "w.pth")
    backbone: Any = presets.timm(model="test_vit", pretrained=tmp_path / "w.pth")
    assert torch.equal(backbone.trunk.vit.pos_embed, state["pos_embed"])


@pytest.mark.parametrize("model", MODELS)
def test_files_that_do_not_fit_name_file_and_keys(tmp_path: Path, model: str) -> None:
    state = timm.create_model(model).state_dict()
    wrong = next(key for key in state if key.endswith(("fc1.bias", "fc1_g.bias")))
    torch.save({**state, wrong: torch.ones(7)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=rf"w\.pth does not fit \w+: 1 wrong shapes: {wrong} is \(7,\), expected"):
        presets.timm(model=model, pretrained=tmp_path / "w.pth")
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"w\.pth does not fit \w+: \d+ missing keys: .*; \d+ keys that no param"):
        presets.timm(model=model, pretrained=tmp_path / "w.pth")


@pytest.mark.parametrize("key", ["reg_token", "register_tokens"])
def test_register_tokens_are_named(tmp_path: Path, key: str) -> None:
    state = timm.create_model("test_vit").state_dict()
    save_file({**state, key: torch.zeros(1, 4, 64)}, path := tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"w\.safetensors: has 4 register tokens, but timm model 'test_vit' has 0; "):
        presets.timm(model="test_vit", pretrained=path)


def test_files_that_cannot_be_converted_are_named(tmp_path: Path) -> None:
    state = timm.create_model("test_vit").state_dict()
    torch.save({**state, "patch_embed.proj.weight": torch.zeros(7)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"w\.pth does not fit VisionTransformer: RuntimeError: shape"):
        presets.timm(model="test_vit", pretrained=tmp_path / "w.pth")


def borrowed(*, trainable: bool) -> WithText:
    clip = backbone_of("resnet")
    images = build_timm("test_vit", pretrained=False)
    backbone = WithText(images, ClipText(clip.clip_model, clip.tokenizer))
    return backbone if trainable else backbone.freeze()


def test_borrowed_texts_keep_the_contract() -> None:
    backbone = borrowed(trainable=False)
    check_backbone(backbone)
    assert capabilities(backbone) == {*PYRAMID, "blocks", "tokens", "text-encoder"}
    assert backbone.embed_text(["road"]).shape == (1, 32)
    assert backbone.logit_scale == pytest.approx(1 / 0.07)
    assert backbone.text_weights().keys() == backbone.texts.text_weights().keys()


def test_borrowed_texts_are_never_trained() -> None:
    backbone = borrowed(trainable=True).train()
    assert backbone.images.training
    assert not any(module.training for module in backbone.texts.modules())
    trained = {name.split(".")[0] for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert trained == {"images"}


def test_the_text_option_brings_a_text_tower_and_the_plan_says_so() -> None:
    option = {"name": "timm:test_vit", "text": "clip-rn50"}
    plan = clouds.plan(backbone=option, head="linear", pretrained=False)
    assert set(plan.parts["backbone"].provides) == {*PYRAMID, "blocks", "tokens", "text-encoder"}
    with torch.device("meta"):
        backbone = build_part("backbone", option, pretrained=False)
    assert capabilities(backbone) == {*PYRAMID, "blocks", "tokens", "text-encoder"}
    assert backbone.frozen
    assert not [key for key in backbone.state_dict() if "visual" in key]
    with pytest.raises(PlanError, match="option text='clip-rn5' is not of type"):
        build_part("backbone", {**option, "text": "clip-rn5"})
