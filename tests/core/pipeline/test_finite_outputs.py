"""Numbers that are not finite are named where they would become answers."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import clouds
from clouds.core.system.errors import NonFiniteError

HEADS = {
    "linear": {"name": "linear", "width": 8},
    "mask2former": {
        "name": "mask2former",
        "queries": 6,
        "width": 64,
        "layers": 1,
        "encoder_layers": 1,
        "points": 40,
    },
}


def compose(head: str) -> clouds.Pipeline:
    backbone = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    pipeline = clouds.compose(backbone=backbone, head=HEADS[head], device="cpu")
    pipeline.trained = True
    return pipeline


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 70, 3), np.uint8)).save(path)
    return path


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("head", HEADS)
def test_a_weight_that_is_not_finite_gives_no_label(head: str, value: float, image: Path) -> None:
    pipeline = compose(head)
    with torch.no_grad():
        for parameter in pipeline.head.parameters():
            parameter.flatten()[0] = value
    with pytest.raises(NonFiniteError, match=f"^{re.escape(str(image))}: the network's output .*: go back to earlier"):
        pipeline.predict(image)
    with pytest.raises(NonFiniteError, match=r"^image: the network's output is not finite"):
        list(pipeline.predict_many([np.asarray(Image.open(image))] * 2, batch_size=2))
    with pytest.raises(NonFiniteError, match="the network's output is not finite"):
        pipeline.predict(image, window=32)


def test_a_backbone_that_is_not_finite_gives_no_label(image: Path) -> None:
    pipeline = compose("linear")
    with torch.no_grad():
        next(pipeline.backbone.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="the network's output is not finite"):
        pipeline.predict(image)


def test_evaluation_measures_nothing_of_it(tmp_path: Path, image: Path) -> None:
    for folder, shape in (("images", (40, 70, 3)), ("labels", (40, 70))):
        (tmp_path / "set" / folder / "val").mkdir(parents=True)
        Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / "set" / folder / "val" / "a.png")
    pipeline = compose("linear")
    with torch.no_grad():
        pipeline.head.classify.weight[3, 2, 1, 1] = float("nan")
    with pytest.raises(NonFiniteError, match="the network's output is not finite"):
        clouds.evaluate(pipeline, [f"folder:{tmp_path / 'set'}:val"])


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    pipeline = compose("linear")
    pipeline.save(tmp_path / "ck")
    before = (tmp_path / "ck" / "head.safetensors").read_bytes()
    with torch.no_grad():
        pipeline.head.classify.weight[3, 2, 1, 1] = float("nan")
    with pytest.raises(NonFiniteError, match=r"head\.safetensors: classify\.weight of LinearHead are not finite"):
        pipeline.save(tmp_path / "ck")
    assert (tmp_path / "ck" / "head.safetensors").read_bytes() == before
