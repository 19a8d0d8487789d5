"""The built-in backbones, as the catalog sees them."""

from __future__ import annotations

from clouds.core.component import Component, Kind
from clouds.core.hookspecs import hookimpl

_PYRAMID = ("res2", "res3", "res4", "res5")


@hookimpl
def clouds_backbones() -> list[Component]:
    return [
        Component(
            name="tiny",
            kind=Kind.BACKBONE,
            factory="clouds.backbones.presets:tiny",
            summary="small ConvNeXt with a small text tower; random weights, no download",
            source="Liu et al., A ConvNet for the 2020s, CVPR 2022 (shrunk)",
            licence="Apache-2.0 (no published weights)",
            provides=(*_PYRAMID, "text-encoder", "mask-pooler"),
        )
    ]


@hookimpl
def clouds_resolve(kind: Kind, name: str) -> Component | None:
    family, _, model = name.partition(":")
    if kind != Kind.BACKBONE or family != "timm" or not model:
        return None
    return Component(
        name=name,
        kind=Kind.BACKBONE,
        factory="clouds.backbones.presets:timm_pyramid",
        summary=f"timm's {model}, features at strides 4 to 32",
        source=f"timm: {model}",
        licence="see the model card",
        provides=_PYRAMID,
        options={"model": model},
    )
