"""Backbones against the published implementation. Set numbers and noise floors are those of GOLDEN.md, section 0.

Where the floor is 0 (bitwise equal between thread counts), 1e-4 of the largest magnitude is allowed, because another
open_clip and another order of sums are at work here.
"""

from __future__ import annotations

from typing import Any

import golden
import numpy as np
import open_clip
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from torch.nn import functional

from clouds.backbones.clip_backbone import MEAN, STD, ClipBackbone
from clouds.backbones.clip_convnext import ClipConvNeXt
from clouds.backbones.clip_factory import ClipWeights
from clouds.backbones.clip_resnet import ClipResNet
from clouds.core.contract.labels import LabelSpace
from clouds.core.pipeline.build import build_part
from clouds.core.pipeline.text import embed_labels
from clouds.kernels.mask_pool import mask_pool

NO_FLOOR = 1e-5  # times 10
SET_8_FLOOR = 6.7e-7
SET_9_FLOOR = 8.3e-7
FAMILIES = {"rn": ("RN_tiny", ClipResNet), "convnext": ("convnext_tinytest", ClipConvNeXt)}


def tiny_clip(config: str, *, quick_gelu: bool = False) -> Any:
    """The tiny CLIP of sets 6 and 8, with the weights that its own names make."""
    model = open_clip.CLIP(**golden.read_json("08_inference")["model_configs"][config], quick_gelu=quick_gelu)
    golden.apply_recipe(model)
    return model.eval()


def backbone_of_set_8(family: str) -> ClipBackbone:
    config, kind = FAMILIES[family]
    tokenizer = SimpleTokenizer(context_length=77)
    return kind(tiny_clip(config), tokenizer, mean=(0, 0, 0), std=(1, 1, 1)).freeze()


def compare(actual: dict[str, Tensor], expected: dict[str, np.ndarray], floor: float) -> None:
    for name, value in actual.items():
        golden.assert_close(value, expected[name], floor=floor, what=name)


def test_normalisation_is_the_published_one() -> None:
    for config in golden.read_json("14_configs_resolved").values():
        # float32 of 255 times a factor of 8 digits
        np.testing.assert_allclose(MEAN, config["MODEL.PIXEL_MEAN"], rtol=1e-7)
        np.testing.assert_allclose(STD, config["MODEL.PIXEL_STD"], rtol=1e-7)


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ("convnext_large_d_320", "clip-convnext-large-d-320"),
        ("rn50", "clip-rn50"),
        ("rn101", "clip-rn101"),
    ],
)
def test_keys_are_those_of_the_published_checkpoints(table: str, name: str) -> None:
    with torch.device("meta"):
        backbone = build_part("backbone", name, pretrained=False)
    found = [(key, list(value.shape)) for key, value in backbone.state_dict().items()]
    published = golden.read_json(f"keys_warmup_{table}")
    start = "backbone."
    wanted = [(key.removeprefix(start), shape) for key, (shape, _) in published.items() if key.startswith(start)]
    assert found == wanted


@pytest.mark.parametrize("activation", ["gelu", "quickgelu"])
def test_texts_of_set_6(activation: str) -> None:
    expected = golden.load(f"06_text_classifier_tiny_{activation}")
    prompts = golden.read_json("06_class_names")["gta5"]
    model = tiny_clip("RN_tiny", quick_gelu=activation == "quickgelu")
    backbone = ClipResNet(model, SimpleTokenizer(context_length=77))
    first, last = prompts["first"], prompts["last"]
    assert torch.equal(backbone.tokenizer(first), torch.from_numpy(expected["tokens"][: len(first)]).long())
    assert torch.equal(backbone.tokenizer(last), torch.from_numpy(expected["tokens"][-len(last) :]).long())
    compare(
        {"text_classifier": embed_labels(backbone, LabelSpace.named("cityscapes"))}
        | {"raw_text_features_last14": backbone.embed_text(last[-14:])}
        | {"raw_text_features_first28": embed_tokens(backbone, expected["tokens"][:28])},
        expected,
        NO_FLOOR,
    )


