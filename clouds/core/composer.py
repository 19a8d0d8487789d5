"""From a plan to a pipeline."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from attrs import evolve
from torch import nn

from clouds.core.catalog import Catalog
from clouds.core.checkpoint import MARKER, Published, read_checkpoint
from clouds.core.component import FeatureSpec, Kind
from clouds.core.cpu import warn_of_slow_dtype
from clouds.core.errors import CloudsError, ComponentError, ConfigError, PlanError
from clouds.core.interfaces import INTERFACES, Backbone, TextEncoder
from clouds.core.label_table import LabelsLike
from clouds.core.labels import CITYSCAPES, LabelSpace
from clouds.core.pipeline import Pipeline
from clouds.core.plan import Part, Plan, Problem, make_plan, plan_part
from clouds.core.schema import read_schema

_TRAINING_ONLY = (Kind.GENERATOR, Kind.REFINER, Kind.PROMPTER)


def compose(
    *,
    backbone: object,
    head: object,
    generator: object = None,
    refiner: object = None,
    prompter: object = None,
    labels: LabelsLike = "cityscapes",
    pretrained: bool = True,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    catalog: Catalog | None = None,
) -> Pipeline:
    """Assemble a pipeline from components.

    Args:
        backbone, head, generator, refiner, prompter: a name of the catalog, `{"name": ..., **options}`, or a ready
            module. Generator, refiner and prompter are optional.
        labels: a built-in label space or any `LabelSpace`; also class names, a table, or a TOML file that holds one,
            see `clouds.core.label_table`.
        pretrained: load published weights; False gives random ones and downloads nothing.
        device: `"auto"` takes CUDA, then Apple's GPU, then the CPU.
        dtype: autocast type of the forward pass, or None for float32.
        catalog: where names are looked up; None takes built-ins and installed plugins.

    Raises:
        PlanError: with every fault at once, before anything heavy is imported or built.

    Warns:
        SlowDtypeWarning: the CPU has no instructions for `dtype`.
    """
    catalog = catalog or Catalog.from_environment()
    asked = {"backbone": backbone, "generator": generator, "refiner": refiner, "head": head, "prompter": prompter}
    plan = make_plan(**asked, labels=labels, pretrained=pretrained, device=device, dtype=dtype, catalog=catalog)
    ready = {Kind(kind): module for kind, module in asked.items() if module is not None}
    place = pick_device(plan.device)
    warn_of_slow_dtype(plan.dtype, place, remedy="leave dtype out, or at None")
    parts = _build(plan, list(plan.parts), ready, catalog)
    return Pipeline(
        plan=plan,
        backbone=parts[Kind.BACKBONE],
        head=parts[Kind.HEAD],
        device=place,
        helpers={kind: parts[kind] for kind in _TRAINING_ONLY if kind in parts},
    )


def load(
    path: str | Path,
    *,
    device: str | torch.device = "auto",
    catalog: Catalog | None = None,
    ready: Mapping[str, object] | None = None,
) -> Pipeline:
    """Load a pipeline that `Pipeline.save` wrote.

    Weights come from the folder alone, unless it was saved with `include_frozen=False`. Generator, refiner and
    prompter, which only make training data, are built from the plan when they are first asked for.

    Args:
        path: the folder.
        device: see `compose`.
        catalog: see `compose`.
        ready: modules by kind, for parts that were ready modules when the pipeline was composed.

    Raises:
        WeightsError: a file is missing, damaged, or does not fit the plan.
        PlanError: a component of the plan is not installed.
    """
    found = catalog or Catalog.from_environment()
    modules = {Kind(kind): module for kind, module in (ready or {}).items()}
    checkpoint = read_checkpoint(path)
    plan = checkpoint.plan
    for kind, part in plan.parts.items():
        if part.ready and kind not in modules and kind not in _TRAINING_ONLY:
            raise ConfigError(
                f"{Path(path) / MARKER}: the {kind} was a ready module ({part.ready}); "
                f"pass it again: clouds.load(path, ready={{{kind.value!r}: module}})"
            )
    parts = _build(_without_downloads(plan, checkpoint.published), [Kind.BACKBONE, Kind.HEAD], modules, found)
    checkpoint.restore(parts[Kind.BACKBONE], parts[Kind.HEAD])
    place = pick_device(str(device))
    warn_of_slow_dtype(plan.dtype, place, remedy=f'write "dtype": null in {Path(path) / MARKER}')
    pipeline = Pipeline(
        plan=plan,
        backbone=parts[Kind.BACKBONE],
        head=parts[Kind.HEAD],
        device=place,
        classifier=checkpoint.read_classifier(parts[Kind.BACKBONE], place),
        helpers={kind: modules[kind] for kind in _TRAINING_ONLY if kind in modules},
        deferred={
            kind: lambda kind=kind: _build(plan, [kind], modules, found)[kind]
            for kind in _TRAINING_ONLY
            if kind in plan.parts and kind not in modules
        },
    )
    pipeline.trained, pipeline.kept = checkpoint.trained, checkpoint.read_kept()
    return pipeline


def build_part(
    kind: Kind | str,
    value: object,
    *,
    features: Mapping[str, FeatureSpec] | None = None,
    text_width: int | None = None,
    labels: LabelSpace = CITYSCAPES,
    pretrained: bool = True,
    catalog: Catalog | None = None,
) -> Any:
    """Build one component on its own: a generator without a pipeline, or a head for given feature specs.

    `features`, `text_width` and `labels` are what a pipeline would tell its head.

    Raises:
        PlanError: with every fault of the name and its options.
    """
    kind, catalog = Kind(kind), catalog or Catalog.from_environment()
    part, problems = plan_part(kind, value, pretrained=pretrained, catalog=catalog)
    if problems or part is None:
        raise PlanError(problems)
    given = {"features": features, "text_width": text_width, "labels": labels}
    return value if part.ready else _instantiate(part, given, catalog)


def pick_device(device: str) -> torch.device:
    """Turn `"auto"` into the best device there is. Raises `ConfigError` when a named one cannot be used."""
    if device == "auto":
        own = f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"  # torchrun numbers them
        device = own if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"unknown device {device!r}; expected auto, cpu, cuda, cuda:N or mps") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {device!r} asked for, but torch sees {torch.cuda.device_count()} CUDA devices")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device 'mps' asked for, but torch does not see one")
    return chosen


def _build(plan: Plan, kinds: list[Kind], ready: Mapping[Kind, object], catalog: Catalog) -> dict[Kind, Any]:
    """Build parts of a plan; the head comes last because it is made for the backbone's features."""
    built: dict[Kind, Any] = {}
    for kind in sorted(kinds, key=lambda kind: kind == Kind.HEAD):
        part = plan.parts[kind]
        if part.ready:
            built[kind] = ready[kind]
            continue
        built[kind] = _instantiate(part, _given(built.get(Kind.BACKBONE), plan.labels), catalog)
    return built


