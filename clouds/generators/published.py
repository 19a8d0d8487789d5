"""Published text-to-image models, by the names of the built-in generators. Imports nothing heavy."""

from __future__ import annotations

from attrs import frozen


@frozen(kw_only=True)
class PublishedModel:
    """Where a model lies, and under which terms."""

    model: str
    summary: str
    source: str
    licence: str


DIFFUSION_MODELS = {
    "stable-diffusion-2": PublishedModel(
        model="stabilityai/stable-diffusion-2",
        summary="Stable Diffusion 2 (the paper), or any text-to-image pipeline of diffusers with model=",
        source="Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, CVPR 2022; "
        "hub: stabilityai/stable-diffusion-2",
        licence="CreativeML Open RAIL++-M",
    ),
    "sdxl": PublishedModel(
        model="stabilityai/stable-diffusion-xl-base-1.0",
        summary="Stable Diffusion XL, or any text-to-image pipeline of diffusers with model=",
        source="Podell et al., SDXL: Improving Latent Diffusion Models, ICLR 2024; "
        "hub: stabilityai/stable-diffusion-xl-base-1.0",
        licence="CreativeML Open RAIL++-M",
    ),
}
