"""A plain ViT gives each level of the pyramid from a block of its own, or all from the last."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from backbone_helpers import backbone_of
from torch.nn import functional

import clouds
from clouds.backbones.timm_pyramid import build_timm
from clouds.backbones.vit import patch_map, pyramid, to_patch_16, vit_levels
from clouds.backbones.vit_options import VitOptions, default_layers
from clouds.core.contract.plan import Plan, PlanError
from clouds.core.system.errors import ConfigError
from clouds.training.teacher import Teacher


@pytest.mark.parametrize(
    ("depth", "layers"), [(24, (7, 11, 15, 23)), (12, (3, 5, 7, 11)), (27, (8, 13, 17, 26)), (40, (13, 19, 26, 39))]
)
def test_the_default_takes_a_third_half_two_thirds_and_all_of_the_depth(depth: int, layers: tuple[int, ...]) -> None:
    assert default_layers(depth) == layers


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "eva_clouds"])
@pytest.mark.parametrize("layers", [(0, 1, 2, 3), (1, 1, 3, 2)])
@torch.no_grad()
def test_levels_are_the_resized_outputs_of_their_blocks(name: str, layers: tuple[int, int, int, int]) -> None:
    vit = timm.create_model(name, depth=4, dynamic_img_size=True).eval()
    to_patch_16(vit)
    outputs: list[torch.Tensor] = []
    for block in vit.blocks:
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    images = torch.randn(2, 3, 64, 96)
    levels, dense = vit_levels(vit, images, layers)
    assert len(outputs) == 4  # the trunk runs once
    maps = [outputs[layer][:, vit.num_prefix_tokens :].mT.unflatten(-1, (4, 6)) for layer in layers]
    for level, one, factor in zip(levels, maps, (4, 2, 1, 0.5), strict=True):
        wanted = one if factor == 1 else functional.interpolate(one, scale_factor=factor, mode="bilinear")
        assert torch.equal(level, wanted)
    assert torch.equal(dense, patch_map(vit, images))


@torch.no_grad()
def test_the_pyramid_of_the_last_block_is_as_before() -> None:
    vit = to_patch_16(timm.create_model("test_vit", dynamic_img_size=True).eval())
    images = torch.randn(1, 3, 64, 96)
    levels, dense = vit_levels(vit, images, None)
    assert torch.equal(dense, patch_map(vit, images))
    assert all(torch.equal(one, other) for one, other in zip(levels, pyramid(dense), strict=True))


@torch.no_grad()
def test_a_clip_vit_pools_its_last_block_whatever_the_levels_are() -> None:
    torch.manual_seed(0)
    last = backbone_of("vit", options=VitOptions(pyramid="last"))
    torch.manual_seed(0)
    layered = backbone_of("vit")
    images = torch.rand(1, 3, 64, 64) * 255
    assert torch.equal(last(images).dense, layered(images).dense)
    assert not torch.equal(last(images).res2, layered(images).res2)


class TestFaults:
    def test_a_block_that_does_not_exist_is_a_problem_of_the_plan(self) -> None:
        with pytest.raises(
            PlanError, match=r"layers=\[0, 1, 2, 24\] names a block that does not exist; .* from 0 to 23"
        ):
            clouds.plan(backbone={"name": "dinov2-large", "layers": [0, 1, 2, 24]}, head="linear")

    def test_layers_without_their_pyramid_are_a_problem_of_the_plan(self) -> None:
        part = {"name": "clip-vit-l-14", "layers": [0, 1, 2, 3], "pyramid": "last"}
        with pytest.raises(PlanError, match=r"layers=\[0, 1, 2, 3\] needs pyramid='layers'"):
            clouds.plan(backbone=part, head="linear")

    @pytest.mark.parametrize("value", [[1, 2, 3], "last", 4])
    def test_layers_are_four_numbers(self, value: object) -> None:
        with pytest.raises(PlanError, match=r"is not of type tuple\[int, int, int, int\] \| None"):
            clouds.plan(backbone={"name": "dinov2-large", "layers": value}, head="linear")

    def test_a_convnext_of_clip_has_no_such_option(self) -> None:
        with pytest.raises(PlanError, match="unknown option 'layers'"):
            clouds.plan(backbone={"name": "clip-convnext-base", "layers": [0, 1, 2, 3]}, head="linear")

    def test_a_patterned_name_is_checked_before_weights_are_read(self) -> None:
        options = VitOptions(layers=(0, 1, 2, 99))
        with pytest.raises(ConfigError, match=r"timm model 'test_vit': layers=\[0, 1, 2, 99\] names a block that does"):
            build_timm("test_vit", pretrained=True, options=options)

    def test_a_model_with_a_pyramid_of_its_own_takes_no_layers(self) -> None:
        with pytest.raises(
            ConfigError, match=r"layers=\[0, 1, 2, 3\] needs a plain ViT; the model has a pyramid of its"
        ):
            build_timm("resnet18", pretrained=False, options=VitOptions(layers=(0, 1, 2, 3)))


class TestEarlierPlans:
    def test_a_vit_of_format_2_keeps_its_last_block(self) -> None:
        document = json.loads(clouds.plan(backbone="dinov2-large", head="linear").to_json())
        del document["parts"][0]["options"]["pyramid"], document["parts"][0]["options"]["layers"]
        plan = Plan.from_json(json.dumps({**document, "format": 2}))
        assert plan.parts["backbone"].options["pyramid"] == "last"

    def test_other_backbones_stay(self) -> None:
        document = json.loads(clouds.plan(backbone="tiny", head="linear").to_json())
        assert "pyramid" not in Plan.from_json(json.dumps({**document, "format": 2})).parts["backbone"].options


class TestLastBlocks:
    """`trainable="last2"` trains two blocks and the final norm, and nothing else ever changes."""

    @staticmethod
    def build() -> clouds.Backbone:
        part = {"name": "timm:test_vit", "trainable": "last2", "pretrained": False}
        return clouds.compose(backbone=part, head="linear", device="cpu").backbone

    def test_the_last_blocks_and_the_norm_are_trained(self) -> None:
        backbone = self.build()
        vit = backbone.trunk.vit
        trained = {id(one) for part in (*vit.blocks[-2:], vit.norm) for one in part.parameters()}
        assert {id(one) for one in backbone.parameters() if one.requires_grad} == trained
        assert not backbone.frozen

    def test_training_mode_reaches_them_alone(self) -> None:
        backbone = self.build().train()
        vit = backbone.trunk.vit
        assert [block.training for block in vit.blocks] == [False] * (len(vit.blocks) - 2) + [True, True]
        assert not any(part.training for part in backbone.eval().modules())

    def test_the_teacher_shares_the_rest(self) -> None:
        torch.manual_seed(0)
        part = {"name": "timm:test_vit", "trainable": "last2", "pretrained": False}
        pipeline = clouds.compose(backbone=part, head="linear", device="cpu")
        before = {name: one.clone() for name, one in pipeline.backbone.named_parameters()}
        teacher = Teacher(pipeline, decay=0.5)
        pairs = list(zip(teacher.backbone.parameters(), pipeline.backbone.parameters(), strict=True))
        assert [mine is one for mine, one in pairs] == [not one.requires_grad for _, one in pairs]
        with torch.no_grad():
            for one in pipeline.backbone.parameters():
                one.add_(one.requires_grad * 1.0)
        teacher.update()
        for (name, mine), (_, one) in zip(
            teacher.backbone.named_parameters(), pipeline.backbone.named_parameters(), strict=True
        ):
            wanted = before[name] + 0.5 if one.requires_grad else before[name]
            torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-6)  # rounding of one sum near 1

    def test_more_blocks_than_there_are_is_a_problem_of_the_plan(self) -> None:
        with pytest.raises(ConfigError, match=r"trainable='last20' asks for more blocks than there are; the model has"):
            build_timm("test_vit", pretrained=True, options=VitOptions(trainable="last20"))

    def test_an_unknown_word_is_a_problem_of_the_plan(self) -> None:
        with pytest.raises(PlanError, match="option trainable='first4' is not of type"):
            clouds.plan(backbone={"name": "dinov2-large", "trainable": "first4"}, head="linear")

    def test_a_model_that_is_no_plain_vit_has_no_last_blocks(self) -> None:
        with pytest.raises(PlanError, match="clip-rn50: trainable='last4' needs a plain ViT"):
            clouds.plan(backbone={"name": "clip-rn50", "trainable": "last4"}, head="linear")
