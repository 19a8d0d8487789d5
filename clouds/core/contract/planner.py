"""Makes plans: checks a composition completely before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from packaging.requirements import Requirement

from clouds.core.contract.catalog import Catalog
from clouds.core.contract.component import Component, Kind
from clouds.core.contract.label_table import read_labels
from clouds.core.contract.labels import LabelSpace
from clouds.core.contract.plan import Part, Plan, PlanError, Problem
from clouds.core.system.errors import CloudsError, ConfigError, UnknownComponentError, did_you_mean
from clouds.core.system.values import to_json_value

_ORDER = (Kind.BACKBONE, Kind.ADAPTER, Kind.GENERATOR, Kind.REFINER, Kind.HEAD, Kind.PROMPTER)
_DTYPES = ("float32", "bfloat16", "float16")


def make_plan(
    *,
    backbone: object,
    head: object,
    generator: object = None,
    refiner: object = None,
    prompter: object = None,
    adapter: object = None,
    labels: object = "cityscapes",
    pretrained: bool = True,
    device: object = "auto",
    dtype: object = None,
    catalog: Catalog | None = None,
) -> Plan:
    """Check the arguments of `compose` without importing torch or building anything.

    Raises:
        PlanError: lists every fault: unknown names, wrong options, missing distributions, parts that do not fit, label
            spaces that the head does not support.
    """
    catalog = catalog or Catalog.from_environment()
    asked = {"backbone": backbone, "adapter": adapter, "generator": generator, "refiner": refiner}
    asked |= {"head": head, "prompter": prompter}
    parts, problems = _plan_parts(asked, pretrained=pretrained, catalog=catalog)
    space = _plan_labels(labels, problems)
    plan = Plan(
        parts=parts,
        labels=space or LabelSpace.named("cityscapes"),
        pretrained=pretrained,
        device=_plan_device(device, problems),
        dtype=plan_dtype(dtype, problems),
    )
    problems += [*_missing_capabilities(plan), *_trained_twice(plan)]
    problems += catalog.check_plan(plan) if space is not None else []
    if problems:
        raise PlanError(problems)
    return plan


def _plan_parts(
    asked: Mapping[str, object], *, pretrained: bool, catalog: Catalog
) -> tuple[dict[Kind, Part], list[Problem]]:
    """The parts by kind, in the order of a plan, and their faults."""
    problems: list[Problem] = []
    parts: dict[Kind, Part] = {}
    for kind in _ORDER:
        value = asked[kind.value]
        if value is None and kind in (Kind.BACKBONE, Kind.HEAD):
            problems.append(Problem(kind, "is None, but every pipeline has one", f"clouds list {kind}"))
        elif value is not None:
            part, faults = plan_part(kind, value, pretrained=pretrained, catalog=catalog)
            problems += faults
            if part is not None:
                parts[kind] = part
    return parts, problems


def plan_part(kind: Kind, value: object, *, pretrained: bool, catalog: Catalog) -> tuple[Part | None, list[Problem]]:
    """Check one argument of `compose`: a name, `{"name": ..., **options}` or a ready module.

    Returns the part, or None if its component was not found, and the faults.
    """
    if not isinstance(value, (str, Mapping)):
        return _ready_part(kind, value)
    options: dict[str, Any] = {"name": value} if isinstance(value, str) else {str(k): v for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    name = options.pop("name", None)
    if not isinstance(name, str):
        return None, [Problem(kind, f"a mapping needs a 'name', got keys {sorted(options)}", f"clouds list {kind}")]
    try:
        entry = catalog.entry(kind, name)
        schema = entry.schema
    except UnknownComponentError as error:
        return None, [Problem(kind, str(error), catalog.install_command(kind, name))]
    except CloudsError as error:
        return None, [Problem(kind, str(error))]
    faults = [Problem(kind, f"{name}: {fault}") for fault in schema.faults(options)]
    faults += missing_requirements(kind, entry.component)
    values: dict[str, Any] = {}
    for key, item in schema.complete(options, pretrained=pretrained).items():
        try:
            values[key] = to_json_value(item)
        except TypeError as error:
            faults.append(Problem(kind, f"{name}: option {key!r}: {error}", f"pass a ready module as {kind}="))
    component = entry.component
    credentials = {key: values.pop(key) for key in sorted(component.credentials & values.keys())}
    return (
        Part(
            kind=kind,
            name=component.name,
            options=values,
            credentials=credentials,
            distribution=entry.distribution,
            version=entry.version,
            provides=component.provides.union(*_switched_on(component.provides_with, values)),
            needs=component.needs.union(*_switched_on(component.needs_with, values)),
        ),
        faults,
    )


def _switched_on(capabilities: Mapping[str, frozenset[str]], values: Mapping[str, Any]) -> list[frozenset[str]]:
    return [added for option, added in capabilities.items() if values.get(option)]


def _ready_part(kind: Kind, value: object) -> tuple[Part | None, list[Problem]]:
    from clouds.core.contract.interfaces import INTERFACES, capabilities  # a built module has loaded torch

    wanted = INTERFACES[kind]
    if not isinstance(value, wanted):
        message = f"expected a name, a mapping with 'name', or a {wanted.__name__}; got {type(value).__name__}"
        convertible = kind == Kind.BACKBONE and hasattr(value, "state_dict")  # any other torch module
        return None, [Problem(kind, message, "clouds.as_backbone(module)" if convertible else f"clouds list {kind}")]
    ready = f"{type(value).__module__}:{type(value).__qualname__}"
    return Part(kind=kind, ready=ready, provides=capabilities(value)), []


def missing_requirements(kind: Kind, component: Component) -> list[Problem]:
    """A problem for each distribution that a component requires and that is not installed."""
    problems: list[Problem] = []
    for text, command in component.requires.items():
        requirement = Requirement(text)
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            problems.append(Problem(kind, f"{component.name}: needs {text}, which is not installed", command))
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            problems.append(Problem(kind, f"{component.name}: needs {text}, but {found} is installed", command))
    return problems


def _missing_capabilities(plan: Plan) -> list[Problem]:
    backbone = plan.parts.get(Kind.BACKBONE)
    if backbone is None:
        return []
    problems: list[Problem] = []
    for part in (plan.parts[kind] for kind in (Kind.ADAPTER, Kind.HEAD) if kind in plan.parts):
        lacking = sorted(set(part.needs) - set(backbone.provides))
        if lacking:
            offered = ", ".join(backbone.provides) or "nothing"
            message = (
                f"{part.title} needs {', '.join(lacking)} from the backbone, but {backbone.title} provides {offered}"
            )
            problems.append(Problem(part.kind, message, f"choose another backbone or {part.kind}"))
    return problems


def _trained_twice(plan: Plan) -> list[Problem]:
    """An adapter holds all that is trained on a backbone, so the backbone itself must be frozen."""
    backbone, adapter = plan.parts.get(Kind.BACKBONE), plan.parts.get(Kind.ADAPTER)
    trainable = backbone is not None and backbone.options.get("trainable")
    if adapter is None or backbone is None or not trainable:
        return []
    message = f"{adapter.title} needs a frozen backbone, but {backbone.title} has trainable={trainable!r}"
    return [Problem(Kind.ADAPTER, message, "set the backbone's trainable=false, or leave the adapter out")]


def _plan_labels(labels: object, problems: list[Problem]) -> LabelSpace | None:
    try:
        return read_labels(labels)
    except ConfigError as error:
        remedy = 'classes of your own: ["one", "two"], a table { names = [...], ... }, or a TOML file of one'
        problems.append(Problem("labels", str(error), remedy))
        return None


def _plan_device(device: object, problems: list[Problem]) -> str:
    text = str(device)
    name, colon, index = text.partition(":")
    if name not in ("auto", "cpu", "cuda", "mps") or (colon and not (name == "cuda" and index.isdecimal())):
        problems.append(Problem("device", f"unknown device {text!r}; expected auto, cpu, cuda, cuda:N or mps"))
    return text


def plan_dtype(dtype: object, problems: list[Problem]) -> str | None:
    """Name of an autocast type, None for float32; an unknown one is added to the problems."""
    if dtype is None:
        return None
    text = str(dtype).removeprefix("torch.")
    if text not in _DTYPES:
        problems.append(Problem("dtype", f"unknown dtype {text!r}{did_you_mean(text, _DTYPES)}"))
    return None if text == "float32" else text
