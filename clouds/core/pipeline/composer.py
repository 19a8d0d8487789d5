"""Composes and loads pipelines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from attrs import evolve

from clouds.core.contract.catalog import Catalog
from clouds.core.contract.component import Kind
from clouds.core.contract.interfaces import Backbone, Head, TextEncoder
from clouds.core.contract.label_table import LabelsLike
from clouds.core.contract.labels import LabelSpace
from clouds.core.contract.plan import Plan, PlanError, Problem
from clouds.core.contract.planner import make_plan, plan_dtype, plan_part
from clouds.core.pipeline.build import instantiate, missing_components, pick_device
from clouds.core.pipeline.checkpoint import read_checkpoint
from clouds.core.pipeline.hub import find_checkpoint
from clouds.core.pipeline.pipeline import Pipeline
from clouds.core.pipeline.segmenter import blocks_of
from clouds.core.pipeline.trust import NETWORKS, Consent
from clouds.core.system.cpu import warn_of_slow_dtype
from clouds.core.system.errors import ConfigError

_TRAINING_ONLY = (Kind.GENERATOR, Kind.REFINER, Kind.PROMPTER)


def compose(
    *,
    backbone: object,
    head: object,
    generator: object = None,
    refiner: object = None,
    prompter: object = None,
    adapter: object = None,
    labels: LabelsLike = "cityscapes",
    pretrained: bool = True,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    catalog: Catalog | None = None,
) -> Pipeline:
    """Assemble a pipeline from components.

    Args:
        backbone, head, generator, refiner, prompter, adapter: a name of the catalog, `{"name": ..., **options}`, or a
            ready module. All but backbone and head are optional. An adapter is what is trained on a frozen backbone.
        labels: a built-in label space, a `LabelSpace`, class names, a table, or a TOML file, see
            `clouds.core.contract.label_table`.
        pretrained: load published weights; False initialises randomly and downloads nothing.
        device: `"auto"` prefers CUDA, then Apple's GPU, then the CPU.
        dtype: autocast type of the forward pass, or None for float32.
        catalog: catalog of components; None uses built-ins and installed plugins.

    Raises:
        PlanError: lists every fault, before anything heavy is imported or built.

    Warns:
        SlowDtypeWarning: the CPU has no instructions for `dtype`.
    """
    catalog = catalog or Catalog.from_environment()
    asked = {"backbone": backbone, "adapter": adapter, "generator": generator, "refiner": refiner}
    asked |= {"head": head, "prompter": prompter}
    plan = make_plan(**asked, labels=labels, pretrained=pretrained, device=device, dtype=dtype, catalog=catalog)
    place = pick_device(plan.device)
    warn_of_slow_dtype(plan.dtype, place, remedy="leave dtype out, or at None")
    ready = {kind: asked[kind.value] for kind, part in plan.parts.items() if part.ready}
    parts = _build(plan, list(plan.parts), ready, catalog)
    if Kind.ADAPTER in parts and Kind.ADAPTER not in ready:
        parts[Kind.ADAPTER].start(blocks_of(parts[Kind.BACKBONE]))
    return Pipeline(
        plan=plan,
        backbone=parts[Kind.BACKBONE],
        head=parts[Kind.HEAD],
        adapter=parts.get(Kind.ADAPTER),
        device=place,
        helpers={kind: parts[kind] for kind in _TRAINING_ONLY if kind in parts},
    )


def load(
    path: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    catalog: Catalog | None = None,
    ready: Mapping[str, object] | None = None,
    trust: Iterable[str] = (),
) -> Pipeline:
    """Load a pipeline written by `Pipeline.save`, or pushed to the Hugging Face hub by `Pipeline.push_to_hub`.

    The plan may come from a stranger, so without consent it only builds networks from the weights in the folder.
    Parts that access anything else (a server, a file, published weights) need consent. Generator, refiner and prompter,
    which are needed for training only, are built on first use. The pipeline is in eval mode.

    Args:
        path: the folder; if it does not exist, `owner/name` or `owner/name@revision` of the hub.
        device: see `compose`.
        dtype: autocast type of the forward pass; None keeps the saved one, "float32" switches it off.
        catalog: see `compose`.
        ready: parts by kind that replace the plan's, in the forms that `compose` accepts. Parts that were ready modules
            when the pipeline was composed must be passed here.
        trust: kinds of parts that may access resources outside the folder, such as `("prompter",)`.

    Raises:
        WeightsError: a file is missing, damaged, or does not fit the plan; or the hub has no such pipeline for you.
        PlanError: a component of the plan is not installed, or lacks an option of the plan; or the dtype is unknown.
        TrustError: a part accesses resources outside the folder and is not in `trust`.
    """
    found = catalog or Catalog.from_environment()
    folder = find_checkpoint(path)
    checkpoint = read_checkpoint(folder)
    plan, modules = _replace(_with_dtype(checkpoint.plan, dtype), ready or {}, found)
    elsewhere = checkpoint.published.pretrained if checkpoint.published else False
    consent = Consent(folder=folder, trusted=trust, own=ready or (), pretrained=elsewhere)
    networks = [kind for kind in NETWORKS if kind != Kind.ADAPTER or kind in plan.parts]
    _require_components(plan, networks, modules, found)
    with checkpoint.size_limit():
        parts = _build(plan, networks, modules, found, consent)
    checkpoint.restore(parts[Kind.BACKBONE], parts[Kind.HEAD], parts.get(Kind.ADAPTER))
    place = pick_device(str(device))
    warn_of_slow_dtype(plan.dtype, place, remedy=f"clouds.load({str(path)!r}, dtype='float32')")
    pipeline = Pipeline(
        plan=plan,
        backbone=parts[Kind.BACKBONE],
        head=parts[Kind.HEAD],
        adapter=parts.get(Kind.ADAPTER),
        device=place,
        classifier=checkpoint.read_classifier(parts[Kind.BACKBONE], place),
        helpers={kind: modules[kind] for kind in _TRAINING_ONLY if kind in modules},
        deferred={
            kind: lambda kind=kind: _build(plan, [kind], modules, found, consent)[kind]
            for kind in _TRAINING_ONLY
            if kind in plan.parts and kind not in modules
        },
    )
    pipeline.trained, pipeline.kept = checkpoint.trained, checkpoint.read_kept()
    return pipeline.eval()


def _with_dtype(plan: Plan, dtype: str | torch.dtype | None) -> Plan:
    problems: list[Problem] = []
    changed = plan if dtype is None else evolve(plan, dtype=plan_dtype(dtype, problems))
    if problems:
        raise PlanError(problems)
    return changed


def _replace(plan: Plan, ready: Mapping[str, object], catalog: Catalog) -> tuple[Plan, dict[Kind, object]]:
    """Replace parts of a plan by the caller's; also returns those that are ready modules."""
    modules: dict[Kind, object] = {}
    parts = dict(plan.parts)
    for kind, value in ((Kind(kind), value) for kind, value in ready.items()):
        if not isinstance(value, (str, Mapping)):
            modules[kind] = value
            continue
        part, problems = plan_part(kind, cast("object", value), pretrained=True, catalog=catalog)
        if part is None or problems:
            raise PlanError(problems)
        parts[kind] = part
    return evolve(plan, parts=parts), modules


