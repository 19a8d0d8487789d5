"""Key tables of the published implementation: what they are taken for, and full-size round trips."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import read_json
from torch import Tensor

import clouds
from clouds.cli.app import main
from clouds.core.published.keys import HEAD, find_backbone, find_classes, find_head
from clouds.core.system.errors import WeightsError

Table = dict[str, tuple[list[int], str]]
PREDICTOR = "sem_seg_head.predictor."
PUBLISHED_SIZES = {
    "queries": 100,
    "width": 256,
    "layers": 9,
    "feedforward": 2048,
    "encoder_layers": 6,
    "encoder_feedforward": 1024,
    "encoder_points": 4,
    "project_inputs": False,
}


def table_of(name: str) -> Table:
    """Shape and type by key, in the published order."""
    return {key: (shape, dtype) for key, (shape, dtype) in read_json(f"keys_{name}").items()}


def variant(head: str) -> Table:
    """The RN50 table with the predictor of another published head; the order is that of set 5."""
    table = table_of("warmup_rn50")
    if head == "mask2former":
        return table
    order = read_json("05_decoders")[
        {"mask2former-text": "state_dict_clouds", "mask2former-pooled": "state_dict_bis"}[head]
    ]
    own = {f"{PREDICTOR}{key}" for key in order if not re.search(r"_layers\.\d", key)}
    shapes = {key: (shape, "float32") for key, shape in read_json("keys_variant_rn50_textdecoder_predictor").items()}
    known = {**shapes, **table}
    layers = [key for key in table if key.startswith(f"{PREDICTOR}transformer_")]
    first = [f"{PREDICTOR}logit_scale"] if "logit_scale" in order else []
    rest = [f"{PREDICTOR}{key}" for key in order if f"{PREDICTOR}{key}" in own and key != "logit_scale"]
    head_keys = [key for key in table if key.startswith(HEAD) and not key.startswith(PREDICTOR)]
    before = [key for key in table if key.startswith("backbone.")]
    return {key: known[key] for key in [*before, *head_keys, *first, *layers, *rest, *list(table)[-2:]]}


def shapes_of(table: Table) -> dict[str, tuple[int, ...]]:
    return {key: tuple(shape) for key, (shape, _) in table.items()}


def make_state(table: Table) -> dict[str, Tensor]:
    """Bits that depend on the key alone."""
    state: dict[str, Tensor] = {}
    for key, (shape, dtype) in table.items():
        seeded = torch.Generator().manual_seed(zlib.crc32(key.encode()))
        whole = dtype == "int64"
        state[key] = torch.randint(99, shape, generator=seeded) if whole else torch.rand(shape, generator=seeded)
    return state


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Equal keys, order, types and bits."""
    assert list(actual) == list(expected)
    for key, tensor in expected.items():
        assert actual[key].dtype == tensor.dtype, key
        assert torch.equal(actual[key], tensor), key


@pytest.mark.parametrize(
    ("name", "family", "backbone"),
    [
        ("warmup_rn50", "ResNet", "clip-rn50"),
        ("warmup_rn101", "ResNet", "clip-rn101"),
        ("warmup_convnext_large_d_320", "ConvNeXt", "clip-convnext-large-d-320"),
        ("joint_convnext_large_d_320_overwriting_True", "ConvNeXt", "clip-convnext-large-d-320"),
        ("joint_convnext_large_d_320_overwriting_False", "ConvNeXt", "clip-convnext-large-d-320"),
    ],
)
def test_every_table_is_recognised(name: str, family: str, backbone: str) -> None:
    shapes = shapes_of(table_of(name))
    assert find_backbone(shapes, source=name) == (family, backbone)
    assert find_head(shapes, source=name) == ("mask2former", PUBLISHED_SIZES)
    assert find_classes(shapes) == 19


@pytest.mark.parametrize("head", ["mask2former-text", "mask2former-pooled"])
def test_the_other_decoders_are_recognised_and_come_back(head: str) -> None:
    table = variant(head)
    assert find_head(shapes_of(table), source=head) == (head, PUBLISHED_SIZES)
    state = make_state(table)
    pipeline = clouds.from_reference_checkpoint(state, device="cpu")
    assert ("void_embedding.weight" in pipeline.kept) == (head == "mask2former-pooled")
    assert_same(pipeline.to_reference_state_dict(), state)


# ConvNeXt-L (1.4 GB) with teacher and SAM beside it holds every key of the warm-up checkpoint, too.
@pytest.mark.parametrize("name", ["warmup_rn101", "joint_convnext_large_d_320_overwriting_False"])
def test_every_bit_comes_back(name: str) -> None:
    state = make_state(table_of(name))
    pipeline = clouds.from_reference_checkpoint({"model": state}, device="cpu")
    assert_same(pipeline.to_reference_state_dict(), state)


@pytest.mark.parametrize(
    "name", ["warmup_rn50", pytest.param("joint_convnext_large_d_320_overwriting_False", marks=pytest.mark.slow)]
)
def test_every_bit_survives_conversion_of_a_file(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = make_state(table_of(name))
    torch.save({"model": state, "iteration": 40_000}, tmp_path / "model.pth")
    assert main(["convert", str(tmp_path / "model.pth"), str(tmp_path / "out")]) == 0
    assert "head: mask2former(queries=100, width=256," in capsys.readouterr().out
    assert_same(clouds.load(tmp_path / "out", device="cpu").to_reference_state_dict(), state)


def test_every_fault_of_a_full_size_checkpoint_is_named() -> None:
    state: dict[str, Any] = make_state(table_of("warmup_rn50"))
    del state["backbone.clip_model.visual.layer3.2.bn1.running_mean"]
    state["sem_seg_head.pixel_decoder.layer_1.weight"] = torch.zeros(256, 256, 1, 1)
    state["sem_seg_head.predictor.more.weight"] = torch.zeros(1)
    message = (
        "does not fit it: 1 missing keys: backbone.clip_model.visual.layer3.2.bn1.running_mean; "
        "1 keys that no parameter has: sem_seg_head.predictor.more.weight; 1 wrong shapes: "
        "sem_seg_head.pixel_decoder.layer_1.weight is (256, 256, 1, 1), expected (256, 256, 3, 3)"
    )
    with pytest.raises(WeightsError, match=re.escape(message)):
        clouds.from_reference_checkpoint(state, device="cpu")


def test_a_composed_pipeline_has_the_published_keys() -> None:
    pipeline = clouds.compose(backbone="clip-rn50", head="mask2former", pretrained=False, device="cpu")
    shapes = {key: tuple(value.shape) for key, value in pipeline.to_reference_state_dict().items()}
    expected = shapes_of(table_of("warmup_rn50"))
    assert list(shapes.items()) == list(expected.items())
