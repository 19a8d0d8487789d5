"""What a saved pipeline's plan may do by itself: build networks from the weights beside it, and nothing else.

A plan is a file, and may be a stranger's. A part that talks to a network, reads other files or the environment is built
when the caller consents (`clouds.load(path, trust=...)`). Where secrets are is never taken from a plan.
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

NETWORKS = (Kind.BACKBONE, Kind.HEAD)  # their weights lie in the folder


def _to_kinds(value: Iterable[str]) -> frozenset[Kind]:
    return frozenset(Kind(kind) for kind in ((value,) if isinstance(value, str) else value))


@frozen(kw_only=True)
class Consent:
    """Which parts of a saved pipeline may reach out of its folder.

    Attributes:
        folder: where the pipeline lies.
        trusted: parts that the caller trusts.
        own: parts that the caller passed anew.
        pretrained: where a backbone's weights come from that the folder does not hold; False when it holds them.
    """

    folder: Path
    trusted: frozenset[Kind] = field(converter=_to_kinds)
    own: frozenset[Kind] = field(converter=_to_kinds)
    pretrained: bool | str

    def options(self, part: Part, schema: Schema, *, version: str) -> dict[str, Any]:
        """The options to build a part with; those that the plan lacks, as older ones may, have their defaults.

        Args:
            part: of the plan.
            schema: of its component as it is installed.
            version: of the distribution that is installed.

        Raises:
            PlanError: an option is unknown, of another type, missing, or names a secret.
            TrustError: the part reaches out of the folder, and the caller has not consented.
        """
        self._require_known(part, schema, version)
        given = {**part.options, **part.credentials}
        options = schema.complete(given, pretrained=part.kind not in NETWORKS)
        if part.kind in NETWORKS and "pretrained" in schema.options:
            options["pretrained"] = self.pretrained if part.kind == Kind.BACKBONE else False
        if part.kind in self.trusted | self.own:
            return options
        if reached := _reached(schema, options):
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


def _reached(schema: Schema, options: Mapping[str, Any]) -> str:
    """What building with these options would reach, with the options that say so; "" for nothing."""
    outward = {
        name: value
        for name, value in options.items()
        if (name == "pretrained" and value is not False)
        or (_is_free(schema.types.get(name, Any), value) and not _is_default(schema.options[name], value))
    }
    if not (outward or schema.component.reaches):
        return ""
    shown = ", ".join(f"{name}={value!r}" for name, value in outward.items())
    return f"reaches {schema.component.reaches or 'out of this folder'}" + (f" ({shown})" if shown else "")


def _is_default(parameter: Parameter, value: Any) -> bool:
    return parameter.default is not Parameter.empty and to_json_value(value) == to_json_value(parameter.default)


def _is_free(hint: Any, value: Any) -> bool:
    """Whether a value holds text that its type does not choose from a list: a path, an address, a name of something."""
    choices = _alternatives(hint)
    if isinstance(value, str):
        return not any(typing.get_origin(one) is Literal and accepts(one, value) for one in choices)
    inner = [argument for one in choices for argument in typing.get_args(one)] or [Any]
    if isinstance(value, Mapping):
        pairs = cast("Mapping[Any, Any]", value).items()
        return any(_is_free(inner[0], key) or _is_free(inner[-1], item) for key, item in pairs)
    if isinstance(value, (list, tuple)):
        kinds = [one for one in inner if one is not Ellipsis]
        return any(all(_is_free(one, item) for one in kinds) for item in cast("Sequence[Any]", value))
    return False


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, UnionType) else (hint,)
