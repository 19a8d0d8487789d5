"""Builds single components and chooses their device."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from packaging.utils import InvalidName, canonicalize_name
from torch import nn

from clouds.core.contract.adaptation import Adapter, Block
from clouds.core.contract.catalog import Catalog
from clouds.core.contract.component import BUILT_IN, FeatureSpec, Kind
from clouds.core.contract.interfaces import INTERFACES
from clouds.core.contract.labels import CITYSCAPES, LabelSpace
from clouds.core.contract.plan import Part, PlanError, Problem
from clouds.core.contract.planner import missing_requirements, plan_part
from clouds.core.pipeline.trust import Consent
from clouds.core.system.errors import CloudsError, ComponentError, ConfigError, UnknownComponentError

_SHOWN = 300  # characters shown of options and of other libraries' errors


def build_part(
    kind: Kind | str,
    value: object,
    *,
    features: Mapping[str, FeatureSpec] | None = None,
    text_width: int | None = None,
    blocks: Sequence[Block] = (),
    queries: tuple[int, int] | None = None,
    labels: LabelSpace = CITYSCAPES,
    pretrained: bool = True,
    catalog: Catalog | None = None,
) -> Any:
    """Build one component without a pipeline, such as a generator, or a head for given feature specs.

    As a pipeline would do, `features`, `text_width` and `labels` are passed to heads, `blocks` and `queries` to
    adapters.

    Raises:
        PlanError: lists every fault of the name and its options.
    """
    kind, catalog = Kind(kind), catalog or Catalog.from_environment()
    part, problems = plan_part(kind, value, pretrained=pretrained, catalog=catalog)
    if problems or part is None:
        raise PlanError(problems)
    if part.ready:
        return value
    given = {"features": features, "text_width": text_width, "labels": labels, "blocks": blocks, "queries": queries}
    built = instantiate(part, given, catalog)
    if isinstance(built, Adapter):
        built.start(blocks)
    return built


def pick_device(device: str) -> torch.device:
    """Resolve `"auto"` to the best available device. Raises `ConfigError` for an unavailable device."""
    if device == "auto":
        own = f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"  # set by torchrun
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


def missing_components(parts: Iterable[Part], catalog: Catalog) -> list[Problem]:
    """A problem for each part whose component, or a distribution that it requires, is not installed.

    The remedy is the command that installs it. A plan's word is no reason to install: the plan may be a stranger's.
    """
    problems: list[Problem] = []
    for part in parts:
        try:
            component = catalog.entry(part.kind, part.qualified_name).component
        except UnknownComponentError:
            source = f"{part.distribution or 'an unnamed distribution'} {part.version}".rstrip()
            broken = [str(one) for one in catalog.broken if _same_distribution(one.distribution, part.distribution)]
            fault = "; ".join([f"{part.name!r} of {source} is not installed", *broken])
            problems.append(Problem(part.kind, fault, _install_command(part, catalog)))
        except CloudsError as error:
            problems.append(Problem(part.kind, str(error)))
        else:
            problems += missing_requirements(part.kind, component)
    return problems


def _same_distribution(one: str, other: str) -> bool:
    return canonicalize_name(one) == canonicalize_name(other)


def _install_command(part: Part, catalog: Catalog) -> str:
    """The command that installs the plugin of a part; "" for a name that is no distribution's."""
    if known := catalog.install_command(part.kind, part.qualified_name):
        return known
    try:
        name = canonicalize_name(part.distribution, validate=True)
    except InvalidName:
        return ""
    return f"pip install --upgrade {name}" if name == BUILT_IN else f"if you trust its authors: pip install {name}"


def instantiate(
    part: Part, given: Mapping[str, Any], catalog: Catalog, consent: Consent | None = None
) -> nn.Module | object:
    """Build a part of a plan; parts of a plan from a file require `consent`."""
    if problems := missing_components([part], catalog):
        raise PlanError(problems)
    entry = catalog.entry(part.kind, part.qualified_name)
    component, schema = entry.component, entry.schema
    told = {name: given[name] for name in schema.given}
    options = {**part.options, **part.credentials}
    if consent is not None:
        options = consent.options(part, schema, version=entry.version)
    try:
        module = schema.factory(**told, **component.options, **schema.arguments(options))
    except CloudsError:
        raise
    except Exception as error:  # values from a file may make torch raise anything; the cause is kept
        if consent is None:
            raise
        asked, reason = str(part.options)[:_SHOWN], f"{type(error).__name__}: {error}"[:_SHOWN]
        raise PlanError([Problem(part.kind, f"{part.name} cannot be built with {asked} ({reason})")]) from error
    interface = INTERFACES[part.kind]
    if not isinstance(module, interface):
        raise ComponentError(
            f"{part.kind} {part.name!r}: factory {component.factory!r} returned {type(module).__name__}; "
            f"expected a clouds.{interface.__name__}"
        )
    return module
