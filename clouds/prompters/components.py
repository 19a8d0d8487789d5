"""The built-in prompters for the catalog."""

from __future__ import annotations

from clouds.core.contract.component import Component, Kind
from clouds.core.contract.hookspecs import hookimpl


@hookimpl
def clouds_prompters() -> list[Component]:
    return [
        Component(
            name="grammar",
            kind=Kind.PROMPTER,
            factory="clouds.prompters.presets:grammar",
            summary="street-scene sentences from a small grammar: place, objects, time of day, weather",
            source="clouds; the sentence form follows CLOUDS (CVPR 2024), section 3.1",
        ),
        Component(
            name="file",
            kind=Kind.PROMPTER,
            factory="clouds.prompters.presets:file",
            summary="one prompt per line of a text file",
            source="clouds",
            reaches="a text file",
        ),
        Component(
            name="llm",
            kind=Kind.PROMPTER,
            factory="clouds.prompters.presets:llm",
            summary="captions of street scenes by a language model: model= (transformers, GGUF), or a server with url=",
            source="Benigmim et al., CLOUDS, CVPR 2024, section 3.1",
            licence="the model's",
            reaches="a language model or its server",
            credentials="key_variable",
        ),
    ]
