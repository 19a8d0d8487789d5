"""One function per built-in generator, with its published settings. Light to import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from clouds.core.weights.catalog import DIFFUSION

if TYPE_CHECKING:
    from clouds.core.contract.interfaces import Generator


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
    family: Literal["stable-diffusion-2", "sdxl"],
    model: str | None = None,
    revision: str | None = None,
    pretrained: bool = True,
    steps: int = 50,
    guidance: float = 7.5,
    scheduler: Scheduler = "euler",
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
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
    import torch

    from clouds.generators.diffusion import DiffusionGenerator
    from clouds.generators.diffusion_source import TinySource, find_source

    name = model or DIFFUSION[family].repo
    source = find_source(name, revision=revision, safety_checker=safety_checker) if pretrained else TinySource(family)
    return DiffusionGenerator(
        source,
        steps=steps,
        guidance=guidance,
        scheduler=scheduler,
        dtype=getattr(torch, dtype) if dtype else None,
        memory=memory,
        compile=compile,
    )


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
