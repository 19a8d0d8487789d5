"""A small SAM 2 of transformers' own classes, saved and loaded, answers as transformers' processor and model do."""

import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import clouds
import pytest
import torch
from clouds.testing import check_component, check_refiner
from transformers import (
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2ImageProcessor,
    Sam2MaskDecoderConfig,
    Sam2Model,
    Sam2Processor,
    Sam2PromptEncoderConfig,
    Sam2VisionConfig,
)

from clouds_sam2 import sam2
from clouds_sam2.segmenter import Sam2Segmenter, build_segmenter

SIDE = 128


def small_config() -> Sam2Config:
    trunk = Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[SIDE, SIDE],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[4, 4, 4, 4],
        global_attention_blocks=[3],
    )
    vision = Sam2VisionConfig(
        backbone_config=trunk,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[SIDE // stride] * 2 for stride in (4, 8, 16)],
        fpn_hidden_size=32,
    )
    decoder = Sam2MaskDecoderConfig(hidden_size=32, mlp_dim=64, num_attention_heads=2, iou_head_hidden_dim=32)
    prompts = Sam2PromptEncoderConfig(hidden_size=32, image_size=SIDE)
    return Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam2")
    Sam2Model(small_config()).save_pretrained(path)
    pictures = Sam2ImageProcessor(size={"height": SIDE, "width": SIDE})
    Sam2Processor(pictures, target_size=SIDE).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def segmenter(folder: Path) -> Sam2Segmenter:
    return build_segmenter(str(folder), pretrained=True)


@pytest.mark.parametrize("refinement", [False, True])
def test_contract(folder: Path, refinement: bool) -> None:
    check_refiner(sam2(model=str(folder), size_threshold=20, refinement=refinement))


def test_declaration() -> None:
    check_component(clouds.catalog().find("refiner", "sam2"))


def test_options_are_its_own_and_those_of_sam() -> None:
    ours = inspect.signature(sam2).parameters
    sam = inspect.signature(clouds.catalog().find("refiner", "sam-vit-h").load_factory()).parameters
    shared = [parameter for name, parameter in sam.items() if name not in ("model", "pretrained")]
    assert len(shared) == 12
    assert list(ours) == ["model", "pretrained", *(parameter.name for parameter in shared)]
    assert [ours[parameter.name] for parameter in shared] == shared


@pytest.mark.parametrize("size", [(48, 64), (100, 37)])
def test_answers_are_transformers_own(segmenter: Sam2Segmenter, size: tuple[int, int]) -> None:
    """Prompt by prompt. Orders of summation differ between batches: 1e-4 is a thousand roundings of float32."""
    random = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=random)
    points = torch.rand(3, 2, 2, generator=random) * torch.tensor(size[::-1])
    with torch.no_grad():
        embedding = segmenter.encode(image)
        masks, quality = segmenter.decode(embedding, points, size)
        best = masks[:, :1] * 1e4  # beyond the bound
        again, _ = segmenter.decode(embedding, points, size, best)
        assert (masks.shape, quality.shape) == ((3, 3, SIDE // 4, SIDE // 4), (3, 3))
        for index, prompt in enumerate(points):
            inputs = segmenter.processor(images=image, input_points=[[prompt.tolist()]], return_tensors="pt")
            expected = segmenter.model(**inputs)
            torch.testing.assert_close(masks[index], expected.pred_masks[0, 0], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(quality[index], expected.iou_scores[0, 0], rtol=1e-4, atol=1e-4)
            given = best[index : index + 1].clamp(-32, 32)
            second = segmenter.model(**inputs, input_masks=given)
            torch.testing.assert_close(again[index], second.pred_masks[0, 0], rtol=1e-4, atol=1e-4)
            full = segmenter.processor.post_process_masks(expected.pred_masks, inputs["original_sizes"], binarize=False)
            assert torch.equal(segmenter.upscale(expected.pred_masks[0], size), full[0])


def test_embeddings_come_back_from_the_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refiner = sam2(model=str(folder), cache=tmp_path)
    image = torch.zeros(3, 40, 50, dtype=torch.uint8)
    (first,) = refiner.prepare([image])

    def fail(image: torch.Tensor) -> None:
        raise AssertionError("the encoder ran")

    monkeypatch.setattr(refiner.segmenter, "encode", fail)
    (second,) = refiner.prepare([image])
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in ("level0", "level1", "level2"))


def test_a_folder_of_offline_weights_is_found(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, segmenter: Sam2Segmenter
) -> None:
    (tmp_path / "facebook").mkdir()
    (tmp_path / "facebook" / "sam2.1-hiera-large").symlink_to(folder)
    monkeypatch.setenv("CLOUDS_WEIGHTS", str(tmp_path))
    found = build_segmenter("facebook/sam2.1-hiera-large", pretrained=True).model.state_dict()
    assert all(torch.equal(value, found[key]) for key, value in segmenter.model.state_dict().items())


def test_a_model_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(clouds.WeightsError, match=r"SAM 2 could not be loaded from .*model=FOLDER"):
        sam2(model=str(tmp_path))


def test_a_file_that_was_cut_off_is_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(clouds.WeightsError, match=r"SAM 2 could not be loaded from .*SafetensorError"):
        build_segmenter(str(tmp_path / "cut"), pretrained=True)


def test_a_model_with_missing_keys_is_refused(folder: Path, tmp_path: Path) -> None:
    model = Sam2Model.from_pretrained(folder)
    weights = {key: value for key, value in model.state_dict().items() if "no_memory" not in key}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(clouds.WeightsError, match="not a complete SAM 2; missing keys: no_memory_embedding"):
        sam2(model=str(tmp_path))


def test_its_weights_are_listed_and_found(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "facebook").mkdir()
    (tmp_path / "facebook" / "sam2.1-hiera-large").symlink_to(folder)
    monkeypatch.setenv("CLOUDS_WEIGHTS", str(tmp_path))
    command = [str(Path(sys.executable).with_name("clouds")), "weights", "list", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    listed = {entry["name"]: entry for entry in json.loads(done.stdout)}
    assert listed["sam2"]["source"] == "hub: facebook/sam2.1-hiera-large"
    assert {Path(file).name for file in listed["sam2"]["files"]} >= {"config.json", "model.safetensors"}
