"""`clouds.as_backbone`: which maps of a ready module become levels, and what is said of modules that do not fit."""

import copy
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torchvision import models

import clouds
from clouds.backbones.ready import find_levels

STAGES = {
    "resnet18": ["layer1", "layer2", "layer3", "layer4"],
    "convnext_tiny": ["features.1", "features.3", "features.5", "features.7"],
    "swin_t": ["features.1", "features.3", "features.5", "permute"],
    "regnet_y_400mf": [f"trunk_output.block{i}" for i in range(1, 5)],
    "squeezenet1_0": ["features.5", "features.10", "features.12"],  # it ends at stride 16
}


@pytest.mark.parametrize("model", STAGES)
def test_levels_are_the_last_stages_at_their_strides(model: str) -> None:
    found = find_levels(models.get_model(model, weights=None).to("meta").eval())
    assert [stage.node for stage in found.values()] == STAGES[model]


@pytest.mark.filterwarnings("ignore:the head LinearHead has not been trained")
def test_a_torchvision_model_makes_a_pipeline_that_is_saved_and_loaded(tmp_path: Path) -> None:
    net = models.resnet18(weights=None)
    pipeline = clouds.compose(backbone=clouds.as_backbone(net), head="linear", labels=["road", "sky"], device="cpu")
    assert pipeline.get_parameter("backbone.trunk.conv1.weight") is net.conv1.weight
    pipeline.save(tmp_path / "saved")
    with pytest.raises(clouds.ConfigError, match=r"the backbone was a ready module .*ready=\{'backbone': module\}"):
        clouds.load(tmp_path / "saved", device="cpu")
    ready = {"backbone": clouds.as_backbone(models.resnet18(weights=None))}
    again = clouds.load(tmp_path / "saved", device="cpu", ready=ready)
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    np.testing.assert_array_equal(again.predict(image).scores(), pipeline.predict(image).scores())


@pytest.mark.parametrize(
    ("arguments", "names"),
    [({}, ["layer1", "layer2", "layer3", "layer4"]), ({"features_only": True}, [1, 2, 3, 4])],
    ids=["classifier", "features_only"],
)
def test_a_timm_model_gives_its_own_maps(arguments: dict[str, bool], names: list[str | int]) -> None:
    net = timm.create_model("resnet18", **arguments).eval()
    maps = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3, 4)).eval()
    maps.load_state_dict({key: value for key, value in net.state_dict().items() if not key.startswith("fc.")})
    assert [stage.node for stage in find_levels(copy.deepcopy(net).to("meta")).values()] == names
    backbone = clouds.as_backbone(net).freeze()
    image = torch.rand(1, 3, 64, 96) * 255
    for level, expected in zip(backbone(image).levels().values(), maps(backbone.normalize(image)), strict=True):
        assert torch.equal(level, expected)


def test_normalisation_is_imagenets_or_the_callers() -> None:
    net = timm.create_model("convnext_atto")
    assert clouds.as_backbone(net).mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
    assert clouds.as_backbone(net, mean=(0, 0, 0), std=(255, 255, 255)).std.flatten().tolist() == [255, 255, 255]


@pytest.mark.usefixtures("unchecked_types")
def test_a_name_is_no_module() -> None:
    with pytest.raises(clouds.ConfigError, match=r'expected a torch module, got a str; .*backbone="timm:NAME"'):
        clouds.as_backbone("resnet18")  # pyright: ignore[reportArgumentType]


def test_channels_other_than_three_are_named() -> None:
    with pytest.raises(clouds.ConfigError, match=r"ResNet takes images of 4 channels; .* in_channels=3 \(timm: in_ch"):
        clouds.as_backbone(timm.create_model("resnet18", in_chans=4))
    with pytest.raises(clouds.ConfigError, match=r"Grey: mean has 1 and std 1 values; .*in_channels must be 3"):
        Grey()
    with pytest.raises(clouds.PlanError, match="unknown option 'in_channels'"):
        clouds.compose(backbone={"name": "timm:resnet18", "in_channels": 4}, head="linear")


class Grey(clouds.Backbone):
    """A backbone for images of one channel."""

    def __init__(self) -> None:
        specs = {f"res{i}": clouds.FeatureSpec(channels=8, stride=2**i) for i in range(2, 6)}
        super().__init__(features=specs, mean=(128,), std=(1,))

    def forward(self, images: torch.Tensor) -> clouds.Features:
        raise NotImplementedError


def test_modules_of_one_size_and_without_strides_are_refused() -> None:
    with pytest.raises(clouds.ConfigError, match=r"VisionTransformer supports only one image size .* timm: name"):
        clouds.as_backbone(models.vit_b_16(weights=None))
    flat = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Flatten())
    with pytest.raises(clouds.ConfigError, match=r"Sequential has maps at strides \[2\], none at \[4, 8, 16\]"):
        clouds.as_backbone(flat)


def test_a_module_that_is_no_backbone_is_answered_with_the_way() -> None:
    with pytest.raises(clouds.PlanError, match=r"or a Backbone; got ResNet -> clouds\.as_backbone\(module\)"):
        clouds.compose(backbone=timm.create_model("resnet18"), head="linear")
