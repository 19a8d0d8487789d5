"""Option schemas of components, read from the signatures of their factories. Nothing here imports torch."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

from clouds.core.contract.component import Component, Kind
from clouds.core.system.errors import ComponentError, did_you_mean
from clouds.core.system.values import accepts, from_json_value

# Parameters that the composer passes to factories that have them; those of `_OBLIGATORY` must be there.
GIVEN: dict[Kind, tuple[str, ...]] = {
    Kind.BACKBONE: (),
    Kind.ADAPTER: ("blocks", "queries"),
    Kind.GENERATOR: (),
    Kind.REFINER: (),
    Kind.HEAD: ("features", "labels", "text_width"),
    Kind.PROMPTER: ("labels",),
}
_OBLIGATORY: dict[Kind, tuple[str, ...]] = {Kind.HEAD: ("features", "labels"), Kind.ADAPTER: ("blocks",)}
_UNREAD = ("return", "features", "blocks")  # annotations that may name what is not imported
_FIXED_SHAPE = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@frozen(kw_only=True)
class Schema:
    """The factory of a component and its options.

    Attributes:
        component: the component.
        factory: the loaded factory.
        given: parameters that the composer passes.
        options: parameters that a user may set, by name.
        types: evaluated annotations by parameter name; parameters without annotation accept everything.
    """

    component: Component
    factory: Callable[..., Any]
    given: tuple[str, ...]
    options: dict[str, inspect.Parameter]
    types: dict[str, Any]

    def __str__(self) -> str:
        shown = [
            parameter.replace(
                kind=inspect.Parameter.KEYWORD_ONLY, annotation=self.types.get(name, inspect.Parameter.empty)
            )
            for name, parameter in self.options.items()
        ]
        return f"{self.component.name}{inspect.Signature(shown)}"

    def faults(self, options: Mapping[str, Any]) -> list[str]:
        """List the faults of options, one sentence each."""
        found: list[str] = []
        for name, value in options.items():
            if name not in self.options:
                hint = did_you_mean(name, self.options) if self.options else "; it takes no options"
                found.append(f"unknown option {name!r}{hint}; the signature is {self}")
            elif not accepts(self.types.get(name, Any), value):
                annotation = self.options[name].annotation
                wanted = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
                found.append(f"option {name}={value!r} is not of type {wanted}; the signature is {self}")
        for name, parameter in self.options.items():
            if parameter.default is inspect.Parameter.empty and name not in options:
                found.append(f"option {name!r} is required; the signature is {self}")
        return found

    def complete(self, options: Mapping[str, Any], *, pretrained: bool) -> dict[str, Any]:
        """Effective values of all options: the user's, else `pretrained`, else the defaults."""
        values = {name: p.default for name, p in self.options.items() if p.default is not inspect.Parameter.empty}
        if "pretrained" in self.options:
            values["pretrained"] = options.get("pretrained", pretrained)
            if values["pretrained"] is False:
                values.update(self.component.without_weights)
        return {**values, **options}

    def arguments(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Convert JSON values to the types that the factory annotates: lists to tuples, strings to paths."""
        return {name: from_json_value(self.types.get(name, Any), value) for name, value in options.items()}


def read_schema(component: Component) -> Schema:
    """Import a component's factory and read its signature.

    Raises:
        ComponentError: the factory cannot be imported, is not callable, or its signature breaks the contract.
    """
    factory = component.load_factory()
    label = f"{component.kind} {component.name!r}: factory {component.factory!r}"
    if not callable(factory):
        raise ComponentError(f"{label} is not callable, but {type(factory).__name__}")
    try:
        parameters = dict(inspect.signature(factory).parameters)
    except ValueError as error:
        raise ComponentError(
            f"{label} has no readable signature: {error}; write a function with keyword options"
        ) from None
    for parameter in parameters.values():
        if parameter.kind not in _FIXED_SHAPE:
            raise ComponentError(
                f"{label} has a wrong signature: {parameter} ({parameter.kind.description}) hides the options; "
                "name every option as a keyword parameter"
            )
    for name in _OBLIGATORY.get(component.kind, ()):
        if name not in parameters:
            raise ComponentError(
                f"{label} has a wrong signature: no parameter {name!r}, which the composer passes to every "
                f"{component.kind}; found ({', '.join(parameters)})"
            )
    conditions = (*component.provides_with, *component.needs_with)
    changed = (*component.without_weights, *component.without_consent)
    for name in (*component.options, *conditions, *changed, *sorted(component.credentials)):
        if name not in parameters:
            raise ComponentError(f"{label} has a wrong signature: no parameter {name!r}, which the component names")
    given = tuple(name for name in GIVEN[component.kind] if name in parameters)
    hidden = {*given, *component.options}
    return Schema(
        component=component,
        factory=factory,
        given=given,
        options={name: p for name, p in parameters.items() if name not in hidden},
        types=_types(factory, label),
    )


def _types(factory: Callable[..., Any], label: str) -> dict[str, Any]:
    """Evaluate the parameters' annotations; the return annotation may use names that are not imported."""
    target = factory.__init__ if inspect.isclass(factory) else factory
    holder = types.SimpleNamespace(
        __annotations__={k: v for k, v in getattr(target, "__annotations__", {}).items() if k not in _UNREAD}
    )
    written = inspect.unwrap(target)  # a decorator may add annotations, but has other globals
    try:
        return typing.get_type_hints(holder, globalns=getattr(written, "__globals__", {}))
    except (NameError, TypeError) as error:
        raise ComponentError(
            f"{label} has a wrong signature: an annotation cannot be read: {error}; "
            "import the names in option annotations at module level"
        ) from error
