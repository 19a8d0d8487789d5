"""A pipeline is used like any other torch module."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import clouds

TINY = {"name": "tiny", "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
LINEAR = {"name": "linear", "width": 16}


def composed(**options: object) -> clouds.Pipeline:
    return clouds.compose(**{"backbone": TINY, "head": LINEAR, "device": "cpu", **options})


def random_images(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=random) for size in sizes]


def test_a_call_is_the_forward_pass_on_images_of_any_size() -> None:
    pipeline = composed().eval()
    images = random_images((33, 64), (20, 70))
    output = pipeline(images)
    assert output.mask_logits.shape == (2, 19, 16, 24)
    batch = torch.stack(random_images((64, 96), (64, 96)))
    assert torch.equal(pipeline(batch).mask_logits, pipeline(list(batch)).mask_logits)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.filterwarnings("ignore:the head LinearHead has not been trained")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_images_that_predict_refuses_are_refused(dtype: torch.dtype) -> None:
    pipeline = composed()
    images = [image.to(dtype) for image in random_images((32, 32))]
    name = str(dtype).removeprefix("torch.")
    wanted = rf"expected a non-empty uint8 tensor of shape 3 x h x w, got {name} of shape \(3, 32, 32\)"
    with pytest.raises(clouds.DataError, match=f"image 0: {wanted}"):
        pipeline(images)
    with pytest.raises(clouds.DataError, match=f"image 0: {wanted}"):
        pipeline(torch.stack(images))
    with pytest.raises(clouds.DataError, match=wanted):
        pipeline.predict(images[0])


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.filterwarnings("ignore:the head LinearHead has not been trained")
def test_what_is_no_tensor_is_named() -> None:
    pipeline = composed()
    with pytest.raises(clouds.DataError, match=r"image 0: expected a uint8 tensor .*, got a ndarray; predict\(image\)"):
        pipeline([np.zeros((32, 32, 3), np.uint8)])  # pyright: ignore[reportArgumentType]
    with pytest.raises(clouds.DataError, match="images: expected at least one image, got none"):
        pipeline([])


def test_names_begin_with_the_part(tmp_path: Path) -> None:
    pipeline = composed(backbone="tiny", adapter="lora")
    assert {name.partition(".")[0] for name in pipeline.state_dict()} == {"backbone", "head", "adapter"}
    assert list(dict(pipeline.named_children())) == ["backbone", "head", "adapter"]
    trained = {name for name, one in pipeline.named_parameters() if one.requires_grad}
    assert {name.partition(".")[0] for name in trained} == {"head", "adapter"}
    other = composed(backbone="tiny", adapter="lora")
    assert not all(map(torch.equal, other.state_dict().values(), pipeline.state_dict().values()))
    other.load_state_dict(pipeline.state_dict())
    (image,) = random_images((40, 50))
    assert torch.equal(other.eval()([image]).mask_logits, pipeline.eval()([image]).mask_logits)


def test_train_and_eval_leave_what_is_frozen() -> None:
    pipeline = composed()
    assert pipeline.train() is pipeline
    assert pipeline.head.training
    assert not pipeline.backbone.training
    assert not pipeline.eval().head.training


def test_a_loaded_pipeline_is_in_eval_mode(tmp_path: Path) -> None:
    composed().save(tmp_path / "saved")
    loaded = clouds.load(tmp_path / "saved", device="cpu")
    assert not any(module.training for module in loaded.modules())


def test_a_part_that_is_replaced_is_the_child() -> None:
    pipeline, head = composed(), composed().head
    pipeline.head = head
    assert pipeline.head is head
    assert dict(pipeline.named_children())["head"] is head
    with pytest.raises(AttributeError, match="adapter"):
        pipeline.adapter = nn.Identity()


def test_a_copy_with_other_labels_has_parts_of_its_own() -> None:
    pipeline = composed(head={"name": "mask2former-text", "queries": 5, "width": 64, "layers": 1})
    other = pipeline.with_labels(["deer", "road"])
    assert other.labels.names == ("deer", "road")
    assert other.backbone is pipeline.backbone
    other.backbone = composed().backbone
    assert dict(pipeline.named_children())["backbone"] is pipeline.backbone is not other.backbone


@pytest.mark.filterwarnings("ignore:the head")
def test_to_moves_every_part() -> None:
    pipeline = composed(refiner="regions", head={"name": "mask2former-text", "queries": 5, "width": 64, "layers": 1})
    assert pipeline.classifier is not None
    moved = pipeline.to("meta")
    assert moved is pipeline
    assert pipeline.device.type == "meta"
    assert {one.device.type for one in [*pipeline.parameters(), *pipeline.buffers()]} == {"meta"}
    assert pipeline.classifier.embeddings.device.type == "meta"


@pytest.mark.parametrize("convert", [nn.Module.half, nn.Module.double, lambda one: one.to(torch.bfloat16)])
def test_weights_stay_float32(convert: object) -> None:
    pipeline = composed()
    with pytest.raises(clouds.ConfigError, match=r"weights of a pipeline stay float32, not \w+; .*load\(path, dtype"):
        convert(pipeline)
    assert {one.dtype for one in pipeline.parameters()} == {torch.float32}


@pytest.mark.filterwarnings("ignore::clouds.SlowDtypeWarning")
def test_load_chooses_the_precision(tmp_path: Path) -> None:
    composed(dtype="bfloat16").save(tmp_path / "saved")
    load = clouds.load
    assert load(tmp_path / "saved", device="cpu").plan.dtype == "bfloat16"
    assert load(tmp_path / "saved", device="cpu", dtype="float32").plan.dtype is None
    reduced = load(tmp_path / "saved", device="cpu", dtype=torch.bfloat16)
    assert reduced(random_images((32, 32))).mask_logits.dtype == torch.bfloat16
    with pytest.raises(clouds.PlanError, match="dtype: unknown dtype 'bfloat61'; did you mean 'bfloat16'"):
        load(tmp_path / "saved", dtype="bfloat61")


def test_print_shows_plan_sizes_and_what_is_trained() -> None:
    pipeline = composed(labels=["road", "sky"])
    text = str(pipeline)
    assert text.startswith("Pipeline on cpu, not trained\nlabels: custom (2 classes)\nbackbone: tiny(")
    backbone, head = (sum(one.numel() for one in part.parameters()) for part in (pipeline.backbone, pipeline.head))
    megabytes = 4 * (backbone + head) / 1e6
    assert text.splitlines()[-3:] == [
        f"weights, backbone: {backbone:,} parameters, 0 trainable, {4 * backbone / 1e6:.1f} MB",
        f"weights, head: {head:,} parameters, {head:,} trainable, {4 * head / 1e6:.1f} MB",
        f"weights, in all: {backbone + head:,} parameters, {head:,} trainable, {megabytes:.1f} MB",
    ]


def test_a_pipeline_is_part_of_a_module_and_can_be_copied() -> None:
    outer = nn.ModuleDict({"model": composed()})
    assert "model.head.classify.weight" in dict(outer.named_parameters())
    twin = copy.deepcopy(outer["model"])
    twin.head.classify.weight.data += 1
    assert not torch.equal(twin.head.classify.weight, outer["model"].head.classify.weight)
    assert twin.segmenter.head is twin.head


@pytest.mark.parametrize("labels", [["road", "sky"], 2, {"names": ["road", "sky"]}, "classes.toml"])
def test_classes_of_ones_own(labels: object, tmp_path: Path) -> None:
    (tmp_path / "classes.toml").write_text('names = ["road", "sky"]\n', encoding="utf-8")
    pipeline = composed(labels=tmp_path / labels if isinstance(labels, str) else labels)
    assert len(pipeline.labels) == 2
    assert pipeline(random_images((32, 32))).mask_logits.shape[1] == 2


def test_a_list_with_a_class_twice_is_named() -> None:
    with pytest.raises(clouds.PlanError, match="labels: label space 'custom' names classes twice: road -> classes of"):
        composed(labels=["road", "sky", "road"])
    text = composed(head={"name": "mask2former-text", "queries": 5, "width": 64, "layers": 1})
    with pytest.raises(clouds.ConfigError, match="label space 'custom' names classes twice: road"):
        text.with_labels(["road", "sky", "road"])
