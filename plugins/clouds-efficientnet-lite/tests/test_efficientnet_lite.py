"""The package's weights reach the right layers."""

import os
from pathlib import Path

import clouds
import pytest
import torch
from safetensors.torch import load_file

from clouds_efficientnet_lite import backbone as module
from clouds_efficientnet_lite import efficientnet_lite2

DATA = os.environ.get("CLOUDS_DATA")


def test_levels_have_the_declared_sizes_and_the_trunk_is_frozen() -> None:
    backbone = efficientnet_lite2()
    levels = backbone(torch.rand(1, 3, 64, 96) * 255).levels()
    assert {name: tuple(level.shape) for name, level in levels.items()} == {
        "res2": (1, 24, 16, 24),
        "res3": (1, 48, 8, 12),
        "res4": (1, 120, 4, 6),
        "res5": (1, 352, 2, 3),
    }
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert all(parameter.requires_grad for parameter in efficientnet_lite2(trainable=True).parameters())


@pytest.mark.skipif(not DATA, reason="CLOUDS_DATA does not name the folder of real test data")
def test_every_weight_equals_a_conversion_by_another_hand() -> None:
    """The file beside the test data has timm's names; only the layers behind the features are missing here."""
    expected = load_file(Path(DATA or "").parent / "weights" / "efficientnet_lite2_imagenet.safetensors")
    found = efficientnet_lite2().trunk.state_dict()
    assert {key.partition(".")[0] for key in expected.keys() - found.keys()} == {"conv_head", "bn2", "classifier"}
    assert found.keys() <= expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in found.items())


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "files", lambda package: tmp_path)
    with pytest.raises(clouds.WeightsError, match=r"efficientnet-lite2-9656183e\.pth: no such weight file"):
        efficientnet_lite2()


def test_it_comes_back_from_a_folder_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = clouds.compose(backbone="efficientnet-lite2", head="linear", device="cpu")
    pipeline.trained = True
    pipeline.save(tmp_path / "saved")
    monkeypatch.setattr(module, "files", lambda package: tmp_path)
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    again = clouds.load(tmp_path / "saved", device="cpu")
    assert (again.predict(image).scores() == pipeline.predict(image).scores()).all()
