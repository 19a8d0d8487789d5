"""The built-in generators for the catalog."""

from __future__ import annotations

from clouds.core.contract.component import Component, Kind
from clouds.core.contract.hookspecs import hookimpl
from clouds.core.weights.catalog import CONTROLNET_SEG, DIFFUSION


@hookimpl
def clouds_generators() -> list[Component]:
    procedural = Component(
        name="procedural",
        kind=Kind.GENERATOR,
        factory="clouds.generators.presets:procedural",
        summary="draws street scenes from prompts, with exact labels; no weights",
        source="clouds",
        licence="Apache-2.0",
    )
    photographs = Component(
        name="photographs",
        kind=Kind.GENERATOR,
        factory="clouds.generators.presets:photographs",
        summary="crops of your own photographs without labels, with pictures=FOLDER; no weights",
        source="clouds",
        licence="Apache-2.0",
    )
    return [
        _diffusion(
            "stable-diffusion-2",
            "Stable Diffusion 2 (the paper)",
            "Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, CVPR 2022",
        ),
        _diffusion("sdxl", "Stable Diffusion XL", "Podell et al., SDXL: Improving Latent Diffusion Models, ICLR 2024"),
        _controlnet_seg(),
        _img2img(),
        procedural,
        photographs,
    ]


def _diffusion(name: str, title: str, paper: str) -> Component:
    weights = DIFFUSION[name]
    return Component(
        name=name,
        kind=Kind.GENERATOR,
        factory="clouds.generators.presets:diffusion",
        summary=f"{title}, or any text-to-image pipeline of diffusers with model=",
        source=f"{paper}; hub: {weights.repo}",
        licence=weights.licence,
        options={"family": name},
    )


def _controlnet_seg() -> Component:
    base = DIFFUSION["stable-diffusion-1.5"]
    return Component(
        name="controlnet-seg",
        kind=Kind.GENERATOR,
        factory="clouds.generators.presets:controlnet_seg",
        summary="new images for the label maps of a labelled dataset, by ControlNet, with model= and control=",
        source=f"Zhang et al., Adding Conditional Control to Text-to-Image Diffusion Models, ICCV 2023; hub: "
        f"{CONTROLNET_SEG.repo} on {base.repo}",
        licence=base.licence,
    )


def _img2img() -> Component:
    weights = DIFFUSION["sdxl"]
    return Component(
        name="img2img",
        kind=Kind.GENERATOR,
        factory="clouds.generators.presets:img2img",
        summary="the images of a labelled dataset, changed as prompts say; any text-to-image model with model=",
        source="Meng et al., SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations, ICLR "
        f"2022; hub: {weights.repo}",
        licence=weights.licence,
    )
