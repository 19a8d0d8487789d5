"""The option schema of a component is the signature of its factory. Nothing here imports torch."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import PurePath
from typing import Any, Literal, cast

from attrs import frozen

from clouds.core.component import Component, Kind
from clouds.core.errors import ComponentError, did_you_mean

# What the composer passes by name to a factory that has such a parameter; for heads some are obligatory.
GIVEN: dict[Kind, tuple[str, ...]] = {
    Kind.BACKBONE: (),
    Kind.GENERATOR: (),
    Kind.REFINER: (),
    Kind.HEAD: ("features", "labels", "text_width"),
    Kind.PROMPTER: ("labels",),
}
_OBLIGATORY: dict[Kind, tuple[str, ...]] = {Kind.HEAD: ("features", "labels")}
_FIXED_SHAPE = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@frozen(kw_only=True)
class Schema:
    """The factory of a component and what it accepts.

    Attributes:
        component: whose schema it is.
        factory: the loaded factory.
        given: names that the composer passes.
        options: the parameters that a user may set, by name.
        types: evaluated annotations by parameter name; a parameter without one accepts everything.
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
        """What is wrong with these options, one sentence each; empty when they can be used."""
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
        """All options with their effective values: the user's, then `pretrained`, then the defaults."""
        values = {name: p.default for name, p in self.options.items() if p.default is not inspect.Parameter.empty}
        if "pretrained" in self.options:
            values["pretrained"] = options.get("pretrained", pretrained)
            if values["pretrained"] is False:
                values.update(self.component.without_weights)
        return {**values, **options}

    def arguments(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options as plain JSON values, turned into what the factory's annotations say: lists to tuples, strings to
        paths."""
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


def accepts(hint: Any, value: Any) -> bool:
    """Whether a plain value (as it comes from JSON, TOML or a call) fits a type annotation.

    A list fits a tuple, an int fits a float, a string fits a path; a bool is not an int. Annotations other than
    plain types, unions, literals and containers accept everything: the factory itself checks those.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is None or hint is types.NoneType:
        return value is None
    if origin in (typing.Union, types.UnionType):
        return any(accepts(one, value) for one in arguments)
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in arguments)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(hint, type) and issubclass(hint, PurePath):
        return isinstance(value, (str, PathLike))
    if hint in (str, bool):
        return isinstance(value, hint)
    if origin in (tuple, list, Sequence):
        return _accepts_sequence(origin, arguments, value)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            return False
        pairs = cast("Mapping[Any, Any]", value).items()
        return all(accepts(arguments[0], key) and accepts(arguments[1], item) for key, item in pairs)
    return True


def _accepts_sequence(origin: Any, arguments: tuple[Any, ...], value: Any) -> bool:
    if not isinstance(value, (list, tuple)):
        return False
    items = cast("Sequence[Any]", value)
    if origin is not tuple or arguments[-1:] == (Ellipsis,):
        return all(accepts(arguments[0], item) for item in items)
    return len(items) == len(arguments) and all(
        accepts(hint, item) for hint, item in zip(arguments, items, strict=True)
    )


def to_json_value(value: Any) -> Any:
    """Turn an option into plain JSON types (tuples become lists, paths strings). Raises `TypeError` otherwise."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, PathLike):
        return fspath(cast("PathLike[str]", value))
    if isinstance(value, Mapping):
        return {str(key): to_json_value(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [to_json_value(item) for item in cast("Sequence[Any]", value)]
    raise TypeError(f"{type(value).__name__} is not a plain value")


def from_json_value(hint: Any, value: Any) -> Any:
    """Turn a plain value that `accepts` into one of the annotated type.

    >>> from_json_value(tuple[int, ...], [1, 2])
    (1, 2)
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return from_json_value(next((one for one in arguments if accepts(one, value)), Any), value)
    if isinstance(hint, type) and issubclass(hint, PurePath):
        return hint(value)
    if origin is tuple and arguments[-1:] == (Ellipsis,):
        return tuple(from_json_value(arguments[0], item) for item in value)
    if origin is tuple:
        return tuple(from_json_value(one, item) for one, item in zip(arguments, value, strict=True))
    if origin in (list, Sequence):
        return [from_json_value(arguments[0], item) for item in value]
    if origin in (dict, Mapping):
        return {from_json_value(arguments[0], key): from_json_value(arguments[1], item) for key, item in value.items()}
    return value


def _types(factory: Callable[..., Any], label: str) -> dict[str, Any]:
    """Evaluate the annotations of the parameters; the return annotation may name what is not imported."""
    target = inspect.unwrap(factory.__init__ if inspect.isclass(factory) else factory)  # a decorator has other globals
    holder = types.SimpleNamespace(
        __annotations__={
            k: v for k, v in getattr(target, "__annotations__", {}).items() if k not in ("return", "features")
        }
    )
    try:
        return typing.get_type_hints(holder, globalns=getattr(target, "__globals__", {}))
    except (NameError, TypeError) as error:
        raise ComponentError(
            f"{label} has a wrong signature: an annotation cannot be read: {error}; "
            "import what option annotations name at module level"
        ) from error
