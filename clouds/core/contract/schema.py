"""Option schemas of components, read from the signatures of their factories. Nothing here imports torch."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
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
_UNREAD = ("features", "blocks")  # annotations that may name what is not imported
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
        return signature_text(self.component.name, self.options, self.types)

    def faults(self, options: Mapping[str, Any]) -> list[str]:
        """List the faults of options, one sentence each."""
        return option_faults(options, self.options, self.types, str(self))

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


def signature_text(name: str, accepted: Mapping[str, inspect.Parameter], types: Mapping[str, Any]) -> str:
    """A factory's options as a call, with types and defaults."""
    shown = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=types.get(key, inspect.Parameter.empty))
        for key, parameter in accepted.items()
    ]
    return f"{name}{inspect.Signature(shown)}"


def option_faults(
    options: Mapping[str, Any], accepted: Mapping[str, inspect.Parameter], types: Mapping[str, Any], signature: str
) -> list[str]:
    """List the faults of options, one sentence each."""
    found: list[str] = []
    for name, value in options.items():
        if name not in accepted:
            hint = did_you_mean(name, accepted) if accepted else "; it takes no options"
            found.append(f"unknown option {name!r}{hint}; the signature is {signature}")
        elif not accepts(types.get(name, Any), value):
            annotation = accepted[name].annotation
            wanted = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
            found.append(f"option {name}={value!r} is not of type {wanted}; the signature is {signature}")
    for name, parameter in accepted.items():
        if parameter.default is inspect.Parameter.empty and name not in options:
            found.append(f"option {name!r} is required; the signature is {signature}")
    return found


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
        types=read_types(factory, label, unread=_UNREAD),
    )


def read_types(factory: Callable[..., Any], label: str, *, unread: Iterable[str]) -> dict[str, Any]:
    """Evaluate the parameters' annotations; the return's and those of `unread` may use names that are not imported.

    Raises:
        ComponentError: an annotation cannot be read.
    """
    left_out = {"return", *unread}
    target = factory.__init__ if inspect.isclass(factory) else factory
    holder = types.SimpleNamespace(
        __annotations__={k: v for k, v in getattr(target, "__annotations__", {}).items() if k not in left_out}
    )
    written = inspect.unwrap(target)  # a decorator may add annotations, but has other globals
    try:
        return typing.get_type_hints(holder, globalns=getattr(written, "__globals__", {}))
    except (NameError, TypeError) as error:
        raise ComponentError(
            f"{label} has a wrong signature: an annotation cannot be read: {error}; "
            "import the names in option annotations at module level"
        ) from error