def embed_tokens(backbone: ClipBackbone, tokens: np.ndarray) -> Tensor:
    """Through the whole `embed_text`, with tokens in the place of texts."""
    backbone.tokenizer = lambda texts: torch.from_numpy(tokens[: len(texts)]).long()
    return backbone.embed_text(["given"] * len(tokens))


def test_tiny_text_towers_have_the_published_keys() -> None:
    found = {key: list(value.shape) for key, value in tiny_clip("RN_tiny").state_dict().items()}
    wanted = golden.read_json("06_text_tower_keys")
    assert {key: shape for key, shape in found.items() if not key.startswith("visual.")} == wanted


def test_mask_pooling_of_set_6() -> None:
    data = golden.load("06_small_functions")
    dense = torch.from_numpy(data["mp_x"])
    for suffix in ("", "_big"):
        pooled = mask_pool(dense, torch.from_numpy(data[f"mp_mask{suffix}"]))
        golden.assert_close(pooled, data[f"mp_out{suffix}"], floor=NO_FLOOR, what=f"mp_out{suffix}")


@pytest.mark.parametrize(("family", "prefix"), [("rn", "rn_tiny"), ("convnext", "convnext_atto")])
@torch.no_grad()
def test_features_of_set_8(family: str, prefix: str) -> None:
    expected = golden.load("08_inference")
    features = backbone_of_set_8(family)(golden.randn(841, (2, 3, 64, 96)))
    compare({f"{prefix}_{name}": level for name, level in features.levels().items()}, expected, SET_8_FLOOR)
    assert features.dense is not None
    assert torch.equal(features.dense, features.res5)


@pytest.mark.parametrize("family", ["rn", "convnext"])
@torch.no_grad()
def test_pooled_masks_of_set_8(family: str) -> None:
    data = golden.load("08_inference")
    dense = torch.from_numpy(data[f"{family}_clip_vis_dense"])
    masks = functional.interpolate(torch.from_numpy(data["pred_masks"]), size=(96, 128), mode="bilinear")
    pooled = backbone_of_set_8(family).pool(dense, masks)
    compare({f"{family}_pooled_prediction": pooled}, data, SET_8_FLOOR)


@torch.no_grad()
def test_attention_pool_of_set_8() -> None:
    data = golden.load("08_inference")
    pooled = backbone_of_set_8("rn").pool(
        torch.from_numpy(data["attnpool_x"]), torch.from_numpy(data["attnpool_masks"])
    )
    compare({"attnpool_out": pooled}, data, SET_8_FLOOR)


def steps(rule: str) -> list[int]:
    """`"[:, ::5, ::8, ::8]"` to [5, 8, 8]."""
    return [int(part) for part in rule.strip("[]").replace(":", "").split(",") if part.strip()]


@torch.no_grad()
def test_rn50_of_set_9() -> None:
    expected, shapes = golden.load("09_model_rn50"), golden.read_json("09_model_rn50")
    model: Any = ClipWeights.named("RN50", "openai").build()
    backbone = ClipResNet(model, SimpleTokenizer(context_length=77)).freeze()
    golden.apply_recipe(backbone, prefix="backbone.")
    features = backbone(torch.from_numpy(expected["image"])[None].float())
    assert features.dense is not None
    for name, level in {**features.levels(), "clip_vis_dense": features.dense}.items():
        assert list(level.shape) == shapes[f"{name}_shape"]
        channels, rows, columns = steps(shapes[f"{name}_slice_rule"])
        golden.assert_close(
            level[:, ::channels, ::rows, ::columns], expected[f"{name}_slice"], floor=SET_9_FLOOR, what=name
        )
    road = golden.read_json("06_class_names")["gta5"]["first"][:14]  # the templates of the first synonym
    unit = functional.normalize(backbone.embed_text(road), dim=-1).mean(0)
    golden.assert_close(
        functional.normalize(unit, dim=0), expected["text_classifier"][0], floor=SET_9_FLOOR, what="text_classifier"
    )
