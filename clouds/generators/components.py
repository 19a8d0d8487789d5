"""The built-in generators for the catalog."""

from __future__ import annotations

from clouds.core.contract.component import Component, Kind
from clouds.core.contract.hookspecs import hookimpl
from clouds.core.weights.catalog import DIFFUSION


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
