"""Which maps become levels, how they are made exact, and what is said of models and weights that do not fit."""

import re
from pathlib import Path

import clouds
import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from clouds_torchvision import torchvision


@pytest.mark.slow  # a minute: every model is built
@pytest.mark.parametrize("model", models.list_models(module=models))
def test_every_model_has_a_pyramid_or_a_reason(model: str) -> None:
    with torch.device("cpu" if model.startswith("regnet") else "meta"):  # RegNet computes its widths in tensors
        if model.startswith(("vit", "maxvit")):
            with pytest.raises(clouds.ConfigError, match=f"torchvision's {model}: .* supports only one image size"):
                torchvision(model=model, pretrained=False)
            return
        backbone = torchvision(model=model, pretrained=False).to("meta")
    for height, width in ((32, 32), (96, 160)):
        levels = backbone(torch.zeros(1, 3, height, width, device="meta")).levels()
        for level, spec in backbone.features.items():
            assert levels[level].shape == (1, spec.channels, height // spec.stride, width // spec.stride)


def test_maps_are_those_of_the_model(tmp_path: Path) -> None:
    net = models.resnet18(weights=None).eval()
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    backbone = torchvision(model="resnet18", pretrained=tmp_path / "net.safetensors")
    image = torch.rand(1, 3, 64, 96) * 255
    levels = backbone(image)
    x = net.maxpool(net.relu(net.bn1(net.conv1(backbone.normalize(image)))))
    for level, stage in (("res2", net.layer1), ("res3", net.layer2), ("res4", net.layer3), ("res5", net.layer4)):
        x = stage(x)
        assert torch.equal(getattr(levels, level), x)


def test_maps_that_fall_short_are_resized_and_a_missing_level_is_pooled() -> None:
    levels = torchvision(model="squeezenet1_0", pretrained=False)(torch.rand(1, 3, 96, 160) * 255).levels()
    assert [tuple(level.shape[-2:]) for level in levels.values()] == [(24, 40), (12, 20), (6, 10), (3, 5)]
    assert levels["res5"].shape[1] == levels["res4"].shape[1] == 512


def test_images_that_are_too_small_are_padded_with_the_mean() -> None:
    """AlexNet's poolings leave nothing of 32 pixels; of 64 there is something, and half of it counts."""
    backbone = torchvision(model="alexnet", pretrained=False)
    assert backbone.smallest == 64
    image = torch.rand(1, 3, 32, 96) * 255
    padded = backbone.mean.expand(1, 3, 64, 96).clone()
    padded[:, :, :32] = image
    large = backbone(padded).levels()
    for name, level in backbone(image).levels().items():
        assert torch.equal(level, large[name][:, :, : 32 // backbone.features[name].stride])


def test_unit_rms_bounds_every_pixel() -> None:
    image = torch.rand(1, 3, 64, 64) * 255
    plain = torchvision(model="resnet18", pretrained=False, std=(1, 1, 1))(image).levels()
    scaled = torchvision(model="resnet18", pretrained=False, std=(1, 1, 1), unit_rms=True)(image).levels()
    assert max(float(level.square().mean(1).max()) for level in scaled.values()) <= 1
    assert max(float(level.square().mean(1).max()) for level in plain.values()) > 1


def test_normalisation_is_that_of_the_weights() -> None:
    backbone = torchvision(model="resnet18", pretrained=False, mean=(1, 2, 3), std=(4, 5, 6))
    assert backbone.mean.flatten().tolist() == [1, 2, 3]
    assert backbone.std.flatten().tolist() == [4, 5, 6]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_come_from_a_file(tmp_path: Path, suffix: str) -> None:
    net = models.resnet18(weights=None)
    path = tmp_path / f"net{suffix}"
    save_file(net.state_dict(), path) if suffix == ".safetensors" else torch.save(net.state_dict(), path)
    backbone = torchvision(model="resnet18", pretrained=path)
    assert torch.equal(backbone.trunk.layer4.get_submodule("0").conv1.weight, net.layer4[0].conv1.weight)


def test_files_as_torchvision_published_them_fit(tmp_path: Path) -> None:
    """DenseNet's have other names, and the oldest files no counters of batches."""
    net = models.densenet121(weights=None)
    path = tmp_path / "net.pth"
    names = {key: re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key) for key in net.state_dict()}
    torch.save({names[k]: v for k, v in net.state_dict().items() if "num_batches" not in k}, path)
    assert "features.denseblock1.denselayer1.norm.1.weight" in names.values()
    backbone = torchvision(model="densenet121", pretrained=path)
    layer = backbone.trunk.get_submodule("features.denseblock4.denselayer16")
    assert torch.equal(layer.conv2.weight, net.features.denseblock4.denselayer16.conv2.weight)


def test_a_file_without_the_versions_of_its_classes_fits(tmp_path: Path) -> None:
    net = models.mnasnet0_5(weights=None)  # it loads nothing without
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    backbone = torchvision(model="mnasnet0_5", pretrained=tmp_path / "net.safetensors")
    assert torch.equal(backbone.trunk.get_submodule("layers.0").weight, net.layers[0].weight)


def test_a_model_that_rescales_its_images_does_so_with_whatever_weights(tmp_path: Path) -> None:
    """Inception's weights are for images in -1..1, also when they come from a file or into a model built without."""
    net = models.GoogLeNet(init_weights=False, transform_input=True).eval()
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    backbone = torchvision(model="googlenet", pretrained=tmp_path / "net.safetensors")
    found: list[torch.Tensor] = []
    net.inception5b.register_forward_hook(lambda _, inputs, output: found.append(output))
    image = torch.rand(1, 3, 64, 96) * 255
    net(backbone.normalize(image))
    assert torch.equal(backbone(image).res5, found[0])
    again = torchvision(model="googlenet", pretrained=False)
    again.load_state_dict(backbone.state_dict())
    assert torch.equal(again(image).res5, found[0])


def test_a_file_that_does_not_fit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file({"conv": torch.zeros(1)}, path)
    with pytest.raises(
        clouds.WeightsError, match=r"net\.safetensors does not fit ResNet: .* missing keys: conv1\.weight"
    ):
        torchvision(model="resnet18", pretrained=path)
    with pytest.raises(clouds.WeightsError, match=r"none\.pth: no such weight file"):
        torchvision(model="resnet18", pretrained=tmp_path / "none.pth")


def test_default_weights_that_cannot_be_had_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(clouds.WeightsError, match=r"resnet18 could not be loaded .*no route to host.*pretrained=FILE"):
        torchvision(model="resnet18", pretrained=True)


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(clouds.ConfigError, match="no classification model 'resnet5'; did you mean 'resnet50'"):
        torchvision(model="resnet5", pretrained=False)
    with pytest.raises(clouds.ConfigError, match="no classification model 'fcn_resnet50'"):
        torchvision(model="fcn_resnet50", pretrained=False)


def test_a_model_of_one_size_is_refused() -> None:
    with pytest.raises(clouds.ConfigError, match=r"vit_b_16: VisionTransformer supports only one .* timm: name"):
        torchvision(model="vit_b_16", pretrained=False)


@pytest.mark.filterwarnings("ignore:the head LinearHead has not been trained")
def test_it_trains_in_a_pipeline_and_comes_back_from_a_folder(tmp_path: Path) -> None:
    pipeline = clouds.compose(
        backbone={"name": "torchvision:resnet18", "pretrained": False, "trainable": True}, head="linear", device="cpu"
    )
    assert all(parameter.requires_grad for parameter in pipeline.backbone.parameters())
    pipeline.save(tmp_path / "saved")
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    again = clouds.load(tmp_path / "saved", device="cpu")
    assert (again.predict(image).scores() == pipeline.predict(image).scores()).all()


def test_names_of_other_kinds_and_families_are_left_to_others() -> None:
    catalog = clouds.catalog()
    assert catalog.find("backbone", "torchvision:resnet50").options == {"model": "resnet50"}
    for kind, name in (("head", "torchvision:resnet50"), ("backbone", "torchvision:"), ("backbone", "vision:resnet50")):
        with pytest.raises(clouds.UnknownComponentError, match="unknown"):
            catalog.find(kind, name)
