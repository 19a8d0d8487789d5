"""Catalog entries of the built-in adapters."""

from __future__ import annotations

from clouds.core.contract.component import Component, Kind
from clouds.core.contract.hookspecs import hookimpl


@hookimpl
def clouds_adapters() -> list[Component]:
    return [
        Component(
            name="rein",
            kind=Kind.ADAPTER,
            factory="clouds.adapters.presets:rein",
            summary="learnable tokens of low rank refine the features of every block and make the head's queries",
            source="Wei et al., Stronger, Fewer, & Superior (Rein), CVPR 2024, arXiv 2312.04265",
            needs="blocks",
            provides_with={"link": "queries"},
        ),
        Component(
            name="lora",
            kind=Kind.ADAPTER,
            factory="clouds.adapters.presets:lora",
            summary="low-rank updates of the linear layers, starting at zero",
            source="Hu et al., LoRA, ICLR 2022, arXiv 2106.09685",
            needs="blocks",
        ),
        Component(
            name="soma",
            kind=Kind.ADAPTER,
            factory="clouds.adapters.presets:soma",
            summary="the minor singular components of the linear layers; the first blocks stay frozen",
            source="Yun et al., SoMA, CVPR 2025, arXiv 2412.04077",
            needs="blocks",
        ),
        Component(
            name="none",
            kind=Kind.ADAPTER,
            factory="clouds.adapters.presets:none",
            summary="changes nothing: the frozen backbone, to compare with",
        ),
    ]
