"""Limits what the plan of a saved pipeline may do without consent: build networks from the weights in its folder.

A plan is a file and may come from a stranger. Parts that access a server, other files or the environment are built
only with the caller's consent (`clouds.load(path, trust=...)`). Locations of secrets are never read from a plan.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping, Sequence
from inspect import Parameter
from pathlib import Path
from types import UnionType
from typing import Any, Literal, cast

from attrs import field, frozen

from clouds.core.contract.component import Kind
from clouds.core.contract.plan import Part, PlanError, Problem
from clouds.core.contract.schema import Schema
from clouds.core.system.errors import TrustError
from clouds.core.system.values import accepts, to_json_value

NETWORKS = (Kind.BACKBONE, Kind.HEAD, Kind.ADAPTER)  # the folder holds their weights


def _to_kinds(value: Iterable[str]) -> frozenset[Kind]:
    return frozenset(Kind(kind) for kind in ((value,) if isinstance(value, str) else value))


@frozen(kw_only=True)
class Consent:
    """Parts of a saved pipeline that may access resources outside its folder.

    Attributes:
        folder: folder of the pipeline.
        trusted: kinds of parts that the caller trusts.
        own: kinds of parts that the caller passed.
        pretrained: source of backbone weights that the folder omits; False if it holds them.
    """

    folder: Path
    trusted: frozenset[Kind] = field(converter=_to_kinds)
    own: frozenset[Kind] = field(converter=_to_kinds)
    pretrained: bool | str

    def options(self, part: Part, schema: Schema, *, version: str) -> dict[str, Any]:
        """The options to build a part with; options that an older plan lacks get their defaults.

        Args:
            part: part of the plan.
            schema: schema of the installed component.
            version: version of the installed distribution.

        Raises:
            PlanError: an option is unknown, missing or of another type, or locates a secret.
            TrustError: the part accesses resources outside the folder without consent.
        """
        self._require_known(part, schema, version)
        given = {**part.options, **part.credentials}
        options = schema.complete(given, pretrained=part.kind not in NETWORKS)
        if part.kind in NETWORKS and "pretrained" in schema.options:
            options["pretrained"] = self.pretrained if part.kind == Kind.BACKBONE else False
        if part.kind in self.trusted | self.own:
            return options
        if reached := _describe_access(schema, options):
            raise TrustError(part.kind.value, f"{self._plan}: {part.kind} {part.name!r} {reached}", str(self.folder))
        replaced = schema.component.without_consent.items()
        return options | {name: value for name, value in replaced if _is_default(schema.options[name], options[name])}

    @property
    def _plan(self) -> Path:
        return self.folder / "plan.json"

    def _require_known(self, part: Part, schema: Schema, version: str) -> None:
        between = f"the plan is of {part.distribution} {part.version}, installed is {version}"
        faults = [Problem(part.kind, f"{part.name}: {fault}", between) for fault in schema.faults(part.options)]
        for name in sorted(schema.component.credentials & part.options.keys()):
            if part.options[name] is not None and part.kind not in self.own:
                message = f"{part.name}: option {name}={part.options[name]!r} comes from {self._plan}"
                remedy = f"a plan never says where secrets are; pass the part anew: ready={{{part.kind.value!r}: ...}}"
                faults.append(Problem(part.kind, message, remedy))
        if faults:
            raise PlanError(faults)


def _describe_access(schema: Schema, options: Mapping[str, Any]) -> str:
    """Describe the access outside the folder that these options cause, and name the options; "" for none."""
    outward = {
        name: value
        for name, value in options.items()
        if (name == "pretrained" and value is not False)
        or (_is_free_text(schema.types.get(name, Any), value) and not _is_default(schema.options[name], value))
    }
    if not (outward or schema.component.reaches):
        return ""
    shown = ", ".join(f"{name}={value!r}" for name, value in outward.items())
    return f"reaches {schema.component.reaches or 'out of this folder'}" + (f" ({shown})" if shown else "")


def _is_default(parameter: Parameter, value: Any) -> bool:
    return parameter.default is not Parameter.empty and to_json_value(value) == to_json_value(parameter.default)


def _is_free_text(hint: Any, value: Any) -> bool:
    """Whether a value holds text outside a `Literal`: it may be a path, a URL or a name."""
    choices = _alternatives(hint)
    if isinstance(value, str):
        return not any(typing.get_origin(one) is Literal and accepts(one, value) for one in choices)
    inner = [argument for one in choices for argument in typing.get_args(one)] or [Any]
    if isinstance(value, Mapping):
        pairs = cast("Mapping[Any, Any]", value).items()
        return any(_is_free_text(inner[0], key) or _is_free_text(inner[-1], item) for key, item in pairs)
    if isinstance(value, (list, tuple)):
        kinds = [one for one in inner if one is not Ellipsis]
        return any(all(_is_free_text(one, item) for one in kinds) for item in cast("Sequence[Any]", value))
    return False


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, UnionType) else (hint,)
