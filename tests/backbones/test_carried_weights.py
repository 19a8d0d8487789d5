"""Backbones whose weights lie in the folder that `CLOUDS_WEIGHTS` names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from backbone_helpers import clip_model, published
from safetensors.torch import save_file

from clouds.core.pipeline.build import build_part

__all__ = ["published"]  # the fixture


@pytest.fixture(autouse=True)
def _carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDS_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.usefixtures("published")
def test_of_open_clip(tmp_path: Path) -> None:
    state = clip_model("resnet").state_dict()
    (tmp_path / "nobody" / "nothing").mkdir(parents=True)
    save_file(state, tmp_path / "nobody" / "nothing" / "open_clip_model.safetensors")
    backbone: Any = build_part("backbone", "clip:RN-test/none", pretrained=True)
    assert all(torch.equal(backbone.clip_model.state_dict()[key], value) for key, value in state.items())


def test_of_timm(tmp_path: Path) -> None:
    whole = timm.create_model("resnet18")
    (tmp_path / "timm" / "resnet18.a1_in1k").mkdir(parents=True)
    save_file(whole.state_dict(), tmp_path / "timm" / "resnet18.a1_in1k" / "model.safetensors")
    backbone: Any = build_part("backbone", "timm:resnet18.a1_in1k", pretrained=True)
    assert backbone.trunk.state_dict()["layer4.0.conv1.weight"].equal(whole.state_dict()["layer4.0.conv1.weight"])
