"""Catalog entries of the built-in refiners."""

from __future__ import annotations

from clouds.core.contract.component import Component, Kind
from clouds.core.contract.hookspecs import hookimpl


@hookimpl
def clouds_refiners() -> list[Component]:
    return [
        *(_sam(size) for size in ("b", "l", "h")),
        Component(
            name="regions",
            kind=Kind.REFINER,
            factory="clouds.refiners.presets:regions",
            summary="colour regions of the image vote over the label map; no weights",
            source="clouds; regions after Achanta et al., SLIC Superpixels, PAMI 2012",
        ),
        Component(
            name="guided",
            kind=Kind.REFINER,
            factory="clouds.refiners.presets:guided",
            summary="a guided filter of each class's mask votes over the label map, rare classes with more weight",
            source="He et al., Guided Image Filtering, PAMI 2013; Menon et al., Logit Adjustment, ICLR 2021",
        ),
        Component(
            name="identity",
            kind=Kind.REFINER,
            factory="clouds.refiners.presets:identity",
            summary="keeps the teacher's label map as it is",
            source="clouds",
        ),
    ]


@hookimpl
def clouds_install_command(kind: Kind, name: str) -> str | None:
    """Refiners of packages that are developed in `plugins/`; the path is that in a copy of the sources."""
    if kind == Kind.REFINER and name in ("mobile-sam", "sam2"):
        return f"pip install plugins/clouds-{name}"
    return None


def _sam(size: str) -> Component:
    return Component(
        name=f"sam-vit-{size}",
        kind=Kind.REFINER,
        factory="clouds.refiners.presets:sam",
        summary=f"SAM ViT-{size.upper()} answers point prompts drawn from the label map's components",
        source="Kirillov et al., Segment Anything, ICCV 2023; Benigmim et al., CLOUDS, CVPR 2024",
        licence="Apache-2.0",
        options={"model": f"vit_{size}"},
    )
