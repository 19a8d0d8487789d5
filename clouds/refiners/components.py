"""The built-in refiners, as the catalog sees them."""

from __future__ import annotations

from clouds.core.component import Component, Kind
from clouds.core.hookspecs import hookimpl


@hookimpl
def clouds_refiners() -> list[Component]:
    return [
        Component(
            name="regions",
            kind=Kind.REFINER,
            factory="clouds.refiners.presets:regions",
            summary="colour regions of the image vote over the label map; no weights",
            source="clouds; regions after Achanta et al., SLIC Superpixels, PAMI 2012",
        ),
        Component(
            name="identity",
            kind=Kind.REFINER,
            factory="clouds.refiners.presets:identity",
            summary="keeps the teacher's label map as it is",
            source="clouds",
        ),
    ]
