"""One function per built-in generator, with its published settings. Light to import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from clouds.core.weights.catalog import CONTROLNET_SEG, DIFFUSION

if TYPE_CHECKING:
    from clouds.core.contract.interfaces import Generator
    from clouds.generators.conditions import Condition
    from clouds.generators.diffusion_source import FolderSource, TinySource

Family = Literal["stable-diffusion-2", "sdxl"]
Dtype = Literal["float32", "bfloat16", "float16"]
Scheduler = Literal["euler", "euler-ancestral", "ddim", "dpm-solver", "own"]
Memory = Literal[
    "attention_slicing",
    "vae_slicing",
    "vae_tiling",
    "model_cpu_offload",
    "sequential_cpu_offload",
    "xformers_memory_efficient_attention",
]


def diffusion(
    *,
    family: Family,
    model: str | None = None,
    revision: str | None = None,
    pretrained: bool = True,
    steps: int = 50,
    guidance: float = 7.5,
    scheduler: Scheduler = "euler",
    dtype: Dtype | None = None,
    memory: tuple[Memory, ...] = (),
    compile: bool = False,
    safety_checker: bool = False,
) -> Generator:
    """A text-to-image pipeline of diffusers, with the settings of CLOUDS (CVPR 2024): 50 Euler steps, guidance 7.5.

    Args:
        family: published model.
        model: replaces the published model: a hub id, or a `save_pretrained` folder; weights as safetensors.
        revision: commit, branch or tag of the hub.
        pretrained: False uses small random weights of the same classes, for tests.
        steps: sampling steps.
        guidance: classifier-free guidance scale.
        scheduler: "own" keeps the pipeline's.
        dtype: None means float16 on CUDA and float32 elsewhere.
        memory: names of diffusers' `enable_*` options that save memory.
        compile: compile the denoiser with `torch.compile`; the first images take minutes longer.
        safety_checker: keep the pipeline's safety checker, which replaces indecent images by black.
    """
    source = _source(model or DIFFUSION[family].repo, revision, family, pretrained, safety_checker)
    return _generator(
        source,
        None,
        steps=steps,
        guidance=guidance,
        scheduler=scheduler,
        dtype=dtype,
        memory=memory,
        compile=compile,
    )


def img2img(
    *,
    family: Family = "sdxl",
    model: str | None = None,
    revision: str | None = None,
    strength: float = 0.5,
    pretrained: bool = True,
    steps: int = 50,
    guidance: float = 7.5,
    scheduler: Scheduler = "euler",
    dtype: Dtype | None = None,
    memory: tuple[Memory, ...] = (),
    compile: bool = False,
    safety_checker: bool = False,
) -> Generator:
    """Labelled images changed as prompts say, by an image-to-image pipeline of diffusers; they keep their labels.

    Args:
        family, model, revision, pretrained: see `diffusion`; a model that diffusers has an image-to-image pipeline for.
        strength: how much of an image is changed, above 0 to 1: the share of the steps that are made.
        steps, guidance, scheduler, dtype, memory, compile, safety_checker: see `diffusion`.
    """
    from clouds.generators.conditions import ImageToImage

    source = _source(model or DIFFUSION[family].repo, revision, family, pretrained, safety_checker)
    return _generator(
        source,
        ImageToImage(strength),
        steps=steps,
        guidance=guidance,
        scheduler=scheduler,
        dtype=dtype,
        memory=memory,
        compile=compile,
    )


def controlnet_seg(
    *,
    model: str = DIFFUSION["stable-diffusion-1.5"].repo,
    revision: str | None = None,
    control: str = CONTROLNET_SEG.repo,
    control_revision: str | None = None,
    classes: Literal["ade20k-150", "coco-stuff", "cityscapes"] = "ade20k-150",
    scale: float = 1.0,
    pretrained: bool = True,
    steps: int = 50,
    guidance: float = 7.5,
    scheduler: Scheduler = "euler",
    dtype: Dtype | None = None,
    memory: tuple[Memory, ...] = (),
    compile: bool = False,
    safety_checker: bool = False,
) -> Generator:
    """New images for the label maps of labelled images, by a ControlNet for segmentation; they inherit the labels.

    Args:
        model, revision, pretrained: see `diffusion`; Stable Diffusion 1.5, 2.1 or XL.
        control: the ControlNet of this model: a hub id, or a `save_pretrained` folder; weights as safetensors.
        control_revision: its commit, branch or tag of the hub.
        classes: label space whose colours the ControlNet was trained with.
        scale: factor of the ControlNet's outputs.
        steps, guidance, scheduler, dtype, memory, compile, safety_checker: see `diffusion`.
    """
    from clouds.core.contract.labels import LabelSpace
    from clouds.generators.conditions import SegmentationControl
    from clouds.generators.diffusion_source import FolderSource, TinyControl, find_control

    source = _source(model, revision, "stable-diffusion-2", pretrained, safety_checker)
    found = TinyControl()
    if isinstance(source, FolderSource):
        found = find_control(control, revision=control_revision, base=source)
    return _generator(
        source,
        SegmentationControl(found, LabelSpace.named(classes), scale),
        steps=steps,
        guidance=guidance,
        scheduler=scheduler,
        dtype=dtype,
        memory=memory,
        compile=compile,
    )


def _source(
    model: str, revision: str | None, tiny: Family, pretrained: bool, safety_checker: bool
) -> FolderSource | TinySource:
    """The source of a pipeline; without `pretrained`, a small one of the classes of the family `tiny`."""
    from clouds.generators.diffusion_source import TinySource, find_source

    return find_source(model, revision=revision, safety_checker=safety_checker) if pretrained else TinySource(tiny)


def _generator(
    source: FolderSource | TinySource, condition: Condition | None, *, dtype: Dtype | None, **options: Any
) -> Generator:
    import torch

    from clouds.generators.diffusion import DiffusionGenerator

    precision = getattr(torch, dtype) if dtype else None
    return DiffusionGenerator(source, condition=condition, dtype=precision, **options)


def procedural() -> Generator:
    """Draws street scenes: time of day, weather, place and objects follow the prompt, the rest is random by seed."""
    from clouds.generators.procedural import ProceduralGenerator

    return ProceduralGenerator()


def photographs(*, pictures: str) -> Generator:
    """Crops of photographs without labels: content from the world, where others generate it. It reads no prompts.

    Args:
        pictures: folder (not recursive), or glob pattern, of the photographs.
    """
    from clouds.generators.photographs import Photographs

    return Photographs(pictures)
