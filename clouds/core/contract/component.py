"""The record by which a plugin declares a component. Importing this module never imports torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from importlib import import_module
from typing import Any, cast

from attrs import field, frozen
from packaging.requirements import InvalidRequirement, Requirement

from clouds.core.system.errors import ComponentError

BUILT_IN = "clouds-dgss"  # distribution of the built-in components
_KEBAB = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_PATTERNED = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*:(?!\S*::)[^\s:]\S*")  # "::" separates distribution and name
_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")

CAPABILITIES = frozenset(
    {"text-encoder", "mask-pooler", "blocks", "tokens", "queries", "instances", "res2", "res3", "res4", "res5"}
)


class Kind(StrEnum):
    """The six kinds of components. The value is the keyword of `compose`; folder and hook append an "s"."""

    BACKBONE = "backbone"
    ADAPTER = "adapter"
    GENERATOR = "generator"
    REFINER = "refiner"
    HEAD = "head"
    PROMPTER = "prompter"

    @classmethod
    def _missing_(cls, value: object) -> Kind:
        raise ComponentError(f"unknown kind {value!r}; expected one of {', '.join(cls)}")

    @property
    def hook(self) -> str:
        """Hook that returns components of this kind, e.g. `clouds_backbones`."""
        return f"clouds_{self.value}s"


@frozen
class FeatureSpec:
    """Channels and stride (input pixels per feature pixel) of one feature level."""

    channels: int
    stride: int


def _to_requirements(value: str | Mapping[str, str] | Iterable[str]) -> dict[str, str]:
    """Accept one requirement string, several, or a mapping from requirement to install command."""
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, str]", value))
    return {requirement: f"pip install '{requirement}'" for requirement in _to_tuple(value)}


def _to_tuple(value: str | Iterable[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _to_frozenset(value: str | Iterable[str]) -> frozenset[str]:
    return frozenset(_to_tuple(value))


def _to_capabilities(value: Mapping[str, str | Iterable[str]]) -> dict[str, frozenset[str]]:
    return {option: _to_frozenset(capabilities) for option, capabilities in value.items()}


def _empty() -> dict[str, Any]:
    return {}


@frozen(kw_only=True)
class Component:
    """One entry of the catalog.

    Attributes:
        name: kebab-case (`clip-rn50`), or patterned (`timm:convnext_atto`) for components of `clouds_resolve`.
        kind: a `Kind` or its string.
        factory: `"package.module:attribute"`. The module must import without torch; the signature defines the options.
        summary: one line for `clouds list`.
        source: the paper or model card.
        licence: licence of the weights.
        aliases: other names that find this component.
        requires: required distributions, as requirement strings or a mapping from requirement to pip command.
        provides: capabilities that a backbone offers (`text-encoder`, `mask-pooler`, `blocks`, `tokens`,
            `res2`..`res5`), or `queries`: an adapter makes them, a head takes them; or `instances`: a head separates
            them.
        needs: capabilities that a head or an adapter needs from the backbone.
        provides_with: additional capabilities when an option is set: `{"text": "text-encoder"}`.
        needs_with: additional needs when an option is set.
        options: factory arguments fixed by this component; users cannot set them.
        without_weights: option values that replace the defaults when no published weights are loaded.
        without_consent: option values that replace the defaults in a saved pipeline unless the caller consents, for
            defaults that would contact a server for missing files.
        reaches: resource outside a saved pipeline that the component always accesses, such as "a server"; "" for
            none. `clouds.load` then builds it only with the caller's consent. Options that take free text or paths
            count as access without a declaration (`clouds.core.pipeline.trust`).
        credentials: options that locate a secret. Only the caller sets them; plans neither store nor supply them.

    Raises:
        ComponentError: a field has the wrong form.
    """

    name: str = field()
    kind: Kind = field(converter=Kind)
    factory: str = field()
    summary: str
    source: str = ""
    licence: str = ""
    aliases: tuple[str, ...] = field(default=(), converter=_to_tuple)
    requires: dict[str, str] = field(factory=dict[str, str], converter=_to_requirements)
    provides: frozenset[str] = field(default=frozenset(), converter=_to_frozenset)
    needs: frozenset[str] = field(default=frozenset(), converter=_to_frozenset)
    provides_with: dict[str, frozenset[str]] = field(factory=dict[str, frozenset[str]], converter=_to_capabilities)
    needs_with: dict[str, frozenset[str]] = field(factory=dict[str, frozenset[str]], converter=_to_capabilities)
    options: dict[str, Any] = field(factory=_empty)
    without_weights: dict[str, Any] = field(factory=_empty)
    without_consent: dict[str, Any] = field(factory=_empty)
    reaches: str = ""
    credentials: frozenset[str] = field(default=frozenset(), converter=_to_frozenset)

    def __attrs_post_init__(self) -> None:
        for name in (self.name, *self.aliases):
            if not (_KEBAB.fullmatch(name) or _PATTERNED.fullmatch(name)):
                raise ComponentError(
                    f"component name {name!r} is not kebab-case (like 'clip-rn50') nor patterned (like 'timm:NAME')"
                )
        if not _FACTORY.fullmatch(self.factory):
            raise ComponentError(
                f"{self.kind} {self.name!r}: factory {self.factory!r} is not of the form 'package.module:attribute'"
            )
        conditional = frozenset[str]().union(*self.provides_with.values(), *self.needs_with.values())
        unknown = sorted((self.provides | self.needs | conditional) - CAPABILITIES)
        if unknown:
            raise ComponentError(
                f"{self.kind} {self.name!r}: unknown capabilities {unknown}; expected some of {sorted(CAPABILITIES)}"
            )
        for requirement in self.requires:
            try:
                Requirement(requirement)
            except InvalidRequirement as error:
                raise ComponentError(f"{self.kind} {self.name!r}: bad requirement {requirement!r}: {error}") from None

    def load_factory(self) -> Any:
        """Import the factory's module and return the factory.

        Raises:
            ComponentError: the module cannot be imported or has no such attribute.
        """
        module_name, _, attribute = self.factory.partition(":")
        try:
            module = import_module(module_name)
        except Exception as error:  # a plugin's module may raise anything; the cause is kept
            raise ComponentError(
                f"{self.kind} {self.name!r}: importing {module_name!r} failed: {type(error).__name__}: {error}"
            ) from error
        try:
            return getattr(module, attribute)
        except AttributeError:
            raise ComponentError(
                f"{self.kind} {self.name!r}: module {module_name!r} has no attribute {attribute!r}"
            ) from None