def _require_components(plan: Plan, needed: list[Kind], ready: Mapping[Kind, object], catalog: Catalog) -> None:
    """Refuse a plan that needs a component that is not installed; name the missing ones of all parts at once."""
    named = [part for kind, part in plan.parts.items() if kind not in ready and not part.ready]
    if missing_components([part for part in named if part.kind in needed], catalog):
        raise PlanError(missing_components(named, catalog))


def _build(
    plan: Plan, kinds: list[Kind], ready: Mapping[Kind, object], catalog: Catalog, consent: Consent | None = None
) -> dict[Kind, Any]:
    """Build parts of a plan; the head depends on the backbone's features, and the adapter on both."""
    lacking = [kind for kind in kinds if kind not in plan.parts]
    if lacking:
        raise PlanError(
            [Problem(kind, "the plan has none", "a pipeline has a backbone and a head") for kind in lacking]
        )
    built: dict[Kind, Any] = {}
    for kind in sorted(kinds, key=lambda kind: (kind == Kind.ADAPTER, kind == Kind.HEAD)):
        part = plan.parts[kind]
        if part.ready and kind not in ready:
            raise ConfigError(
                f"the {kind} was a ready module ({part.ready}); pass it again: clouds.load(path, "
                f"ready={{{kind.value!r}: module}})"
            )
        if kind in ready:
            built[kind] = ready[kind]
            continue
        given = _factory_arguments(built.get(Kind.BACKBONE), built.get(Kind.HEAD), plan.labels)
        built[kind] = instantiate(part, given, catalog, consent)
    return built


def _factory_arguments(backbone: Backbone | None, head: Head | None, label_space: LabelSpace) -> dict[str, Any]:
    """Arguments that factories may take from the label space and the parts that are built before."""
    width = backbone.embed_text([]).shape[1] if isinstance(backbone, TextEncoder) else None
    return {
        "features": None if backbone is None else backbone.features,
        "text_width": width,
        "labels": label_space,
        "blocks": () if backbone is None else blocks_of(backbone),
        "queries": None if head is None else head.queries,
    }
