from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

import clouds
from clouds.core.pipeline.build import build_part
from clouds.core.system.errors import ConfigError
from clouds.testing.head import random_features
from clouds.training.teacher import Teacher

SPECS = {f"res{i + 2}": clouds.FeatureSpec(channels=8 << i, stride=4 << i) for i in range(4)}
TINY = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
SMALL = {"name": "fpn", "pyramid_width": 16, "width": 32}


def _reference(weights: dict[str, Tensor], levels: dict[str, Tensor]) -> Tensor:
    """Section 3.1 and figure 3 of the paper, level by level."""
    added, total = None, 0
    for level, blocks in (("res5", 3), ("res4", 2), ("res3", 1), ("res2", 0)):
        x = functional.conv2d(levels[level], weights[f"laterals.{level}.weight"], weights[f"laterals.{level}.bias"])
        added = x if added is None else x + added.repeat_interleave(2, -1).repeat_interleave(2, -2)
        x = functional.conv2d(added, weights[f"outputs.{level}.weight"], weights[f"outputs.{level}.bias"], padding=1)
        for block in range(max(blocks, 1)):
            name = f"decoders.{level}.{block * 2}"
            x = functional.conv2d(x, weights[f"{name}.weight"], padding=1)
            x = functional.group_norm(x, 32, weights[f"{name}.norm.weight"], weights[f"{name}.norm.bias"]).relu()
            x = functional.interpolate(x, scale_factor=2, mode="bilinear") if blocks else x
        total = total + x
    return functional.conv2d(total, weights["classify.weight"], weights["classify.bias"])


def test_logits_are_those_of_the_paper() -> None:
    head = build_part("head", SMALL, features=SPECS)
    features = random_features(SPECS, batch=2, height=64, width=96)
    # the same float32 operations in the same order
    torch.testing.assert_close(head.logits(features), _reference(head.state_dict(), features.levels()))


def test_sizes_are_those_of_the_paper() -> None:
    head = build_part("head", "fpn", features=SPECS)
    assert head.laterals["res5"].weight.shape == (256, 64, 1, 1)
    assert head.classify.weight.shape == (19, 128, 1, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pyramid_width": 0}, r"head fpn: pyramid_width is 0; expected at least 1"),
        ({"width": 48}, r"head fpn: width is 48; expected a multiple of 32, for group norm"),
        ({"width": 0}, r"head fpn: width is 0; expected a multiple of 32"),
    ],
)
def test_widths_that_do_not_fit_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_part("head", {"name": "fpn", **options}, features=SPECS)


@pytest.mark.parametrize("backbone", ["tiny", "clip-rn50", "timm:vit_tiny_patch16_224", "timm:convnext_atto"])
def test_it_fits_every_kind_of_backbone(backbone: str, tmp_path: Path) -> None:
    pipeline = clouds.compose(backbone=backbone, head=SMALL, pretrained=False, device="cpu")
    pipeline.trained = True
    image = np.random.default_rng(0).integers(0, 256, (50, 90, 3), np.uint8)
    prediction = pipeline.predict(image)
    assert (prediction.scores().argmax(0) == prediction.labels).all()
    pipeline.save(tmp_path / "saved")
    assert (clouds.load(tmp_path / "saved", device="cpu").predict(image).scores() == prediction.scores()).all()
    in_windows = pipeline.predict(image, window=64)
    assert in_windows.labels.shape == image.shape[:2]
    label_maps = Teacher(pipeline, decay=0.9).label_maps([torch.from_numpy(image).permute(2, 0, 1)])
    assert (label_maps[0].numpy() == prediction.labels).all()