def _given(backbone: Backbone | None, labels: LabelSpace) -> dict[str, Any]:
    """What factories are told: the label space, and for heads the backbone's features and the width of its texts."""
    width = backbone.embed_text([]).shape[1] if isinstance(backbone, TextEncoder) else None
    return {"features": None if backbone is None else backbone.features, "text_width": width, "labels": labels}


def _instantiate(part: Part, given: Mapping[str, Any], catalog: Catalog) -> nn.Module | object:
    try:
        component = catalog.find(part.kind, part.qualified_name)
    except CloudsError as error:
        raise PlanError([Problem(part.kind, str(error))]) from error
    schema = read_schema(component)
    told = {name: given[name] for name in schema.given}
    module = schema.factory(**told, **component.options, **schema.arguments(part.options))
    interface = INTERFACES[part.kind]
    if not isinstance(module, interface):
        raise ComponentError(
            f"{part.kind} {part.name!r}: factory {component.factory!r} returned {type(module).__name__}; "
            f"expected a clouds.{interface.__name__}"
        )
    return module


def _without_downloads(plan: Plan, published: Published | None) -> Plan:
    """The same plan with random initial weights, which the checkpoint's replace; but for those it has left out."""
    pretrained = {Kind.BACKBONE: published.pretrained} if published else {}
    parts = {
        kind: evolve(part, options={**part.options, "pretrained": pretrained.get(kind, False)})
        if "pretrained" in part.options
        else part
        for kind, part in plan.parts.items()
    }
    return evolve(plan, parts=parts)
