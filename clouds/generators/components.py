"""The built-in generators and prompters, as the catalog sees them."""

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
    return [
        _diffusion(
            "stable-diffusion-2",
            "Stable Diffusion 2 (the paper)",
            "Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, CVPR 2022",
        ),
        _diffusion("sdxl", "Stable Diffusion XL", "Podell et al., SDXL: Improving Latent Diffusion Models, ICLR 2024"),
        procedural,
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


@hookimpl
def clouds_prompters() -> list[Component]:
    return [
        Component(
            name="grammar",
            kind=Kind.PROMPTER,
            factory="clouds.generators.presets:grammar",
            summary="street-scene sentences from a small grammar: place, objects, time of day, weather",
            source="clouds; the sentence form follows CLOUDS (CVPR 2024), section 3.1",
        ),
        Component(
            name="file",
            kind=Kind.PROMPTER,
            factory="clouds.generators.presets:file",
            summary="one prompt per line of a text file",
            source="clouds",
            reaches="a text file",
        ),
        Component(
            name="llm",
            kind=Kind.PROMPTER,
            factory="clouds.generators.presets:llm",
            summary="captions of street scenes by a language model: model= (transformers), or a server with url=",
            source="Benigmim et al., CLOUDS, CVPR 2024, section 3.1",
            licence="the model's",
            reaches="a language model or its server",
            credentials="key_variable",
        ),
    ]
