"""`clouds list` and `clouds info`: the components and their contracts. Nothing here imports torch."""

from __future__ import annotations

import inspect
from typing import Any

from attrs import asdict

from clouds.cli.listings import list_rows
from clouds.cli.options import LISTS, AnyKind, AnyListing, AsJson
from clouds.cli.output import write, write_json, write_table
from clouds.core.contract.catalog import Catalog, Entry
from clouds.core.contract.component import Kind
from clouds.core.contract.schema import Schema
from clouds.core.system.errors import DuplicateComponentError, UnknownComponentError, did_you_mean


def list_components(kind: AnyListing | None = None, /, *, as_json: AsJson = False) -> None:
    """List the available components and the broken plugins, or what else is known by name.

    Args:
        kind: a kind of component, such as backbones; label-spaces, datasets, recipes, losses, samplers, augmentations,
            trackers, protocols or benchmarks; default: all components.
    """
    if kind in LISTS:
        _list_records(list_rows(kind), as_json=as_json)
        return
    catalog = Catalog.from_environment()
    entries = [entry for each in ([Kind(kind)] if kind else Kind) for entry in catalog.entries(each)]
    if as_json:
        write_json({"components": [describe(entry) for entry in entries], "broken": _broken(catalog)})
        return
    rows = [(e.component.kind, e.component.name, e.component.summary, _owner(e)) for e in entries]
    write_table(("kind", "name", "summary", "distribution"), rows)
    for broken in catalog.broken:
        write(f"broken: {broken}")


def _list_records(records: list[dict[str, str]], *, as_json: bool) -> None:
    if as_json:
        write_json(records)
    else:
        write_table(list(records[0]), [list(record.values()) for record in records])


def info(name: str, /, *, kind: AnyKind | None = None, as_json: AsJson = False) -> None:
    """Show a component: its source, licence, capabilities and options.

    Args:
        name: a name from `clouds list`, an alias, `dist::name`, or a pattern such as timm:convnext_atto.
        kind: kind of the component; needed only if several kinds share the name.
    """
    catalog = Catalog.from_environment()
    entry = catalog.entry(kind, name) if kind else _find(catalog, name)
    schema = entry.schema
    if as_json:
        write_json({**describe(entry), "options": _options(schema), "documentation": inspect.getdoc(schema.factory)})
    else:
        write(_page(entry, schema))


def describe(entry: Entry) -> dict[str, Any]:
    """The declared fields of a component as plain values, with its distribution and hook."""
    component = entry.component
    return {
        "kind": component.kind,
        "name": component.name,
        "aliases": list(component.aliases),
        "summary": component.summary,
        "source": component.source,
        "licence": component.licence,
        "distribution": entry.distribution,
        "version": entry.version,
        "hook": component.kind.hook,
        "factory": component.factory,
        "provides": sorted(component.provides),
        "needs": sorted(component.needs),
        "requires": component.requires,
        "fixed": component.options,
    }


def _find(catalog: Catalog, name: str) -> Entry:
    found: list[Entry] = []
    for kind in Kind:
        try:
            found.append(catalog.entry(kind, name))
        except UnknownComponentError:
            continue
    if not found:
        known = [known for kind in Kind for known in catalog.names(kind)]
        broken = "".join(f"; broken plugin: {one}" for one in catalog.broken)
        raise UnknownComponentError(f"unknown component {name!r}{did_you_mean(name, known)}{broken}")
    if len(found) > 1:
        choices = " or ".join(f"--kind {entry.component.kind}" for entry in found)
        raise DuplicateComponentError(f"components of several kinds are named {name!r}; choose one: {choices}")
    return found[0]


def _broken(catalog: Catalog) -> list[dict[str, str]]:
    return [asdict(broken) for broken in catalog.broken]


def _owner(entry: Entry) -> str:
    return f"{entry.distribution} {entry.version}".strip()


def _options(schema: Schema) -> list[dict[str, Any]]:
    """Name, type and default of every option; one without a default is required."""
    options: list[dict[str, Any]] = []
    for name, parameter in schema.options.items():
        required = parameter.default is inspect.Parameter.empty
        options.append(
            {
                "name": name,
                "type": _type(parameter),
                "required": required,
                "default": None if required else parameter.default,
            }
        )
    return options


def _type(parameter: inspect.Parameter) -> str:
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty:
        return "any"
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _page(entry: Entry, schema: Schema) -> str:
    component = entry.component
    fields = {
        "source": component.source,
        "licence": component.licence,
        "distribution": _owner(entry),
        "factory": component.factory,
        "aliases": ", ".join(component.aliases),
        "provides": ", ".join(sorted(component.provides)),
        "needs": ", ".join(sorted(component.needs)),
        "requires": "; ".join(f"{text} ({command})" for text, command in component.requires.items()),
        "fixed": ", ".join(f"{key}={value!r}" for key, value in component.options.items()),
    }
    lines = [f"{component.kind} {component.name}: {component.summary}", ""]
    lines += [f"{title:<13}{text}" for title, text in fields.items() if text]
    lines += ["", "options" if schema.options else "no options"]
    for option in _options(schema):
        default = "(required)" if option["required"] else f"= {option['default']!r}"
        lines.append(f"  {option['name']}: {option['type']} {default}")
    documentation = inspect.getdoc(schema.factory)
    return "\n".join([*lines, "", documentation] if documentation else lines)
