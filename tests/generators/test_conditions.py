"""Diffusion from labelled images: images inherit labels, and label maps are painted as the ControlNet knows them."""

from __future__ import annotations

import json
import shutil
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from diffusers import AutoPipelineForImage2Image, AutoPipelineForText2Image, FluxImg2ImgPipeline
from PIL import Image

import clouds
from clouds.core.contract.labels import CITYSCAPES, LabelSpace
from clouds.core.pipeline.build import build_part
from clouds.core.system.errors import ConfigError, WeightsError
from clouds.generators.class_colors import class_table
from clouds.generators.conditions import ImageToImage, SegmentationControl
from clouds.generators.diffusion_source import TinyControl
from clouds.generators.tiny_diffusion import tiny_control, tiny_pipeline
from clouds.testing import check_generator

SIZE = (32, 48)
ADE = LabelSpace.named("ade20k-150")
FAMILIES = ("stable-diffusion-2", "sdxl")


def source(*, seed: int = 0, size: tuple[int, int] = SIZE) -> clouds.LabelledImage:
    """Sky above a road, with a train and ignored pixels."""
    labels = np.full(size, CITYSCAPES.index("road"), np.uint8)
    labels[: size[0] // 2] = CITYSCAPES.index("sky")
    labels[:, :8], labels[:, 8:16] = CITYSCAPES.index("train"), 255
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    return clouds.LabelledImage(image=image, labels=labels, label_space=CITYSCAPES)


def request(seed: int, **changes: Any) -> clouds.GenerationRequest:
    asked = clouds.GenerationRequest(prompt="a photo of a road", seed=seed, size=SIZE, steps=4, source=source())
    return evolve(asked, **changes)


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Options of `controlnet-seg`: folders of a base and of its ControlNet."""
    folder = tmp_path_factory.mktemp("control")
    pipeline = tiny_pipeline(request.param)
    pipeline.save_pretrained(folder / "base")
    tiny_control(pipeline.unet).save_pretrained(folder / "control")
    return {"model": str(folder / "base"), "control": str(folder / "control")}


def test_a_controlnet_keeps_the_contract_and_draws_like_the_pipeline_itself(saved: dict[str, str]) -> None:
    generator = build_part("generator", {"name": "controlnet-seg", "scale": 0.8, **saved})
    check_generator(generator)
    (mine,) = generator.generate([request(3, guidance=5.0)])
    base = AutoPipelineForText2Image.from_pretrained(saved["model"])
    theirs = AutoPipelineForText2Image.from_pipe(base, controlnet=tiny_control(base.unet))(
        prompt=["a photo of a road"],
        image=[Image.fromarray(SegmentationControl(TinyControl(), ADE, 1.0).paint(source()))],
        controlnet_conditioning_scale=0.8,
        num_inference_steps=4,
        guidance_scale=5.0,
        generator=[torch.Generator().manual_seed(3)],
    ).images[0]
    # a sum in another order may round to a neighbouring level
    assert np.abs(mine.image.astype(int) - np.asarray(theirs).astype(int)).max() <= 1
    facts = generator.describe()["control"]
    assert (facts["model"], facts["classes"], facts["scale"]) == (saved["control"], "ade20k-150", 0.8)
    assert len(facts["weights"]) == 64


def test_img2img_keeps_the_contract_and_draws_like_the_pipeline_itself(saved: dict[str, str]) -> None:
    generator = build_part("generator", {"name": "img2img", "model": saved["model"], "strength": 0.75})
    check_generator(generator)
    (mine,) = generator.generate([request(3, guidance=5.0)])
    theirs = AutoPipelineForImage2Image.from_pretrained(saved["model"])(
        prompt=["a photo of a road"],
        image=[Image.fromarray(source().image)],
        strength=0.75,
        num_inference_steps=4,
        guidance_scale=5.0,
        generator=[torch.Generator().manual_seed(3)],
    ).images[0]
    assert np.abs(mine.image.astype(int) - np.asarray(theirs).astype(int)).max() <= 1
    assert mine.label_kind == "inherited"
    np.testing.assert_array_equal(mine.labels, source().labels)
    assert generator.describe()["strength"] == 0.75


def test_label_maps_are_painted_in_the_colours_of_ade20k() -> None:
    control = SegmentationControl(TinyControl(), ADE, 1.0)
    painted = control.paint(source())
    # Colours of the published palette: sky and road; black for trains, which ADE20K lacks, and for ignored pixels
    assert [tuple(painted[row, 20]) for row in (0, -1)] == [(6, 230, 230), (140, 140, 140)]
    assert not painted[:, :16].any()
    labels = control.labels(source())
    assert (labels[:, :16] == 255).all()
    np.testing.assert_array_equal(labels[:, 16:], source().labels[:, 16:])


def test_classes_are_matched_by_name_then_likeness_then_synonym() -> None:
    table = class_table(CITYSCAPES, ADE)
    found = {name: ADE.names[table[i]] for i, name in enumerate(CITYSCAPES.names) if table[i] != 255}
    assert found.keys() == {*CITYSCAPES.names} - {"train"}
    assert [found[name] for name in ("wall", "terrain", "rider", "traffic sign", "motorcycle", "vegetation")] == [
        *("wall", "grass", "person", "signboard", "minibike"),
        "tree",
    ]
    np.testing.assert_array_equal(class_table(CITYSCAPES, CITYSCAPES)[:20], [*range(19), 255])


def test_classes_that_the_controlnet_does_not_know_are_an_error() -> None:
    with pytest.raises(ConfigError, match="none of the classes lesion, nerve is known in 'ade20k-150'"):
        class_table(LabelSpace.from_names(["lesion", "nerve"]), ADE)


def test_a_controlnet_of_another_family_is_refused(tmp_path: Path) -> None:
    tiny_pipeline("stable-diffusion-2").save_pretrained(tmp_path / "base")
    tiny_control(tiny_pipeline("sdxl").unet).save_pretrained(tmp_path / "control")
    with pytest.raises(WeightsError, match=r"does not fit .*base: .* with cross_attention_dim 64, not 32; choose"):
        _build(tmp_path)


class TestDamagedControls:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        pipeline = tiny_pipeline("stable-diffusion-2")
        pipeline.save_pretrained(tmp_path / "base")
        tiny_control(pipeline.unet).save_pretrained(tmp_path / "control")
        return tmp_path

    def test_a_folder_without_configuration(self, folder: Path) -> None:
        (folder / "control" / "config.json").unlink()
        with pytest.raises(WeightsError, match=r"not a ControlNet, because it has no config\.json; .* control="):
            _build(folder)

    def test_another_kind_of_model(self, folder: Path) -> None:
        shutil.copy(folder / "base" / "unet" / "config.json", folder / "control" / "config.json")
        with pytest.raises(WeightsError, match="is a UNet2DConditionModel, no ControlNetModel"):
            _build(folder)

    def test_a_base_without_unet(self, folder: Path) -> None:
        (folder / "base" / "unet" / "config.json").unlink()
        with pytest.raises(WeightsError, match="has no U-Net, which ControlNets control"):
            _build(folder)

    def test_weights_that_are_no_safetensors(self, folder: Path) -> None:
        (folder / "control" / "diffusion_pytorch_model.safetensors").rename(folder / "control" / "weights.bin")
        with pytest.raises(WeightsError, match=r"control: has no \.safetensors"):
            _build(folder)

    def test_damaged_weights(self, folder: Path) -> None:
        weights = folder / "control" / "diffusion_pytorch_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(WeightsError, match="cannot be loaded as a ControlNet"):
            list(_build(folder).generate([request(1)]))

    def test_a_revision_of_a_folder(self, folder: Path) -> None:
        with pytest.raises(ConfigError, match="is a local folder, which has no revision 'main'"):
            _build(folder, control_revision="main")

    def test_a_configuration_without_class(self, folder: Path) -> None:
        (folder / "control" / "config.json").write_text(json.dumps({}), encoding="utf-8")
        with pytest.raises(WeightsError, match="not a configuration of diffusers, because it has no _class_name"):
            _build(folder)


def _build(folder: Path, **options: Any) -> clouds.Generator:
    places = {"model": str(folder / "base"), "control": str(folder / "control")}
    return build_part("generator", {"name": "controlnet-seg", **places, **options})


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"strength is 0\.0; expected more than 0 and at most 1"):
        ImageToImage(0.0)
    with pytest.raises(ConfigError, match=r"strength 0\.3 of 3 steps leaves no step; raise one of them"):
        ImageToImage(0.3).inputs([source()], 3)
    with pytest.raises(ConfigError, match=r"scale is 0\.0; expected more than 0"):
        SegmentationControl(TinyControl(), ADE, 0.0)


@pytest.mark.parametrize("name", ["img2img", "controlnet-seg"])
def test_a_request_without_labelled_image_is_refused(name: str) -> None:
    generator = build_part("generator", {"name": name}, pretrained=False)
    assert generator.reads_source
    with pytest.raises(ConfigError, match="starts from labelled images, and a request has no source; give one"):
        list(generator.generate([request(1, source=None)]))


def test_a_labelled_image_of_another_size_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"image \(8, 8\) and labels \(8, 8\) must have its size \(32, 48\)"):
        request(1, source=source(size=(8, 8)))


class Resizing:
    """An image-to-image pipeline that resizes images to a size of its own, unless it gets one, as that of FLUX."""

    def __call__(self, image: object, strength: float, height: int | None = None, width: int | None = None) -> None: ...


def test_a_pipeline_with_a_size_of_its_own_gets_that_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = signature(FluxImg2ImgPipeline.__call__).parameters
    assert {*signature(Resizing.__call__).parameters} <= {*parameters}
    monkeypatch.setattr(AutoPipelineForImage2Image, "from_pipe", lambda pipeline: pipeline)
    condition = ImageToImage(0.5)
    assert condition.attach(Resizing(), torch.float32) is not None
    found = condition.inputs([source()], steps=4)
    assert (found["height"], found["width"], found["strength"]) == (32, 48, 0.5)
    with pytest.raises(ConfigError, match="StableDiffusionXLPipeline takes no strength; choose a model with"):
        ImageToImage(0.5).attach(tiny_pipeline("sdxl"), torch.float32)  # text to image


def test_a_model_without_an_image_to_image_pipeline_is_named() -> None:
    with pytest.raises(ConfigError, match="diffusers has no image-to-image form of StableDiffusionLDM3DPipeline"):
        ImageToImage(0.5).attach(type("StableDiffusionLDM3DPipeline", (), {"config": {}})(), torch.float32)
