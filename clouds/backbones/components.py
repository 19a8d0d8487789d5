"""Catalog entries of the built-in backbones."""

from __future__ import annotations

from typing import get_args

from clouds.backbones.published import CLIP_MODELS, TIMM_MODELS, ClipName
from clouds.backbones.vit_options import LastBlocks, Layers, Pyramid, VitOptions
from clouds.core.contract.component import BUILT_IN, Component, Kind
from clouds.core.contract.hookspecs import hookimpl
from clouds.core.contract.plan import Plan, Problem
from clouds.core.system.values import accepts
from clouds.core.weights.catalog import WEIGHTS

_PYRAMID = ("res2", "res3", "res4", "res5")
_CLIP = "clouds.backbones.presets:clip"
_TIMM = "clouds.backbones.presets:timm"
_EVERYTHING = (*_PYRAMID, "text-encoder", "mask-pooler")
_STORED = {"tokenizer": "stored"}  # loading a plan file must not contact the hub
_OF_VITS = {"pyramid": Pyramid, "layers": Layers | None, "grad_checkpointing": bool, "drop_path_rate": float}
_NO_VIT = {"pyramid": "layers", "layers": None, "grad_checkpointing": False, "drop_path_rate": 0.0}  # fixed for others
_VITS = ("vit_", "eva", "deit", "flexivit", "test_vit", "test_eva")  # timm's names
_CONVNEXTS = ("convnext", "test_convnext")
_WITH_TEXT = {"text": ("text-encoder",)}


@hookimpl
def clouds_backbones() -> list[Component]:
    tiny = Component(
        name="tiny",
        kind=Kind.BACKBONE,
        factory="clouds.backbones.presets:tiny",
        summary="small ConvNeXt with a small text tower; random weights, no download",
        source="Liu et al., A ConvNet for the 2020s, CVPR 2022 (shrunk)",
        licence="Apache-2.0 (no published weights)",
        provides=(*_EVERYTHING, "blocks"),
    )
    return [*(_clip(name) for name in CLIP_MODELS), *(_timm(name) for name in TIMM_MODELS), tiny]


def _clip(name: str) -> Component:
    """Component of a CLIP model; only those whose tokenizer is not part of open_clip have a tokenizer option."""
    published = CLIP_MODELS[name]
    own_tokenizer = name in get_args(ClipName)
    return Component(
        name=name,
        kind=Kind.BACKBONE,
        factory=_CLIP,
        summary=published.summary,
        source=published.source,
        licence=WEIGHTS[name].licence,
        provides=_clip_provides(published.model),
        options={
            "model": published.model,
            "weights": published.weights,
            **({"tokenizer": "hub"} if own_tokenizer else {}),
            **({} if published.depth else _NO_VIT),
        },
        without_weights={} if own_tokenizer else {"tokenizer": "bytes"},
        without_consent={} if own_tokenizer else _STORED,
    )


def _timm(name: str) -> Component:
    published = TIMM_MODELS[name]
    return Component(
        name=name,
        kind=Kind.BACKBONE,
        factory=_TIMM,
        summary=published.summary,
        source=published.source,
        licence=WEIGHTS[name].licence,
        provides=_timm_provides(published.model),
        provides_with=_WITH_TEXT,
        options={"model": published.model},
    )


def _clip_provides(architecture: str) -> tuple[str, ...]:
    """All but ModifiedResNets (`RN50`, ...) have blocks; those of ViTs map tokens."""
    if architecture.startswith("RN"):
        return _EVERYTHING
    return (*_EVERYTHING, "blocks") if "convnext" in architecture else (*_EVERYTHING, "blocks", "tokens")


def _timm_provides(model: str) -> tuple[str, ...]:
    if model.startswith(_VITS):
        return (*_PYRAMID, "blocks", "tokens")
    return (*_PYRAMID, "blocks") if model.startswith(_CONVNEXTS) else _PYRAMID


@hookimpl
def clouds_resolve(kind: Kind, name: str) -> Component | None:
    family, _, model = name.partition(":")
    if kind != Kind.BACKBONE or not model:
        return None
    if family == "timm":
        return Component(
            name=name,
            kind=Kind.BACKBONE,
            factory=_TIMM,
            summary=f"timm's {model}: a feature pyramid, or a plain ViT",
            source=f"timm: {model}",
            licence="see the model card",
            provides=_timm_provides(model),
            provides_with=_WITH_TEXT,
            options={"model": model},
        )
    architecture, _, weights = model.partition("/")
    if family == "clip" and weights:
        return Component(
            name=name,
            kind=Kind.BACKBONE,
            factory=_CLIP,
            summary=f"open_clip's {architecture} with the weights {weights}",
            source=f"open_clip: {model}",
            licence="see the model card",
            provides=_clip_provides(architecture),
            options={"model": architecture, "weights": weights},
            without_weights={"tokenizer": "bytes"},  # some models' tokenizers come from the hub
            without_consent=_STORED,
        )
    return None


@hookimpl
def clouds_check_plan(plan: Plan) -> list[Problem]:
    """Check the options of plain ViTs; the depth of patterned names is known only when they are built."""
    part = plan.parts.get(Kind.BACKBONE)
    if part is None or part.distribution != BUILT_IN:
        return []
    kinds = {**_OF_VITS, "trainable": bool | LastBlocks}
    given = {name: part.options[name] for name in kinds if name in part.options}
    if not all(accepts(kinds[name], value) for name, value in given.items()):
        return []  # the schema has found this
    published = CLIP_MODELS.get(part.name) or TIMM_MODELS.get(part.name)
    options = VitOptions(**given)
    faults = options.faults(published.depth if published else None)
    adapter = plan.parts.get(Kind.ADAPTER)
    if options.grad_checkpointing and not options.trainable and (adapter is None or adapter.name == "none"):
        faults.append(
            "grad_checkpointing=True needs something to train in the backbone, which is frozen and has no adapter; set "
            "trainable, add an adapter, or leave it out"
        )
    return [Problem(part.kind, f"{part.name}: {fault}") for fault in faults]


@hookimpl
def clouds_install_command(kind: Kind, name: str) -> str | None:
    """Backbones that come from packages that are developed in `plugins/`."""
    if kind == Kind.BACKBONE and name.partition(":")[0] == "torchvision":
        return "pip install plugins/clouds-torchvision"
    if kind == Kind.BACKBONE and name == "efficientnet-lite2":
        return "pip install plugins/clouds-efficientnet-lite"
    return None
